from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fullyconv import Segmenter
from fullyconv.data.scenes.files import open_scene, save_scene
from fullyconv.data.scenes.labels import class_set
from fullyconv.data.scenes.normalise import fit_spectral
from fullyconv.data.scenes.synthetic import make_scene, random_map
from fullyconv.models.fcn import FCN
from fullyconv.predict import image as module
from fullyconv.types import Scene, SpectralPreprocess


class Trunk(nn.Module):
    """Three maps at strides 1, 2 and 4."""

    channels = (8, 8, 8)

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(bands, 8, 1)
        self.fine = nn.Conv2d(8, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        fine = torch.relu(self.fine(torch.relu(self.first(x))))
        middle = torch.relu(self.middle(fine))
        return fine, middle, torch.relu(self.coarse(middle))


def segmenter(scene: Scene, **options: int) -> Segmenter:
    torch.manual_seed(0)
    fitted = fit_spectral(scene, np.ones(scene.cube.shape[:2], bool), **options)  # type: ignore[arg-type]
    assert scene.classes is not None
    network = FCN(Trunk(fitted.channels), classes=len(scene.classes), skips=2, border="replicate")
    for head in network.heads:
        nn.init.normal_(head.weight)
    return Segmenter(network, classes=scene.classes, preprocess=fitted, device="cpu")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(random_map(75, 61, classes=4, seed=2), class_set(4), bands=12)


def test_one_scene_in_every_format_gives_identical_maps(scene: Scene, tmp_path: Path) -> None:
    model = segmenter(scene, components=5)
    expected = model.predict(scene)
    assert len(np.unique(expected.labels)) > 1
    for suffix in (".mat", ".npz", ".hdr", ".tif", ".npy"):
        save_scene(scene, tmp_path / f"x{suffix}")
        for form in (tmp_path / f"x{suffix}", open_scene(tmp_path / f"x{suffix}")):
            found = model.predict(form, probabilities=True)
            np.testing.assert_array_equal(found.labels, expected.labels)
            assert found.probabilities is not None
            np.testing.assert_array_equal(found.probabilities.astype(np.float32).argmax(0).shape, found.labels.shape)
    np.testing.assert_array_equal(model.predict(scene.cube).labels, expected.labels)


def test_tiles_give_what_the_whole_gives(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = segmenter(scene)
    model.network.double()
    monkeypatch.setattr(
        SpectralPreprocess,
        "__call__",
        lambda self, cube: np.ascontiguousarray(((cube - np.array(self.mean)) / self.std).transpose(2, 0, 1)),
    )
    whole = model.scores(scene.cube)
    np.save(tmp_path / "x.npy", scene.cube)
    monkeypatch.setattr(module, "WHOLE_BYTES", 1)
    for budget in (1, 1 << 20):
        monkeypatch.setattr(module, "TILE_BYTES", budget)
        tiled = torch.full_like(whole, torch.nan)
        count = 0
        for rows, columns, scores in model._tiles(open_scene(tmp_path / "x.npy").cube):
            tiled[:, rows, columns] = scores
            count += 1
        assert count > 1
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)


def test_the_usual_scene_goes_through_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = np.zeros((610, 340, 103), np.uint16)
    cube[..., :] = np.arange(610)[:, None, None]
    model = segmenter(Scene(cube, classes=class_set(9)))
    assert [(rows, columns) for rows, columns, _ in model._tiles(cube)] == [(slice(0, 610), slice(0, 340))]


def test_what_is_no_scene_of_this_model_is_refused(scene: Scene, tmp_path: Path) -> None:
    model = segmenter(scene)
    with pytest.raises(ValueError, match="wrong band count: 11 bands of uint16: the model was trained on 12"):
        model.predict(scene.cube[..., 1:])
    with pytest.raises(ValueError, match="takes scenes, H x W x 12"):
        model.predict(scene.cube[..., 0])
    broken = scene.cube.astype(np.float32)
    broken[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in band 5"):
        model.predict(broken)
    with pytest.raises(ValueError, match="network sees 12 channels, its normalisation gives 5"):
        Segmenter(
            model.network, classes=model.classes,
            preprocess=fit_spectral(scene, np.ones((75, 61), bool), components=5),
        )  # fmt: skip
