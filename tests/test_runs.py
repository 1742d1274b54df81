"""From Python as from the shell: check, train, what a run gives, items and augmentation of one's own, callbacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from typer.testing import CliRunner

import fullyconv
from fullyconv.cli import app
from fullyconv.data.own import write_items
from fullyconv.data.synthetic import write_dataset
from fullyconv.train.prepare import BadData
from webserver import serving

SMALL: dict[str, Any] = {"network": "fcn32s-resnet18", "crop": (32, 32), "batch": 2, "device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("photos"), train=4, val=2)


def flip(*, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": image[:, ::-1], "mask": mask[:, ::-1]}


class Logger:
    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((metrics, step))


def test_a_run_gives_its_model_scores_and_report(photos: Path, tmp_path: Path) -> None:
    assert fullyconv.check(photos).problems == []
    heard: list[Any] = []
    logger = Logger()
    run = fullyconv.train(
        "default", data=photos, out=tmp_path / "run", epochs=2, callbacks=[heard.append, logger], augment=flip, **SMALL
    )
    assert [line["epoch"] for line in heard] == [1, 2]
    assert [step for _, step in logger.logged] == [1, 2]
    assert all(isinstance(value, float) for value in logger.logged[0][0].values())
    assert run.report.is_file()
    scores = json.loads((run.folder / "evaluation.json").read_text())
    assert scores["mean_iu"] == pytest.approx(run.evaluation.scores.mean_iu)
    assert run.model.evaluate(photos).scores.mean_iu == pytest.approx(run.evaluation.scores.mean_iu)
    found = fullyconv.load(run.folder).predict(next((photos / "val" / "images").iterdir()))
    assert found._repr_png_().startswith(b"\x89PNG")
    assert np.array_equal(np.asarray(Image.open(found.save(tmp_path / "a.png"))), found.labels)
    assert Image.open(found.save(tmp_path / "a.jpg")).size == found.labels.shape[::-1]
    with pytest.raises(ValueError, match=r"saved as \.png"):
        found.save(tmp_path / "a.gif")
    picture = next((photos / "val" / "images").iterdir())
    with serving(picture.read_bytes()) as server:
        words = ["predict", str(run.folder), "-", server.url, "--out", str(tmp_path / "labels")]
        done = CliRunner().invoke(app, words, input=picture.read_bytes())
    assert done.exit_code == 0, done.output
    for name in ("stdin", "data"):
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / "labels" / f"{name}.png")),
            fullyconv.load(run.folder).predict(picture).labels,
        )


def test_predictions_have_a_folder_of_their_own_by_default(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = fullyconv.save(fullyconv.build("fcn32s-resnet18", 2), tmp_path / "model")
    picture = str(next((photos / "val" / "images").iterdir()))
    for _ in range(2):
        assert CliRunner().invoke(app, ["predict", str(model), picture]).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["predict-1", "predict-2"]


class Squares(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = torch.zeros(5, 24, 24, dtype=torch.int16), torch.zeros(24, 24, dtype=torch.long)
        labels[index + 2 :, 4:] = 1
        labels[0] = 255
        return image + labels * (100 + index), labels


@pytest.mark.slow
def test_items_of_ones_own_are_trained_on(tmp_path: Path) -> None:
    splits = {"train": Squares(), "val": [dict(zip(("image", "mask"), Squares()[9], strict=True))]}
    run = fullyconv.train(data=splits, out=tmp_path / "run", classes=("ground", "square"), epochs=1, **SMALL)
    assert run.model.classes.names == ("ground", "square")
    assert run.model.network.in_channels == 5
    assert run.evaluation.void_share == pytest.approx(1 / 24)
    assert run.model.predict(Squares()[1][0]).labels.shape == (24, 24)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (3, "item 0 of train: an image and its labels, not a int"),
        ((np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4))), "labels are H x W whole numbers"),
        ((np.zeros((4,)), np.zeros((4, 4), int)), "an image is H x W x C numbers"),
        ((np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 7)), "a label of class 7, of 2 classes"),
        ((np.zeros((4, 4, 3), np.uint8), np.full((4, 4), -7)), "labels from -7"),
        ({"picture": 1}, "a mapping with image and labels, not picture"),
    ],
)
def test_items_that_are_none_are_named(tmp_path: Path, item: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        write_items(tmp_path / "data", {"train": [item]}, fullyconv.ClassSet(("a", "b")))
    assert not (tmp_path / "data").exists()
    with pytest.raises(ValueError, match="a split is train"):
        write_items(tmp_path / "data", {"training": []})


def test_wrong_words_are_refused_as_by_the_command(photos: Path, tmp_path: Path) -> None:
    for key, said in (("lr", "learning_rate"), ("imgsz", "crop"), ("early_stopping", "patience"), ("epoch", "epochs")):
        with pytest.raises(ValueError, match=f"train: unknown key.*{said}"):
            fullyconv.train(data=photos, out=tmp_path / "run", **{key: 1})
    with pytest.raises(ValueError, match="a callback is a function"):
        fullyconv.train(data=photos, out=tmp_path / "run", callbacks=[3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="the augmentation gave"):
        fullyconv.train(
            data=photos,
            out=tmp_path / "run2",
            augment=lambda image, mask: {"image": image / 255, "mask": mask},
            **SMALL,
        )
    (photos / "val" / "masks").rename(photos / "val" / "gone")
    try:
        with pytest.raises((BadData, ValueError)):
            fullyconv.train(data=photos, out=tmp_path / "run3", **SMALL)
    finally:
        (photos / "val" / "gone").rename(photos / "val" / "masks")


@pytest.mark.slow
def test_a_run_ends_when_validations_get_no_better(photos: Path, tmp_path: Path) -> None:
    heard: list[Any] = []

    class Remarks:
        def remark(self, text: str) -> None:
            heard.append(text)

    run = fullyconv.train(
        data=photos, out=tmp_path / "run", epochs=30, patience=1, learning_rate=1e-9, callbacks=[Remarks()], **SMALL
    )
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) < 30
    assert "(patience)" in heard[0]
    fullyconv.train(data=photos, out=tmp_path / "run", epochs=30, patience=1, learning_rate=1e-9, resume=True, **SMALL)
    assert (run.folder / "metrics.jsonl").read_text().splitlines() == lines


def test_every_key_is_explained() -> None:
    listed = CliRunner().invoke(app, ["train", "--list"])
    assert listed.exit_code == 0
    keys = fullyconv.Recipe.model_fields
    for key in keys:
        assert f"\n{key}=" in "\n" + listed.output
    from fullyconv.train.explain import explain

    assert all(words for _, _, words in explain(fullyconv.Recipe))


def test_albumentations_vary_views_the_same_way_every_time(tmp_path: Path) -> None:
    albumentations = pytest.importorskip("albumentations")
    from fullyconv.augment import Augmentation, augment, sample_rng
    from fullyconv.types import Sample

    change = albumentations.Compose([albumentations.HorizontalFlip(p=0.5), albumentations.GaussNoise(p=1)])
    sample = Sample(
        np.random.default_rng(0).integers(0, 255, (9, 9, 3)).astype(np.uint8), np.eye(9, dtype=np.int16) - 1
    )
    views = [
        augment(sample, Augmentation(change=change), fill=(0, 0, 0), rng=sample_rng(seed=0, epoch=0, index=index))
        for index in (0, 1, 0)
    ]
    assert np.array_equal(views[0].image, views[2].image)
    assert not np.array_equal(views[0].image, views[1].image)
