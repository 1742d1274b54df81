"""How much a service takes: requests per second, how long the slowest 1 % wait, wrong answers, memory.

Starts `fullyconv serve` on this machine's loopback address and asks it from 1, 8 and 64 clients at once, each on a
connection of its own. Every answer is compared with what `predict` says of the same picture.

    python benchmarks/serve_load.py                                  # the smallest network, pictures of 64 x 48
    python benchmarks/serve_load.py --model camvid --pictures camvid/val/images --requests 200
"""

from __future__ import annotations

import argparse
import asyncio
import io
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import fullyconv
from fullyconv.serve.answers import Wanted, encode

CLIENTS = (1, 8, 64)


def small_model(folder: Path) -> Path:
    """Save the smallest network of ours."""
    torch.manual_seed(0)
    network = fullyconv.build("fcn1s-spectral2", 3, channels=3)
    for head in network.heads:
        nn.init.normal_(head.weight)
    return fullyconv.save(network, folder / "model")


def pictures(folder: str | None) -> list[bytes]:
    """Return files of pictures: a folder's first, or noise."""
    if folder is not None:
        return [path.read_bytes() for path in sorted(Path(folder).iterdir())[:16]]
    made = []
    for seed in range(16):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
        made.append(buffer.getvalue())
    return made


async def ask(port: int, body: bytes, line: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> tuple[int, bytes]:
    """Ask for a mask; returns the status and the answer."""
    reader, writer = line
    writer.write(
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(re.search(r"content-length: (\d+)", head)[1])  # type: ignore[index]
    return int(head.split()[1]), await reader.readexactly(length)


async def load(port: int, bodies: list[bytes], wanted: list[bytes], clients: int, requests: int) -> dict[str, float]:
    """Ask many times from several clients at once, and compare every answer."""
    seconds: list[float] = []
    found = {"wrong": 0, "failed": 0, "refused": 0}
    left = iter(range(requests))

    async def client() -> None:
        line = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            index = number % len(bodies)
            started = time.perf_counter()
            status, answer = await ask(port, bodies[index], line)
            while status == 503:
                found["refused"] += 1
                await asyncio.sleep(0.05)
                status, answer = await ask(port, bodies[index], line)
            seconds.append(time.perf_counter() - started)
            found["failed"] += status != 200
            found["wrong"] += status == 200 and answer != wanted[index]
        line[1].close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - started
    cuts = statistics.quantiles(seconds, n=100)
    return {"rate": requests / took, "p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3, **found}


def resident(process: subprocess.Popen[bytes]) -> float:
    """Return the memory that a process holds, MiB."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def wait_for(port: int) -> None:
    """Wait until the service answers."""
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the service does not answer")


def main() -> None:
    """Start the service, load it and print a line for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--pictures")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, nargs="*", default=CLIENTS)
    parser.add_argument("--engine", default="pytorch")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model = given.model or str(small_model(Path(place)))
        bodies = pictures(given.pictures)
        segmenter = fullyconv.load(model, engine=given.engine, precision="auto", device="cpu")
        wanted = [
            encode(segmenter.predict(Image.open(io.BytesIO(body)).convert("RGB")), Wanted())[0] for body in bodies
        ]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "fullyconv", "serve", model, "--port", str(port), "--engine", given.engine]
        with subprocess.Popen([*command, "--waiting", "64"], stdout=subprocess.DEVNULL) as process:
            try:
                wait_for(port)
                asyncio.run(load(port, bodies, wanted, 1, 20))  # what is made on the first request
                print("clients  requests/s   p50 ms   p99 ms  wrong  no answer in time  told to come again  RSS MiB")
                for clients in given.clients:
                    row = asyncio.run(load(port, bodies, wanted, clients, given.requests))
                    print(
                        f"{clients:7d} {row['rate']:11.1f} {row['p50']:8.1f} {row['p99']:8.1f} {row['wrong']:6.0f} "
                        f"{row['failed']:18.0f} "
                        f"{row['refused']:19.0f} {resident(process):8.0f}",
                        flush=True,
                    )
            finally:
                process.terminate()
                print(f"stopped with status {process.wait(60)}")


if __name__ == "__main__":
    main()
