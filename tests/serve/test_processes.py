"""The service as people run it: a process of its own, asked over a socket and by a browser."""

from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fullyconv import build, save
from fullyconv.types import ClassSet

pytestmark = pytest.mark.slow
pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = build("fcn1s-spectral2", 3, channels=3)
    for head in network.heads:
        nn.init.normal_(head.weight)
    classes = ClassSet(("road", "<b>sky</b>", "wood"), colours=((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    return save(network, tmp_path_factory.mktemp("models") / "tiny" / "model", classes=classes)


@contextmanager
def served(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fullyconv", "serve", str(model), "--port", str(port), "--engine", "pytorch"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            until(lambda: answers(address))
            yield process, address
        finally:
            process.kill()


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health").status_code == 200
    except httpx.HTTPError:
        return False


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def png(height: int, width: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def test_a_stopped_service_still_answers_whom_it_has_taken_on(model: Path) -> None:
    with served(model, "--max-pixels", "4") as (process, address), httpx.Client(timeout=60) as client:
        body = png(1900, 2000)
        found: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: found.append(client.post(f"{address}/predict", content=body)))
        thread.start()
        until(lambda: "under_way 1" in httpx.get(f"{address}/metrics").text)
        process.send_signal(signal.SIGTERM)
        thread.join(60)
        assert found[0].status_code == 200
        assert Image.open(io.BytesIO(found[0].content)).size == (2000, 1900)
        assert process.wait(60) in (0, -signal.SIGTERM)
        assert not answers(address)


@pytest.mark.parametrize("size", [(1280, 860), (390, 844)], ids=["desktop", "phone"])
def test_the_page_labels_pictures_in_a_browser(model: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    sync = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(png(40 + index, 60))
    (tmp_path / "broken.png").write_bytes(png(40, 60)[:200])
    Image.open(tmp_path / "0.png").save(tmp_path / "2.tif")
    with served(model) as (_, address), sync.sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(
            viewport={"width": size[0], "height": size[1]}
        )
        problems: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        until(lambda: page.evaluate("models.length"))
        page.set_input_files(
            "#file", [tmp_path / "0.png", tmp_path / "broken.png", tmp_path / "1.png", tmp_path / "2.tif"]
        )
        until(lambda: page.evaluate("shots.filter(each => each.state !== '…').length") == 4)
        assert page.evaluate("shots.map(each => each.state)") == ["", "✗", "", ""]
        shown = "[...document.querySelectorAll('#strip img')].map(each => each.complete && each.naturalWidth)"
        until(lambda: page.evaluate(shown) == [60, 60, 60, 60])  # TIFF, too, which browsers do not show
        assert page.locator("#classes button").count() == 3
        assert "<b>sky</b>" in page.inner_text("#classes")  # a name, no markup
        labels = np.asarray(
            Image.open(io.BytesIO(httpx.post(f"{address}/predict", content=(tmp_path / "0.png").read_bytes()).content))
        )
        names = ("road", "<b>sky</b>", "wood")
        page.focus("#canvas")
        page.evaluate("tell(7, 5)")
        assert page.inner_text("#tip").startswith(names[labels[5, 7]])
        page.keyboard.press("ArrowRight")
        assert page.evaluate("point") == [8, 5]
        assert page.inner_text("#tip").startswith(names[labels[5, 8]])
        page.locator("#alpha").fill("100")
        colour = page.evaluate("[...pen.getImageData(7, 5, 1, 1).data].slice(0, 3)")
        assert colour == [255 * (labels[5, 7] == channel) for channel in range(3)]
        page.locator("#classes button").first.click()
        until(lambda: page.evaluate("heat !== null"))
        assert page.locator("#scale").is_visible()
        with page.expect_download() as download:
            page.click("#polygons")
        assert json.loads(Path(download.value.path()).read_text())["type"] == "FeatureCollection"
        assert download.value.suggested_filename == "0.geojson"
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert not problems
        assert {url.split("/")[2] for url in asked if url.startswith("http")} == {address.removeprefix("http://")}
