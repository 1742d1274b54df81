"""What each ingredient of a training is worth: one changed at a time, equal views seen, scored on ``val``.

    python benchmarks/ablation.py camvid/ --weights tf_efficientnet_lite0.safetensors --epochs 6
    python benchmarks/ablation.py camvid/ --weights tf_efficientnet_lite0.safetensors --epochs 36 --set crop=[240,320]

Runs are kept in ``--out``; what is there already is not trained again, so a study that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

BASE: dict[str, str] = {"crop": "[180, 240]", "average": "0.99", "validate_every": "100", "minutes": "600"}
CHANGES: dict[str, dict[str, str]] = {
    "nothing: `fpn4s-lite0` from ImageNet's weights": {},
    "from fresh weights": {"start_from": ""},
    "scores at stride 8": {"network": "fpn8s-lite0"},
    "loss with Lovász-softmax": {"loss": "cross-entropy+lovasz"},
    "classes not balanced": {"balance": "0"},
    "no zoom": {"scale": "[1.0, 1.0]"},
    "no average of weights": {"average": "0"},
    "the hardest half of the pixels": {"hardest": "0.5"},
    "turned by up to 10 degrees": {"rotation": "10"},
    "no change of colours, no blur": {"colour": "0", "blur": "0"},
    "whole pictures, fewer epochs (equal pixels)": {"crop": "[360, 480]", "epochs": "1/4"},
    "loss with Dice": {"loss": "cross-entropy+dice"},
    "twice as long": {"epochs": "2"},
    "zoom 0.9 to 1.2": {"scale": "[0.9, 1.2]"},
    "zoom 0.5 to 2": {"scale": "[0.5, 2.0]"},
    "twice the change of colours, blur, noise": {"colour": "0.8", "blur": "1.2", "noise": "8"},
    "decoder: `unet-lite0`": {"network": "unet-lite0"},
    "decoder: `deeplab-lite0`": {"network": "deeplab-lite0"},
}
SMALL = ("pole", "sign", "pedestrian")
AFTERWARDS: dict[str, list[str]] = {
    "mirrored too": ["--tta", "flip"],
    "mirrored, at 0.75, 1 and 1.25 of the size": ["--tta", "flip,scales=0.75,1,1.25"],
    "dense CRF": ["--crf"],
}


def main() -> None:
    """Train, score, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="camvid-pretrained")
    parser.add_argument("--weights", required=True, help="what the trunk starts from")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, for all")
    parser.add_argument("--first", type=int, default=len(CHANGES), help="make only so many of the changes")
    options = parser.parse_args()
    plain = _train(options, 0, {})
    rows = [
        (name, _train(options, number, change))
        for number, (name, change) in enumerate(list(CHANGES.items())[: options.first])
    ]
    rows += [(f"{name}, the first model", _score(options, how)) for name, how in AFTERWARDS.items()]
    print(f"| changed | mean IU | | {' | '.join(SMALL)} |\n|---|---|---|{'---|' * len(SMALL)}")
    for name, found in rows:
        gained = found["mean_iu"] - plain["mean_iu"]
        small = " | ".join(f"{found[each]:.3f}" for each in SMALL)
        print(f"| {name} | {found['mean_iu']:.3f} | {gained:+.3f} | {small} |")


def _train(options: argparse.Namespace, number: int, change: dict[str, str]) -> dict[str, float]:
    run: Path = options.out / f"{number:02}"
    scores = run / "evaluation.json"
    if not scores.is_file():
        common = BASE | dict(each.split("=", 1) for each in options.set)
        settings = common | {"start_from": options.weights} | change
        longer = settings.pop("epochs", "1").split("/")
        settings["epochs"] = str(max(1, round(options.epochs * int(longer[0]) / int((*longer, "1")[1]))))
        command = [sys.executable, "-m", "fullyconv", "train", options.recipe]
        command += ["--data", str(options.data), "--out", str(run)]
        command += [f"--set={key}={value}" for key, value in settings.items() if value]
        command += ["--resume"] if run.is_dir() else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return _read(scores)


def _score(options: argparse.Namespace, how: list[str]) -> dict[str, float]:
    """Score the first model in another way."""
    scores = options.out / f"{'-'.join(how).strip('-').replace(',', '-')}.json"
    if not scores.is_file():
        command = [sys.executable, "-m", "fullyconv", "evaluate", str(options.out / "00" / "model"), str(options.data)]
        command += ["--json", str(scores), *how]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return _read(scores)


def _read(scores: Path) -> dict[str, float]:
    found = json.loads(scores.read_text())
    found = found.get("after", found)  # of the CRF
    return {"mean_iu": found["mean_iu"], **dict(zip(found["classes"], found["per_class_iu"], strict=True))}


if __name__ == "__main__":
    main()
