"""A network as Caffe's files, in the forms and under the names of the papers' release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fullyconv.caffe.margins import covered, crop_fields, repeated
from fullyconv.caffe.text import Blob, Value, Written, sides, to_text
from fullyconv.caffe.trunk import TrunkWriter, convolution
from fullyconv.caffe.wire import write_weights
from fullyconv.files import write_text
from fullyconv.networks import CLASSIFIERS, architecture_of
from fullyconv.networks.classifier import Classifier
from fullyconv.networks.crf import WITHOUT_CRF
from fullyconv.networks.fcn import FCN
from fullyconv.networks.fusion import WEIGHTS, LateFusion
from fullyconv.networks.heads import ManyHeads
from fullyconv.networks.reference import REFERENCES
from fullyconv.types import FIRST_HEAD, Preprocess
from fullyconv.upsample import Upsample, bilinear_taps

PIXELS = "# pixels: "  # before the normalisation, on a description's first line
PROTOTXT, CAFFEMODEL = "deploy.prototxt", "weights.caffemodel"
SIDE = 500  # the height and width written as the input's default
FIRST_OF_FOUR = {"conv1_1": "conv1_1_bgrd"}  # renamed, for its weights no longer fit the three-channel net's

# The layer of each classifier that scores its classes.
CLASSIFIER_SCORES = {
    "vgg16": "fc8", "caffenet": "fc8", "alexnet": "fc8", "googlenet": "loss3/classifier", "lenet": "ip2"
}  # fmt: skip


def pixels_line(preprocess: Preprocess | None) -> str:
    """Write a normalisation as a comment: ``# pixels: {"order": "BGR", "mean": […], "std": […]}``; nothing for none."""
    if preprocess is None:
        return ""
    said = {"order": preprocess.order, "mean": list(preprocess.mean), "std": list(preprocess.std)}
    return f"{PIXELS}{json.dumps(said)}\n"


def bilinear_bank(upsampler: Upsample) -> Tensor:
    """Write a fixed upsampler as the release does: C x C x k x k, bilinear on the diagonal, zero elsewhere."""
    kernel = torch.outer(bilinear_taps(upsampler.kernel[0]), bilinear_taps(upsampler.kernel[1])).float()
    bank = torch.zeros(upsampler.channels, upsampler.channels, *kernel.shape)
    bank[range(upsampler.channels), range(upsampler.channels)] = kernel
    return bank


class _Writer:
    """Collects the layers of a network; ``sized`` leaves out what makes its input whole multiples of a stride."""

    def __init__(self, net: FCN | Classifier, *, sized: bool = False) -> None:
        self.net, self.name, self.sized = net, architecture_of(net).name, sized
        self.layers: list[Written] = []
        reference = REFERENCES.get(self.name)
        self.streams = reference.streams if reference else ()
        # The release leaves AlexNet's trunk at Caffe's own factors.
        self.rated = not any(trunk in self.name for trunk in ("alexnet", "caffenet"))

    def add(self, name: str, kind: str, bottoms: tuple[str, ...], fields: dict[str, Value]) -> str:
        self.layers.append(Written(name, kind, bottoms, name, fields))
        return name

    def input(self, name: str, channels: int, side: int = SIDE) -> str:
        shape: dict[str, Value] = {"dim": [1, channels, side, side]}
        return self.add(name, "Input", (), {"shape": shape})

    def covered(self, bottom: str, channels: int) -> str:
        """Write the zeros that the trunk needs around a picture, if any."""
        plans = cast("FCN", self.net).plans
        margins = [plan.margin for plan in plans]
        multiples = [1 if self.sized else plan.multiple for plan in plans]
        if not any(margins) and max(multiples) == 1:
            return bottom
        self.layers += covered(f"{bottom}_covered", bottom, channels, margins, multiples)
        return self.layers[-1].top

    def trunk(self, place: str, bottom: str, suffix: str = "") -> list[str]:
        """Write a trunk and give its maps, coarse to fine."""
        renamed = FIRST_OF_FOUR if self.streams[1:] == ("depth",) else {}
        trunk = self.net.trunk if isinstance(self.net, Classifier) else self.net.streams[place]
        writer = TrunkWriter(trunk, bottom, prefix=place, suffix=suffix, renamed=renamed, rated=self.rated)
        self.layers += writer.layers
        return writer.outputs[::-1]

    def convolution(self, module: nn.Module, name: str, bottom: str, path: str) -> str:
        self.layers.append(convolution(cast("nn.Conv2d", module), name, bottom, path=path))
        return name


