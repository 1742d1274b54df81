"""CONTRIBUTING's promise: an operation, a trunk, a decoder or a data set is added in exactly the places it names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

import fullyconv
from contracts.test_datasets import CASES
from fullyconv import networks
from fullyconv.data import folder as data_folder
from fullyconv.data.pairs import Folder, Places, pair_all
from fullyconv.files import BadFile
from fullyconv.networks import trunks
from fullyconv.networks.fcn import FCN
from fullyconv.surgery.layers import without_weights
from fullyconv.trace import NotFollowed, operations, outputs
from fullyconv.train.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = re.findall(r"^## Add an? ([\w ]+)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)


def places(text: str) -> list[tuple[str, str]]:
    """The numbered places of a section: a file, and a name within it if one is given."""
    return re.findall(r"^\d\. `([^`]+)`(?:, `([^`]+)`)?:", text, re.MULTILINE)


def test_four_things_can_be_added() -> None:
    assert [kind for kind, _ in SECTIONS] == ["operation", "trunk", "decoder", "data set"]


@pytest.mark.parametrize(("kind", "text"), SECTIONS, ids=[kind for kind, _ in SECTIONS])
def test_each_takes_three_places_that_exist(kind: str, text: str) -> None:
    found = places(text)
    assert len(found) == 3
    for file, name in found:
        files = list(ROOT.glob(file.replace("NAME", "*")))
        assert files, f"{kind}: no {file}"
        if name:
            assert re.search(rf"^(def |class )?{name}\b", (ROOT / file).read_text(), re.MULTILINE), (
                f"{file} has no {name}"
            )


def test_an_operation_is_followed_by_its_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Hardswish())
    assert outputs(network).strides == (2, 2)
    monkeypatch.delitem(operations.BY_LAYER, nn.Hardswish)
    with pytest.raises(NotFollowed, match="Hardswish"):
        outputs(network)


class Tiny(nn.Module):
    """A trunk with maps at strides 2 and 4."""

    channels = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.first(image).relu()
        return fine, self.second(fine).relu()


def test_a_trunk_is_known_everywhere_by_its_two_entries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fcn2s-tiny"):
        fullyconv.build("fcn2s-tiny", 3)
    monkeypatch.setitem(trunks.BACKBONES, "tiny", Tiny)
    monkeypatch.setitem(networks.VARIANTS, "tiny", ("fcn4s", "fcn2s"))
    assert {"fcn4s-tiny", "fcn2s-tiny"} <= set(networks.network_names())
    assert Recipe(network="fcn2s-tiny").network_name == "fcn2s-tiny"
    fullyconv.save(fullyconv.build("fcn2s-tiny", 3), tmp_path / "model")
    labels = fullyconv.load(tmp_path / "model", device="cpu").predict(np.zeros((9, 13, 3), np.uint8)).labels
    assert labels.shape == (9, 13)


def test_every_trunk_has_its_places() -> None:
    used = {reference.trunk for reference in networks.REFERENCES.values()}
    assert set(trunks.BACKBONES) <= set(networks.VARIANTS) | used
    for name, make in trunks.BACKBONES.items():
        home = inspect.unwrap(getattr(make, "func", make)).__module__  # type: ignore[arg-type]
        assert home.startswith("fullyconv.networks.trunks."), name


def decoders() -> list[type[FCN]]:
    modules = [import_module(f"fullyconv.networks.{each.name}") for each in iter_modules(networks.__path__)]
    return list(dict.fromkeys(each for module in modules for each in vars(module).values() if is_decoder(each)))


def is_decoder(thing: object) -> bool:
    return inspect.isclass(thing) and issubclass(thing, FCN) and thing is not FCN


def test_every_decoder_is_built_by_the_name_of_a_reference() -> None:
    made = {type(without_weights(lambda name=name: fullyconv.build(name))) for name in networks.REFERENCES}  # type: ignore[misc]
    assert len(decoders()) >= 2
    assert set(decoders()) <= made


def test_a_data_set_is_opened_by_its_two_functions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def is_toy(root: Path) -> bool:
        return (root / "TOY").is_dir()

    def open_toy(root: Path) -> Folder:
        folder = Folder(root)
        folder.splits["train"] = pair_all(folder, Places(root / "TOY", root / "TOY-labels"))
        return folder

    for name in ("TOY", "TOY-labels"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 3)).save(tmp_path / name / "a.png")
    with pytest.raises(BadFile):
        data_folder.open_folder(tmp_path)
    monkeypatch.setattr(data_folder, "OFFICIAL", ((is_toy, open_toy), *data_folder.OFFICIAL))
    assert [pair.name for pair in data_folder.open_folder(tmp_path).splits["train"]] == ["a"]


@pytest.mark.parametrize(("fits", "opens"), data_folder.OFFICIAL, ids=lambda each: each.__name__)
def test_every_data_set_has_a_module_and_a_case(
    fits: Callable[[Path], bool], opens: Callable[[Path], Folder], tmp_path: Path
) -> None:
    assert fits.__module__ == opens.__module__
    assert fits.__module__.startswith("fullyconv.data.")
    made = [case.make(tmp_path / name) / case.folder for name, case in CASES.items() if not (tmp_path / name).mkdir()]
    assert any(fits(root) for root in made)
