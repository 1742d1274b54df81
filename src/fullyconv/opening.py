"""Opening a model folder, whatever it labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fullyconv.checkpoint import find_model, load_network
from fullyconv.hsi.segmenter import SceneSegmenter
from fullyconv.machine import ArithmeticName, DeviceName, EngineName
from fullyconv.predict.image import Segmenter
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.types import SpectralPreprocess


def load(
    folder: Path | str,
    *,
    device: DeviceName = "auto",
    precision: ArithmeticName = "float32",
    engine: EngineName = "auto",
    trust: str | Sequence[str] = (),
) -> Segmenter | SceneSegmenter:
    """Open a model folder for prediction.

    Nothing in the folder is run: the network is one of ours, or one that timm or torchvision has under a plain name.

    Args:
        folder: The model folder, ``RUN/model``, or the run ``RUN`` that holds it.
        device: Where to compute; ``auto`` is CUDA where there is one.
        precision: ``float32``; ``bfloat16`` is quicker where the machine has instructions for it; ``int8`` or ``auto``.
        engine: What computes: ``pytorch``, ``openvino``, or ``auto``.
        trust: Functions ``package.module:function`` that may be called to make the network's classifier,
            where the model was made on one of your own.

    Returns:
        A ``SceneSegmenter`` for a model of hyperspectral scenes, else a ``Segmenter``; of a network that was trained
        with a CRF a ``CRFSegmenter``.

    Raises:
        BadFile: If it is no model, is damaged, or would call a function that is not in ``trust``.

    >>> import tempfile
    >>> from fullyconv import build, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     segmenter = load(save(build("fcn32s-resnet18", 2), folder))
    >>> segmenter.classes.names
    ('class_0', 'class_1')

    """
    network, config = load_network(folder, trust=trust)
    if isinstance(config.preprocess, SpectralPreprocess):
        return SceneSegmenter(
            network,
            classes=config.classes,
            preprocess=config.preprocess,
            device=device,
            precision=precision,
            engine=engine,
        )
    segmenter = Segmenter(
        network,
        classes=config.classes,
        preprocess=config.preprocess,
        device=device,
        precision=precision,
        engine=engine,
    )
    segmenter.folder, segmenter.temperature = find_model(Path(folder)), config.temperature
    segmenter.name_heads({name: head.classes for name, head in config.heads.items()})
    for name, head in segmenter.heads.items():
        head.temperature = config.heads[name].temperature
    return segmenter if network.crf is None else CRFSegmenter(segmenter)
