"""Seconds and peak memory of ``fullyconv predict`` for one image, each in a process of its own.

    python benchmarks/predict.py RUN/model

Prints one row per image size: wall seconds of the whole command, seconds of the prediction alone, and the
largest resident memory of the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((500, 500), (4000, 3000))  # width, height

CHILD = """
import json, resource, sys, time
started = time.perf_counter()
import fullyconv
model = fullyconv.load(sys.argv[1], precision=sys.argv[3])
loaded = time.perf_counter()
prediction = model.predict(sys.argv[2])
done = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"predict": done - loaded, "all": done - started, "peak": peak, "size": prediction.labels.shape}))
"""


def picture(width: int, height: int, path: Path) -> None:
    """Write a smooth random picture."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)


def main() -> None:
    """Measure and print."""
    model = sys.argv[1]
    print("| image | arithmetic | predict s | with start-up s | peak memory MiB |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for width, height in SIZES:
            path = Path(folder) / f"{width}.png"
            picture(width, height, path)
            for precision in ("fp32", "bf16"):
                runs = [
                    json.loads(subprocess.check_output([sys.executable, "-c", CHILD, model, str(path), precision]))
                    for _ in range(3)
                ]
                best = min(runs, key=lambda run: run["predict"])
                figures = f"{best['predict']:.2f} | {best['all']:.2f} | {best['peak']:.0f}"
                print(f"| {width} x {height} | {precision} | {figures} |")


if __name__ == "__main__":
    main()
