from __future__ import annotations

import asyncio
import io
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from fullyconv import build, load, save
from fullyconv.checkpoint import store_temperature
from fullyconv.cli import app
from fullyconv.limits import LIMITS
from fullyconv.predict.image import Segmenter
from fullyconv.predict.prediction import Prediction
from fullyconv.types import ClassSet, Preprocess

pytest.importorskip("fastapi")
import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Message

from fullyconv.serve import Settings, make_app
from fullyconv.serve.batching import Batcher, Job

PREPROCESS = Preprocess(mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0), order="BGR")
CLASSES = ClassSet(("road", "sky", "wood"))
BASE = "http://localhost"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    network = build("fcn1s-spectral2", 3, channels=3)
    for head in network.heads:
        nn.init.normal_(head.weight)
    return Segmenter(network, classes=CLASSES, preprocess=Preprocess(), device="cpu", engine="pytorch")


@pytest.fixture
def client(segmenter: Segmenter) -> Iterator[TestClient]:
    with TestClient(make_app({"small": segmenter}), base_url=BASE) as client:
        yield client


def picture(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def read(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_each_answer_is_what_predict_says(client: TestClient, segmenter: Segmenter) -> None:
    pixels = picture()
    wanted = segmenter.predict(pixels, probabilities=True)
    assert wanted.probabilities is not None

    def ask(query: str) -> bytes:
        answer = client.post(f"/predict?{query}", content=png(pixels))
        assert answer.status_code == 200, answer.text
        assert (answer.headers["x-image-height"], answer.headers["x-image-width"]) == ("20", "30")
        return answer.content

    assert np.array_equal(read(ask("output=mask")), wanted.labels)
    wanted.overlay(alpha=0.3).save(buffer := io.BytesIO(), "JPEG", quality=90)
    assert ask("output=overlay&alpha=0.3") == buffer.getvalue()
    document = json.loads(ask("output=polygons"))
    assert sum(each["properties"]["pixels"] for each in document["features"]) == 600
    assert np.array_equal(np.load(io.BytesIO(ask("output=probabilities"))), wanted.probabilities)
    layers = read(ask("output=layers")).astype(int)
    assert np.array_equal(layers[..., 0] + 256 * layers[..., 1], wanted.labels)
    assert np.abs(layers[..., 2] / 255 - wanted.probabilities.max(0)).max() < 0.01
    heat = read(ask("output=heat&class=sky"))
    assert np.abs(heat / 255 - wanted.probabilities[1]).max() < 0.01
    form = client.post("/predict", files={"anything": ("a.png", png(pixels), "image/png")})
    assert np.array_equal(read(form.content), wanted.labels)


@pytest.mark.filterwarnings("ignore:.*hold nothing")
def test_what_holds_nothing_is_of_no_class(client: TestClient) -> None:
    numbers = np.random.default_rng(0).uniform(0, 1, (20, 30)).astype(np.float32)
    numbers[:5] = np.nan
    tifffile.imwrite(upload := io.BytesIO(), numbers)

    def ask(output: str) -> bytes:
        answer = client.post(f"/predict?class=sky&output={output}", content=upload.getvalue())
        assert answer.status_code == 200, answer.text
        return answer.content

    assert np.array_equal(read(ask("mask")) == 255, np.isnan(numbers))
    layers = read(ask("layers")).astype(int)
    assert np.array_equal(layers[..., 0] + 256 * layers[..., 1] == 65535, np.isnan(numbers))
    assert not layers[:5, :, 2].any()
    assert not read(ask("heat"))[:5].any()
    assert not np.load(io.BytesIO(ask("probabilities")))[:, :5].any()
    regions = json.loads(ask("polygons"))["features"]
    assert sum(each["properties"]["pixels"] for each in regions) == 15 * 30


def test_predict_an_exported_file_and_the_service_agree_on_tempered_probabilities(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullyconv.export.writing.SIZES", ((1, 1), (31, 33)))  # all ten are checked elsewhere
    onnxruntime = pytest.importorskip("onnxruntime")
    save(segmenter.network, tmp_path / "model", classes=CLASSES, preprocess=PREPROCESS)
    store_temperature(tmp_path / "model", 2.5)
    warm, pixels = load(tmp_path / "model", device="cpu", engine="pytorch"), picture()
    assert isinstance(warm, Segmenter)
    wanted = warm.predict(pixels, probabilities=True).probabilities
    assert wanted is not None
    scores = warm.scores(pixels)
    assert np.abs(wanted - (scores / 2.5).softmax(0).numpy()).max() < 1e-3
    assert np.abs(wanted - scores.softmax(0).numpy()).max() > 0.05  # what it would be without

    with TestClient(make_app({"warm": warm}), base_url=BASE) as client:
        answer = client.post("/predict?output=probabilities", content=png(pixels))
    assert np.array_equal(np.load(io.BytesIO(answer.content)), wanted)

    command = ["export", str(tmp_path / "model"), "--out", str(tmp_path), "--with-preprocessing", "--probabilities"]
    assert CliRunner().invoke(app, command).exit_code == 0
    session = onnxruntime.InferenceSession(str(next(tmp_path.glob("*.onnx"))))
    assert session.get_outputs()[0].name == "probabilities"
    assert json.loads(session.get_modelmeta().custom_metadata_map["temperature"]) == 2.5
    (found,) = session.run(None, {"image": pixels.transpose(2, 0, 1)[None]})
    assert np.abs(found[0] - wanted).max() < 1e-3  # those of predict have 16 bits


def test_it_describes_itself(client: TestClient) -> None:
    (model,) = client.get("/models").json()
    assert model["name"] == "small"
    assert model["classes"][1] == {"index": 1, "name": "sky", "value": 1, "colour": [128, 0, 0]}
    assert client.get("/health").json() == {"status": "ok"}
    assert "/predict" in client.get("/openapi.json").json()["paths"]
    client.post("/predict", content=png(picture()))
    text = client.get("/metrics").text
    assert 'fullyconv_requests_total{path="/predict",status="200"} 1' in text
    assert "fullyconv_batch_pictures_count 1" in text
    page = client.get("/")
    assert "http" not in page.text.replace("http-equiv", "")  # nothing comes from elsewhere
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_client_chooses_a_head() -> None:
    network = build("fcn1s-spectral2", 2, channels=3, tasks={"shade": 3})
    nn.init.normal_(network.score_layers["shade_heads"][0].weight)  # type: ignore[arg-type]
    model = Segmenter(network, classes=ClassSet(("a", "b")), preprocess=Preprocess(), device="cpu")
    model.name_heads({"shade": ClassSet(("dark", "grey", "light"))})
    served = {"two": model, "two-shade": model.heads["shade"]}
    pixels = picture()
    with TestClient(make_app(served), base_url=BASE) as client:
        described = client.get("/models").json()
        assert [(each["name"], each["network"], each["head"]) for each in described] == [
            ("two", "fcn1s-spectral2", ""), ("two-shade", "fcn1s-spectral2", "shade"),
        ]  # fmt: skip
        wanted = model.heads["shade"].predict(pixels).labels
        for query in ("head=shade", "model=two&head=shade", "model=two-shade", "model=two-shade&head=shade"):
            answer = client.post(f"/predict?{query}", content=png(pixels))
            np.testing.assert_array_equal(read(answer.content), wanted)
        first = client.post("/predict", content=png(pixels))
        np.testing.assert_array_equal(read(first.content), model.predict(pixels).labels)
        wrong = client.post("/predict?head=other", content=png(pixels))
        assert wrong.status_code == 404
        assert wrong.json()["detail"] == "no head of two is called 'other': its further heads are shade"
        assert "grey" in client.post("/predict?head=shade&output=heat&class=x", content=png(pixels)).json()["detail"]


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be huge."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


HOSTILE = {
    "empty": (b"", 400, "empty"),
    "text": (b"hello", 422, "not PNG"),
    "truncated": (png(picture())[:300], 422, "truncated"),
    "bomb": (bomb(60_000, 60_000), 422, "60000 x 60000 pixels"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", 422, "an SVG drawing"),
    "zip": (b"PK\3\4" + bytes(100), 422, "an archive"),
    "tiff": (b"II*\0" + b"\xff" * 50, 422, "upload"),
    "large": (bytes(70_000), 413, "at most 65536 bytes"),
}


@pytest.mark.parametrize("name", list(HOSTILE))
@pytest.mark.parametrize("as_form", [False, True])
def test_hostile_uploads_get_a_sentence(segmenter: Segmenter, name: str, as_form: bool) -> None:
    content, status, words = HOSTILE[name]
    if as_form and name == "empty":
        status, words = 422, "upload"
    app = make_app({"small": segmenter}, Settings(upload_bytes=1 << 16, pixels=1_000_000))
    with TestClient(app, base_url=BASE) as client:
        if as_form:
            answer = client.post("/predict", files={"file": ("../../etc/passwd", content)})
        else:
            answer = client.post("/predict", content=content)
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
        assert "/tmp" not in answer.text
        assert client.post("/predict", content=png(picture())).status_code == 200  # it goes on


def test_the_bound_of_pixels_is_the_services_own(segmenter: Segmenter, tmp_path: Path) -> None:
    before, tiled, tall = LIMITS.pixels, io.BytesIO(), io.BytesIO()
    tifffile.imwrite(tiled, picture(8, 8), tile=(64, 64))  # few pixels in a tile of many
    tifffile.imwrite(tall, picture(50, 30))
    small, large = (make_app({"small": segmenter}, Settings(pixels=most)) for most in (1000, 4096))
    with TestClient(small, base_url=BASE) as narrow, TestClient(large, base_url=BASE) as wide:
        for content in (png(picture(50, 30)), tall.getvalue(), tiled.getvalue()):
            refused = narrow.post("/predict", content=content)
            assert (refused.status_code, "at most 1000 pixels" in refused.text) == (422, True), refused.text
            assert wide.post("/predict", content=content).status_code == 200
        (tmp_path / "a.png").write_bytes(png(picture(50, 30)))
        assert segmenter.predict(tmp_path / "a.png").labels.shape == (50, 30)
        assert LIMITS.pixels == before
        LIMITS.pixels = 100  # the process's own holds for all
        try:
            assert "at most 100 pixels" in wide.post("/predict", content=png(picture())).text
        finally:
            LIMITS.pixels = before


def test_wrong_questions_get_a_sentence(client: TestClient) -> None:
    body = png(picture())
    assert client.post("/predict?model=other", content=body).status_code == 404
    assert "road, sky, wood" in client.post("/predict?output=heat&class=x", content=body).json()["detail"]
    assert client.post("/predict?output=svg", content=body).status_code == 422
    assert client.post("/predict?simplify=nan", content=body).status_code == 422
    broken = client.post("/predict", content=b"x", headers={"content-type": "multipart/form-data; boundary=y"})
    assert broken.status_code == 400
    two = client.post("/predict", files=[("a", ("a", body)), ("b", ("b", body))])
    assert "one file, not 2" in two.json()["detail"]
    assert client.get("/predict").status_code == 405


def test_a_key_is_asked_for(segmenter: Segmenter) -> None:
    with TestClient(make_app({"small": segmenter}, Settings(key="secret")), base_url=BASE) as client:
        for path in ("/models", "/metrics"):
            assert client.get(path).status_code == 401
        assert client.post("/predict", content=png(picture())).status_code == 401
        assert client.get("/models", headers={b"x-api-key": "sécret".encode()}).status_code == 401
        assert client.get("/models", headers={"x-api-key": "secret"}).status_code == 200
        assert client.get("/models", headers={"authorization": "Bearer secret"}).status_code == 200
        assert client.get("/health").status_code == client.get("/").status_code == 200


def test_other_names_of_this_machine_are_refused(segmenter: Segmenter) -> None:
    with TestClient(make_app({"small": segmenter}), base_url="http://evil.example") as client:
        assert client.get("/models").status_code == 400


class Slow(Segmenter):
    """Waits until it is told to go on."""

    go: threading.Event

    def predict(self, image: object, *, probabilities: bool = False) -> Prediction:
        assert self.go.wait(20)
        return super().predict(image, probabilities=probabilities)  # type: ignore[arg-type]


def slow(segmenter: Segmenter) -> Slow:
    made = Slow(segmenter.network, classes=CLASSES, preprocess=Preprocess(), device="cpu", engine="pytorch")
    made.go = threading.Event()
    return made


def test_who_comes_when_all_is_taken_is_told_to_come_again(segmenter: Segmenter) -> None:
    made = slow(segmenter)
    app = make_app({"small": made}, Settings(waiting=2))
    with TestClient(app, base_url=BASE) as client, ThreadPoolExecutor(2) as pool:
        first = [pool.submit(client.post, "/predict", content=png(picture(seed=seed))) for seed in range(2)]
        while "under_way 2" not in client.get("/metrics").text:
            pass
        refused = client.post("/predict", content=png(picture()))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        made.go.set()
        assert [each.result().status_code for each in first] == [200, 200]


def test_what_takes_too_long_ends(segmenter: Segmenter) -> None:
    made = slow(segmenter)
    with TestClient(make_app({"small": made}, Settings(seconds=0.2)), base_url=BASE) as client:
        assert client.post("/predict", content=png(picture())).status_code == 504
        made.go.set()
        assert client.get("/health").status_code == 200


async def ask_slowly(app: FastAPI, pieces: list[bytes], pause: float, *, kind: str = "image/png") -> list[Message]:
    """Send a body piece by piece; without an end where no piece is left."""
    left, answer = list(pieces), list[Message]()

    async def receive() -> Message:
        await asyncio.sleep(pause if left else 3600)
        return {"type": "http.request", "body": left.pop(0), "more_body": True}

    async def send(message: Message) -> None:
        answer.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", kind.encode())]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/predict"}
    await app(scope | {"raw_path": b"/predict", "query_string": b"", "headers": headers}, receive, send)
    return answer


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=x"])
def test_uploads_that_hardly_come_end_and_hold_no_place(segmenter: Segmenter, kind: str) -> None:
    app = make_app({"small": segmenter}, Settings(waiting=1, patience=0.3, rate=1000, seconds=30))
    begins = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'

    async def crowd() -> list[int]:
        async with asyncio.timeout(10):
            slow = [asyncio.create_task(ask_slowly(app, [begins, *[b"-"] * 100], 0.01, kind=kind)) for _ in range(20)]
            await asyncio.sleep(0.1)
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
                answer = await client.post("/predict", content=png(picture()))
            return [answer.status_code, *[each[0]["status"] for each in await asyncio.gather(*slow)]]

    assert asyncio.run(crowd()) == [200, *[408] * 20]


def test_uploads_on_their_way_are_bounded_together(segmenter: Segmenter) -> None:
    app = make_app({"small": segmenter}, Settings(waiting=1, upload_bytes=1000, patience=0.5))

    async def crowd() -> list[int]:
        async with asyncio.timeout(10):
            tasks = [ask_slowly(app, [bytes(400)], 0.1 * place) for place in range(4)]
            return [each[0]["status"] for each in await asyncio.gather(*tasks)]

    assert asyncio.run(crowd()) == [408, 408, 503, 503]  # what two hold leaves too little


def test_many_at_once_get_their_own_answers(client: TestClient, segmenter: Segmenter) -> None:
    pictures = [picture(10 + seed % 3, 12, seed) for seed in range(40)]
    wanted = [segmenter.predict(each).labels for each in pictures]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: client.post("/predict", content=png(each)), pictures))
    assert all(np.array_equal(read(each.content), labels) for each, labels in zip(answers, wanted, strict=True))


def test_those_of_one_size_are_computed_together_in_order(segmenter: Segmenter) -> None:
    sizes: list[int] = []
    made = slow(segmenter)
    batcher = Batcher(3, sizes.append)
    first = batcher.submit(Job(made, picture()))
    pictures = [picture(8, 9, 1), picture(8, 9, 2), picture(5, 5, 3), picture(8, 9, 4), picture(8, 9, 5)]
    jobs = [Job(segmenter, each) for each in pictures]
    found: list[Future[Prediction]] = [batcher.submit(job) for job in jobs]
    assert found[4].cancel()
    broken = batcher.submit(Job(segmenter, np.zeros((0, 0, 3), np.uint8)[:1]))
    made.go.set()
    first.result(20)
    for each, pixels in zip(found[:4], pictures, strict=False):
        assert np.array_equal(each.result(20).labels, segmenter.predict(pixels).labels)
    with pytest.raises(ValueError, match="image array"):
        broken.result(20)
    batcher.close()
    assert sizes[:3] == [1, 3, 1]
    with pytest.raises(RuntimeError, match="stopping"):
        batcher.submit(jobs[0])


def test_scenes_are_not_served(segmenter: Segmenter) -> None:
    four = Segmenter(
        build("fcn1s-spectral2", 3, channels=4),
        classes=CLASSES,
        device="cpu",
        preprocess=Preprocess((1.0,) * 4, (1.0,) * 4),
    )
    with pytest.raises(ValueError, match="four does not label pictures"):
        make_app({"small": segmenter, "four": four})
    with pytest.raises(ValueError, match="a model or more"):
        make_app({})


def test_nothing_stays_on_disk(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    client.post("/predict", content=png(picture()))
    client.post("/predict", content=b"junk")
    assert list(tmp_path.iterdir()) == []
