"""Each decoder on the same trunk, trained for equal minutes on one data set: mean IU, milliseconds and megabytes.

    python benchmarks/decoders.py camvid/ --trunk lite0 --weights tf_efficientnet_lite0.safetensors --minutes 10

The runs are kept in ``--out`` and continued with ``--resume``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from fullyconv import load

DECODERS = ("fcn8s", "fpn4s", "unet", "deeplab-largefov", "deeplab", "segnet", "deconvnet")
SIZE = (360, 480)
REPEATS = 15


def main() -> None:
    """Train, score and time each decoder that the trunk carries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--trunk", default="lite0", help="of our own, or timm:NAME")
    parser.add_argument("--recipe", default="camvid-pretrained")
    parser.add_argument("--weights", help="what the trunk starts from, a file or a model folder")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each decoder")
    parser.add_argument("--decoders", nargs="+", default=DECODERS)
    parser.add_argument("--out", type=Path, default=Path("runs/decoders"))
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    rows = [row for decoder in options.decoders if (row := _row(decoder, options)) is not None]
    print("| decoder | parameters, M | mean IU | ms per picture | model, MB |\n|---|---|---|---|---|")
    for name, count, iu, spent, size in rows:
        print(f"| `{name}` | {count:.2f} | {iu:.3f} | {spent:.0f} | {size:.1f} |")


def _row(decoder: str, options: argparse.Namespace) -> tuple[str, float, float, float, float] | None:
    name = f"{decoder}-{options.trunk}"
    run = options.out / name.replace(":", "-")
    # In a process of its own: what one decoder leaves in memory does not slow the next one down.
    command = [
        sys.executable,
        "-m",
        "fullyconv",
        "train",
        options.recipe,
        "--data",
        str(options.data),
        "--out",
        str(run),
    ]
    command += [f"--set=network={name}", f"--set=minutes={options.minutes}"]
    command += [f"--set=start_from={options.weights}"] if options.weights else []
    command += ["--resume"] if options.resume and run.is_dir() else []
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1][:200]}", file=sys.stderr)
        return None
    model = load(run / "model")
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    model.predict(picture)
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        model.predict(picture)
        spent.append(1000 * (time.perf_counter() - start))
    count = sum(each.numel() for each in model.network.parameters()) / 1e6
    size = (run / "model" / "model.safetensors").stat().st_size / 2**20
    score = json.loads((run / "evaluation.json").read_text())["mean_iu"]
    return name, count, score, statistics.median(spent), size


if __name__ == "__main__":
    main()