class _Ladder:
    """Writes the score layers, skips and upsampling of one task of an FCN."""

    def __init__(self, writer: _Writer, net: FCN, reference: str, suffix: str = "") -> None:
        self.writer, self.net, self.reference, self.suffix = writer, net, reference, suffix

    def scores(self, maps: list[str], place: str, stream: str = "") -> list[str]:
        """Write a score layer for each map, coarse to fine, and give their blobs."""
        blobs = []
        for index, (head, features, scale) in enumerate(
            zip(self.net.score_layers[place], maps, self.net.scales, strict=False)
        ):
            name = f"score_{features.removesuffix(stream) if index else 'fr'}{self.suffix}{stream}"
            seen = features if scale == 1 else self._scale(features, scale, cast("nn.Conv2d", head).in_channels)
            blobs.append(self.writer.convolution(head, name, seen, f"{place}.{index}"))
        return blobs

    def _scale(self, features: str, scale: float, channels: int) -> str:
        name = f"scale_{features}"
        blob = Blob(torch.full((channels,), scale, device="cpu"), rate=0.0, fixed=True)
        fields: dict[str, Value] = {"filler": {"value": scale}}
        self.writer.layers.append(Written(name, "Scale", (features,), name, fields, (blob,)))
        return name

    def climb(self, scores: list[str], maps: list[str], place: str) -> None:
        """Write upsampling and fusion, coarse to fine, up to the crop to the image."""
        stages, fused = self.net.plans[0].stages, scores[0]
        for index, fine in enumerate(scores[1:]):
            name = f"upscore_{maps[index]}" if index else f"upscore{stages[index].factor}"
            up, offsets = self._upsample(place, index, fused, name + self.suffix)
            if max(offsets) < 0:
                fine = self._crop(f"{fine}c", fine, up, [-offset for offset in offsets])
            elif min(offsets) >= 0:
                up = self._crop(f"{up}c", up, fine, offsets)
            else:
                raise ValueError(f"{fine} starts first along one axis only: Caffe crops one of two maps, not both")
            name = f"fuse_{maps[index + 1]}{self.suffix}"
            fused = self.writer.add(name, "Eltwise", (up, fine), {"operation": self.net.fusion.upper()})
        last = len(scores) - 1
        if is_whole(self.net):
            upsampler = cast("Upsample", self.net.ladders[place][0])
            fused, offsets = self._repeated(fused, [plan.stages[0].offset for plan in self.net.plans], upsampler)
            self._crop(f"score{self.suffix}", fused, self.reference, offsets)
            return
        name = f"upscore{stages[last].factor}" if last and stages[last].factor != stages[0].factor else "upscore"
        up, offsets = self._upsample(place, last, fused, name + self.suffix)
        self._crop(f"score{self.suffix}", up, self.reference, offsets)

    def _crop(self, name: str, source: str, reference: str, offsets: list[int]) -> str:
        if min(offsets) < 0:
            raise ValueError(f"{source} starts after {reference}: Caffe cannot crop by {min(offsets)}")
        return self.writer.add(name, "Crop", (source, reference), crop_fields(offsets))

    def _upsample(self, place: str, index: int, bottom: str, name: str) -> tuple[str, list[int]]:
        """Write a step up, and return its blob with the units of it that lie on the first of the finer map."""
        upsampler = cast("Upsample", self.net.ladders[place][index])
        stages = [plan.stages[index] for plan in self.net.plans]
        offsets = [stage.offset for stage in stages]
        if all(stage.crops for stage in stages):
            bottom, offsets = self._repeated(bottom, offsets, upsampler)
        fields: dict[str, Value] = {"num_output": upsampler.channels, "bias_term": False}
        fields |= sides("kernel_size", upsampler.kernel) | sides("stride", upsampler.stride, 1)
        if upsampler.weight is None:
            blob = Blob(bilinear_bank(upsampler), rate=0.0)
        else:
            fields["group"] = upsampler.channels
            blob = Blob(upsampler.weight.detach(), f"{place}.{index}.weight", 1.0)
        self.writer.layers.append(Written(name, "Deconvolution", (bottom,), name, fields, (blob,)))
        return name, offsets

    def _repeated(self, bottom: str, offsets: list[int], upsampler: Upsample) -> tuple[str, list[int]]:
        """Repeat a map's border where that matters; returns its blob, and offsets in its enlarged form with that."""
        plans = self.net.plans
        within = all(plan.fits(length, "zero") for plan in plans for length in range(1, plan.stride + 1))
        if upsampler.border == "zero" or (max(upsampler.kernel) == 1 and within):
            return bottom, offsets
        self.writer.layers += repeated(f"{bottom}_repeated", bottom, upsampler.channels)
        ends = [offset + step for offset, step in zip(offsets, upsampler.stride, strict=True)]
        return self.writer.layers[-1].top, ends


def is_whole(net: FCN) -> bool:
    """Return whether scores lie on the image's own pixels: decoders that go all the way up need no upsampling."""
    stages = [stage for plan in net.plans for stage in plan.stages]
    finest = len(stages) == len(net.plans) and net.upsampling == "fixed"
    return finest and all((stage.kernel, stage.factor) == (1, 1) for stage in stages)


