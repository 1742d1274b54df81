from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import spectral.io.envi
import torch
from PIL import Image
from torch import nn

from fullyconv.files import BadFile
from fullyconv.hsi import segmenter as module
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.formats.by_suffix import save_scene
from fullyconv.hsi.labels import class_set
from fullyconv.hsi.maps import MapOptions, find_scenes, predict_scenes
from fullyconv.hsi.normalise import fit_spectral
from fullyconv.hsi.scene import Georeference, Scene
from fullyconv.hsi.segmenter import SceneSegmenter
from fullyconv.hsi.synthetic import make_scene, random_map, write_large
from fullyconv.memory import PeakMemory
from fullyconv.networks import build
from fullyconv.networks.fcn import FCN
from fullyconv.types import SpectralPreprocess


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


def segmenter(scene: Scene, **options: int) -> SceneSegmenter:
    torch.manual_seed(0)
    fitted = fit_spectral(scene, np.ones(scene.cube.shape[:2], bool), **options)  # type: ignore[arg-type]
    assert scene.classes is not None
    network = FCN(Trunk(fitted.channels), classes=len(scene.classes), skips=2, border="replicate")
    for head in network.heads:
        nn.init.normal_(head.weight)
    return SceneSegmenter(network, classes=scene.classes, preprocess=fitted, device="cpu")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(random_map(75, 61, classes=4, seed=2), class_set(4), bands=12)


def test_one_scene_in_every_format_gives_identical_maps(scene: Scene, tmp_path: Path) -> None:
    model = segmenter(scene, components=5)
    expected = model.predict(scene)
    assert len(np.unique(expected.labels)) > 1
    for suffix in (".mat", ".npz", ".hdr", ".tif", ".npy"):
        save_scene(scene, tmp_path / f"x{suffix}")
        for form in (tmp_path / f"x{suffix}", SceneFiles(tmp_path / f"x{suffix}").open()):
            found = model.predict(form, probabilities=True)
            np.testing.assert_array_equal(found.labels, expected.labels)
            assert found.probabilities is not None
            np.testing.assert_array_equal(found.probabilities.astype(np.float32).argmax(0).shape, found.labels.shape)
    np.testing.assert_array_equal(model.predict(scene.cube).labels, expected.labels)


