"""What must work after ``pip install fullyconv``, without any extra and outside the repository: see ``make smoke``."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path

import numpy as np

import fullyconv


def command(*arguments: str) -> str:
    """Run a command of the installed package."""
    script = Path(sys.executable).with_name("fullyconv")
    done = subprocess.run([script, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def main() -> None:
    """Check the package's files, then train, score, predict and write a report."""
    home = Path(fullyconv.__file__).parent
    assert "site-packages" in home.parts, f"not the installed package: {home}"
    assert (home / "py.typed").is_file()
    assert {path.name for path in home.glob("*/templates/*.html")} >= {
        "page.html",
        "parts.html",
        "run.html",
        "scene.html",
    }
    assert version("fullyconv") == fullyconv.__version__
    assert {line.split(",")[0] for line in metadata("fullyconv").get_all("Project-URL") or ()} >= {
        "Changelog",
        "Homepage",
    }
    assert "camvid" in command("models")
    assert len(fullyconv.load("camvid").classes) == 11
    assert command("--version").split() == ["fullyconv", fullyconv.__version__]

    command("data", "demo", "shapes", "--train", "4", "--val", "2")
    tiny = ["--set", "epochs=1", "--set", "crop=[64,64]", "--set", "batch=2", "--set", "device=cpu"]
    command("train", "default", "--data", "shapes", "--out", "run", *tiny)
    assert "mean IU" in Path("run/report.html").read_text(encoding="utf-8")
    command("evaluate", "run/model", "shapes", "--json", "scores.json")
    assert 0 <= json.loads(Path("scores.json").read_text())["pixel_accuracy"] <= 1
    command("predict", "run/model", "shapes/val/images", "--out", "labelled")
    assert len(list(Path("labelled").glob("*_overlay.jpg"))) == 2

    network = fullyconv.build("fcn8s-resnet18", classes=3)
    fullyconv.save(network, "model")
    labels = fullyconv.load("model", device="cpu").predict(np.zeros((33, 47, 3), np.uint8)).labels
    assert labels.shape == (33, 47)
    print(f"{home}: the installed package works")


main()