def network_layers(net: FCN | Classifier, *, sized: bool = False) -> list[Written]:
    """Return the layers of a network built by name, in the form of a deploy file.

    With ``sized`` it takes only sides that are multiples of its stride, as SegNet's own files do.
    Raises ``ValueError`` for what Caffe has no layer for.
    """
    writer = _Writer(net, sized=sized)
    if getattr(net, "crf", None) is not None:
        raise ValueError(f"{writer.name} was trained with a CRF, for which Caffe has no layer: {WITHOUT_CRF}")
    if isinstance(net, Classifier):
        _classifier(writer, net)
    elif isinstance(net, LateFusion):
        _late_fusion(writer, net)
    else:
        _single(writer, net)
    return writer.layers


def _single(writer: _Writer, net: FCN) -> None:
    if writer.streams:
        parts = (writer.input(writer.streams[0], net.in_channels - 1), writer.input(writer.streams[1], 1))
        data = writer.add("data", "Concat", parts, {})
    else:
        multiple = max(plan.multiple for plan in net.plans) if writer.sized else 1
        data = writer.input("data", net.in_channels, -(-SIDE // multiple) * multiple)
    maps = writer.trunk("trunk", writer.covered(data, net.in_channels))
    suffixes = [""]
    if isinstance(net, ManyHeads):  # of the release: _sem, _geo
        names = (FIRST_HEAD, *net.tasks)
        suffixes = [f"_{name[:3] if writer.name in REFERENCES else name}" for name in names]
    for suffix, heads, upsamplers in zip(suffixes, net.score_layers, net.ladders, strict=True):
        ladder = _Ladder(writer, net, data, suffix)
        ladder.climb(ladder.scores(maps, heads), maps, upsamplers)


def _late_fusion(writer: _Writer, net: LateFusion) -> None:
    first, second = writer.streams
    channels = (net.first_channels, net.in_channels - net.first_channels)
    blobs = [writer.input(stream, wide) for stream, wide in zip(writer.streams, channels, strict=True)]
    seen = [writer.covered(blob, wide) for blob, wide in zip(blobs, channels, strict=True)]
    maps, others = writer.trunk("trunk", seen[0], first), writer.trunk("second", seen[1], second)
    ladder = _Ladder(writer, net, first)
    pairs = zip(ladder.scores(maps, "heads", first), ladder.scores(others, "second_heads", second), strict=True)
    names = [blob.removesuffix(first) for blob in maps]
    fused = []
    for index, pair in enumerate(pairs):
        name = f"score_{names[index]}_fused" if index else "score_fused"
        fused.append(writer.add(name, "Eltwise", pair, {"operation": "SUM", "coeff": list(WEIGHTS)}))
    ladder.climb(fused, names, "upsamplers")


def _classifier(writer: _Writer, net: Classifier) -> None:
    channels = next(layer.in_channels for layer in net.trunk.modules() if isinstance(layer, nn.Conv2d))
    maps = writer.trunk("trunk", writer.input("data", channels, CLASSIFIERS[writer.name].side))
    score = writer.convolution(net.score, CLASSIFIER_SCORES[writer.name], maps[0], "score")
    writer.add("score", "Pooling", (score,), {"pool": "AVE", "global_pooling": True})


def export(net: FCN | Classifier, folder: Path | str, preprocess: Preprocess | None = None) -> tuple[Path, Path]:
    """Write a network as Caffe's files.

    Layers have the names of the papers' release, fixed upsampling its dense bilinear weights, so the files serve Caffe
    and come back through ``import_model`` bit for bit. SegNet and DeconvNet are written with SegNet's layers
    (``Upsample`` by places). Zeros around a picture and borders that repeat are written as layers that have no weights
    to learn (``caffe.margins``), so images of every size give what they give here.

    Args:
        net: A network of ``build``.
        folder: Where ``deploy.prototxt`` and ``weights.caffemodel`` go; made if it is missing.
        preprocess: How its pixels are normalised, which no layer of Caffe's says: a comment on the first line of the
            description keeps it, and ``fullyconv caffe import`` reads it there.

    Returns:
        The paths of the two files.

    Raises:
        ValueError: For a network that Caffe has no layers for.

    >>> import tempfile
    >>> from fullyconv.networks import build
    >>> with tempfile.TemporaryDirectory() as place:
    ...     [path.name for path in export(build("lenet"), place)]
    ['deploy.prototxt', 'weights.caffemodel']
    """
    layers = network_layers(net)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    prototxt, caffemodel = folder / PROTOTXT, folder / CAFFEMODEL
    name = architecture_of(net).name
    write_text(prototxt, pixels_line(preprocess) + to_text(name, layers))
    blobs = {
        layer.name: (layer.kind, [blob.values.float().cpu().numpy() for blob in layer.blobs])
        for layer in layers
        if layer.blobs
    }
    write_weights(caffemodel, name, blobs)
    return prototxt, caffemodel
