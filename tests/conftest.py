from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from fullyconv.data.synthetic import write_dataset
from fullyconv.networks.trunks import vgg

torch.set_num_threads(1)  # several test processes share the machine
settings.register_profile("shared", deadline=None)  # a busy machine is no failure
settings.load_profile("shared")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set."""
    return write_dataset(tmp_path_factory.mktemp("data") / "shapes", train=6, val=3)


@pytest.fixture
def narrow_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks on VGG-16 be built with a few channels: strides, paddings and names are those of the wide ones."""
    monkeypatch.setattr(vgg, "BLOCKS", [(convolutions, 4) for convolutions, _ in vgg.BLOCKS])
    monkeypatch.setattr(vgg, "HIDDEN", 16)


@pytest.fixture
def camvid() -> Path:
    """The real CamVid folder, where it is at hand."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"
    if not folder.is_dir():
        pytest.skip("CamVid is not beside the repository (../shared/data/camvid)")
    return folder


@pytest.fixture
def hyperspectral() -> Path:
    """The folder of real hyperspectral data, where it is at hand."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "hyperspectral"
    if not folder.is_dir():
        pytest.skip("hyperspectral data are not beside the repository (../shared/data/hyperspectral)")
    return folder
