"""Install the peers one by one: what a machine cannot install is said and left out.

python benchmarks/install.py peers.txt constraints.txt
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

UNBUILT = {"torchfcn"}  # old: what it needs beside PyTorch does not install any more, and its networks need none of it


def main() -> None:
    """Install each line of the first file by the second one's versions."""
    peers, constraints = sys.argv[1:]
    for line in Path(peers).read_text().splitlines():
        wanted = line.partition("#")[0].strip()
        if not wanted:
            continue
        options = ["--no-deps"] if wanted.partition("==")[0] in UNBUILT else ["--constraint", constraints]
        command = [sys.executable, "-m", "pip", "install", "--quiet", *options, wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        last = (done.stderr.strip().splitlines() or [""])[-1]
        print(f"{wanted}: {'installed' if done.returncode == 0 else f'left out ({last})'}", flush=True)


if __name__ == "__main__":
    main()
