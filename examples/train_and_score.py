"""From pictures to a scored model, the way `fullyconv train` goes: python examples/train_and_score.py [FOLDER]."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import fullyconv
from fullyconv.data.folder import evaluation_split, open_folder
from fullyconv.data.synthetic import write_dataset

SETTINGS = ["epochs=6", "crop=[96,128]", "batch=4", "learning_rate=0.002", "device=cpu", "network=fcn8s-resnet18"]


def fullyconv_command(*words: str) -> None:
    """Run a command as the shell would."""
    subprocess.run([sys.executable, "-m", "fullyconv", *words], check=True)


def main(folder: Path) -> None:
    """Generate, check, train, score."""
    data, run = write_dataset(folder / "shapes", train=48, val=8), folder / "run"
    fullyconv_command("data", "check", str(data))
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
    fullyconv_command("train", "default", "--data", str(data), "--out", str(run), *changes)

    model = fullyconv.load(run / "model", device="cpu")
    pairs = evaluation_split(open_folder(data), "val")
    found = fullyconv.evaluate(model, pairs)
    for name, iu in zip(found.classes.names, found.scores.per_class_iu, strict=True):
        print(f"{name:12} IU {iu:.3f}")
    print(f"{'mean':12} IU {found.scores.mean_iu:.3f}, pixel accuracy {found.scores.pixel_accuracy:.3f}")

    worst = min((iu, name) for name, iu in found.image_iu.items() if not np.isnan(iu))[1]
    picture = next(pair.image for pair in pairs if pair.name == worst)
    model.predict(picture).overlay().save(folder / "worst.png")
    print(f"the worst picture, painted: {folder / 'worst.png'}; everything else: {run / 'report.html'}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(place))