def test_tiles_give_what_the_whole_gives(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = segmenter(scene)
    model.network.double()
    seen: list[tuple[int, ...]] = []

    def in_float64(self: SpectralPreprocess, cube: np.ndarray) -> np.ndarray:
        seen.append(cube.shape)
        return np.ascontiguousarray(((cube - np.array(self.mean)) / self.std).transpose(2, 0, 1))

    monkeypatch.setattr(SpectralPreprocess, "__call__", in_float64)
    whole = model.predict(scene.cube, probabilities=True)
    assert seen == [scene.cube.shape]
    np.save(tmp_path / "x.npy", scene.cube)
    monkeypatch.setattr(module, "WHOLE_BYTES", 1)
    monkeypatch.setattr("fullyconv.predict.bands.HEIGHTS", (1,))
    for budget in (1, 1 << 20):
        monkeypatch.setattr(module, "TILE_BYTES", budget)
        seen.clear()
        tiled = model.predict(SceneFiles(tmp_path / "x.npy").open(), probabilities=True)
        assert len(seen) > 1
        assert tiled.probabilities is not None
        np.testing.assert_array_equal(tiled.labels, whole.labels)
        # float16 of float32 sums of what agrees to 1e-12
        np.testing.assert_allclose(tiled.probabilities, whole.probabilities, rtol=0, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bands"), [("fcn8s-resnet18", 500), ("fcn8s-spectral8", 200)])
def test_a_wide_reach_takes_less_than_a_gigabyte(tmp_path: Path, name: str, bands: int) -> None:
    """Of a scene that is as wide as those of gigabytes: what is held does not grow with its height."""
    shape = 300, 1600, bands
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint16, shape)
    for row in range(0, shape[0], 50):
        file[row : row + 50] = np.random.default_rng(row).integers(0, 1000, (50, *shape[1:]), np.uint16)
    file.flush()
    del file
    preprocess = SpectralPreprocess(bands, tuple(range(bands)), (500.0,) * bands, (300.0,) * bands)
    network = build(name, 3, channels=bands)
    model = SceneSegmenter(network, classes=class_set(3), preprocess=preprocess, device="cpu")
    assert model.prepared().bands is not None
    with PeakMemory(model.device) as memory:
        labels = model.predict(SceneFiles(tmp_path / "x.npy").open()).labels
    assert labels.shape == shape[:2]
    assert memory.taken < 1 << 30


def test_the_usual_scene_goes_through_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = np.zeros((610, 340, 103), np.uint16)
    cube[..., :] = np.arange(610)[:, None, None]
    model = segmenter(Scene(cube, classes=class_set(9)))

    class Read(Exception):
        """What goes through first."""

    def read(_: SpectralPreprocess, cube: np.ndarray) -> np.ndarray:
        raise Read(cube.shape)

    monkeypatch.setattr(SpectralPreprocess, "__call__", read)
    with pytest.raises(Read, match=r"\(610, 340, 103\)"):
        model.predict(Scene(cube))


def test_what_is_no_scene_of_this_model_is_refused(scene: Scene, tmp_path: Path) -> None:
    model = segmenter(scene)
    with pytest.raises(ValueError, match="wrong band count: 11 bands of uint16: the model was trained on 12"):
        model.predict(scene.cube[..., 1:])
    with pytest.raises(ValueError, match="takes scenes, H x W x 12"):
        model.predict(scene.cube[..., 0])
    broken = scene.cube.astype(np.float32)
    broken[3, 4, 5] = np.inf
    with pytest.raises(ValueError, match="infinity in band 5"):
        model.predict(broken)
    with pytest.raises(ValueError, match="network sees 12 channels, its normalisation gives 5"):
        SceneSegmenter(
            model.network, classes=model.classes,
            preprocess=fit_spectral(scene, np.ones((75, 61), bool), components=5),
        )  # fmt: skip


def test_maps_are_written_where_the_scene_lies_and_a_bad_scene_stops_nothing(scene: Scene, tmp_path: Path) -> None:
    model = segmenter(scene)
    place = Georeference(rasterio.crs.CRS.from_epsg(32632).to_wkt(), (30.0, 0.0, 5e5, 0.0, -30.0, 4.6e6))
    for name, cube in (("a", scene.cube), ("b", scene.cube[..., :5]), ("c", scene.cube[:20])):
        plain = replace(scene, cube=cube, wavelengths=(), labels=None, georeference=place)
        save_scene(plain, tmp_path / "in" / f"{name}.tif")
    (tmp_path / "in" / "d.npy").write_text("no array")
    tasks = find_scenes([tmp_path / "in"])
    outcomes = list(predict_scenes(model, tasks, tmp_path / "out", MapOptions(probabilities=True)))
    assert [outcome.problem is None for outcome in outcomes] == [True, False, True, False]
    assert "b.tif: wrong band count: 5 bands" in str(outcomes[1].problem)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.glob("a*")) == [
        "a.npz", "a.png", "a_classes.hdr", "a_classes.img", "a_classes.tif", "a_false_colour.png", "a_legend.png",
    ]  # fmt: skip
    expected = model.predict(scene).labels + 1
    np.testing.assert_array_equal(np.asarray(Image.open(out / "a.png")), expected)
    with rasterio.open(out / "a_classes.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), expected)
        assert raster.crs.to_epsg() == 32632
        assert raster.transform[:6] == place.transform
        assert raster.colormap(1)[1][:3] == model.classes.colours[0]
    envi = spectral.io.envi.open(str(out / "a_classes.hdr"))
    np.testing.assert_array_equal(envi.read_band(0), expected)
    assert envi.metadata["file type"] == "ENVI Classification"
    assert envi.metadata["class names"] == ["Unclassified", *model.classes.names]
    assert [int(part) for part in envi.metadata["class lookup"][3:6]] == list(model.classes.colours[0])
    with rasterio.open(out / "a_classes.img") as raster:
        assert raster.crs.to_epsg() == 32632
        assert raster.transform[:6] == place.transform
    assert Image.open(out / "a_false_colour.png").size == (61, 75)
    assert np.asarray(Image.open(out / "a_false_colour.png")).std(axis=(0, 1)).min() > 20
    with np.load(out / "a.npz", allow_pickle=False) as file:
        assert file["probabilities"].shape == (4, 75, 61)


def test_maps_beside_their_scene_are_no_scenes_and_are_replaced(scene: Scene, tmp_path: Path) -> None:
    model = segmenter(scene)
    save_scene(replace(scene, labels=None), tmp_path / "a.hdr")
    every = MapOptions(probabilities=True)
    for given in ([tmp_path / "a.hdr"], [tmp_path], [str(tmp_path / "*")]):
        tasks = find_scenes(given, out=tmp_path)
        assert [task.image.name for task in tasks] == ["a.hdr"]
        assert [outcome.problem for outcome in predict_scenes(model, tasks, tmp_path, every)] == [None]
    assert [task.image.name for task in find_scenes([tmp_path], out=tmp_path / "elsewhere")] == ["a.hdr"]
    save_scene(replace(scene, labels=None), tmp_path / "other" / "a.npy")
    with pytest.raises(BadFile, match=r"a\.png: was made of .*a\.hdr, .* of .*a\.npy"):
        list(predict_scenes(model, find_scenes([tmp_path / "other"]), tmp_path, every))
    tasks = find_scenes([tmp_path / "a_classes.tif"], out=tmp_path)
    assert [task.image.name for task in tasks] == ["a_classes.tif"]


LARGE = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_maps import segmenter
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.labels import class_set

scene = SceneFiles(sys.argv[2]).open()
crop = np.array(scene.cube[:200, :200])
model = segmenter(replace(scene, cube=crop, classes=class_set(9)))
labels = model.predict(scene).labels
# Not getrusage: that counts what the process which started this one held.
peak_mib = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) >> 10
rows, columns = model.network.plans
halo = -(-max(rows.reach, columns.reach) // rows.stride) * rows.stride
top, left = 1000 - halo, 2000 - halo
whole = model.predict(np.array(scene.cube[top : 1400 + halo, left : 2400 + halo])).labels
same = np.array_equal(whole[halo:-halo, halo:-halo], labels[1000:1400, 2000:2400])
print(peak_mib, same, len(np.unique(labels)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".hdr"])
def test_a_cube_of_3_gigabytes_is_predicted_in_one_of_memory(suffix: str, tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 5 << 30:
        pytest.skip("less than 5 GiB of disk")
    write_large(tmp_path / f"large{suffix}", size=(4000, 4000), bands=100)
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", LARGE, here, str(tmp_path / f"large{suffix}")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for file in tmp_path.iterdir():
        file.unlink()
    peak_mib, same, classes = result.stdout.split()
    assert int(peak_mib) < 1024
    assert same == "True"
    assert int(classes) > 1
