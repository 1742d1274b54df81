"""Ours and theirs on the same inputs, in turns within one process: ``make bench``.

    python benchmarks/compare.py [--only vgg camvid …] [--rounds N] [--dry]

Prints a table per row and appends it, with commit, machine and versions, to benchmarks/results.md (``--dry``: not).
docs/benchmarks.md says how to read it.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import peers
import torch
from contest import Contest, Entry, heading, keep, run, say
from torch import Tensor, nn

from fullyconv import Predictor, Preprocess, Segmenter, build, load, save
from fullyconv.bench import Watch
from fullyconv.bench.limits import measure_limits
from fullyconv.bench.speed import count_operations
from fullyconv.losses import pixel_loss
from fullyconv.losses.upsampled import upsampled_loss
from fullyconv.machine import fast_bf16, frozen
from fullyconv.networks.fcn import FCN
from fullyconv.networks.trunks.external import library
from fullyconv.predict.ladder import Ladder
from fullyconv.predict.quantised import INT8, find_quantisation, store_quantisation

MODELS = Path(__file__).resolve().parents[1] / "models"
MODEL = MODELS / "camvid-scratch"
SHORT = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}
ENGINES = {"float32": ("pytorch", "openvino"), "bfloat16": ("pytorch", "openvino"), "int8": ("openvino",)}
EXACT, NEAR = 0.999, 0.9  # share of labels: of the same arithmetic; of a shorter one, on untrained weights


def picture(height: int, width: int, noise: float = 40) -> np.ndarray:
    """Return smooth colours with noise of so many steps, H x W x 3 uint8."""
    drawn = torch.Generator().manual_seed(0)
    smooth = torch.rand(1, 3, 12, 16, generator=drawn) * 200
    pixels = nn.functional.interpolate(smooth, (height, width), mode="bicubic")[0]
    noisy = (pixels + noise * torch.rand(pixels.shape, generator=drawn)).clamp(0, 255).byte()
    return np.ascontiguousarray(noisy.permute(1, 2, 0).numpy())


def normalised(pixels: np.ndarray, preprocess: Preprocess | None = None) -> Tensor:
    """Return 1 x 3 x H x W float32."""
    return torch.from_numpy((preprocess or Preprocess())(pixels))[None]


def attempt(contest: Contest, name: str, make: Callable[[], Any], **entry: Any) -> None:
    """Add an entry, or say why it cannot take part."""
    try:
        contest.entries[name] = Entry(make(), **entry)
    except (ImportError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split()).replace(f"{MODELS.parent}/", "")
        contest.absent[name] = said[:160] or type(error).__name__


def ours(contest: Contest, what: str, model: Any, pixels: np.ndarray, *, operations: float, like: str) -> None:
    """Add our predictor in every arithmetic and with every engine that is there."""
    for precision, short in SHORT.items():
        for engine in ENGINES[precision]:
            make = partial(_prepared, model, precision, engine, pixels)
            least = EXACT if short == "fp32" else NEAR
            attempt(
                contest, f"{what} {short}, {engine}", make,
                precision=short, operations=operations, like=like, least=least,
            )  # fmt: skip


def _prepared(model: Any, precision: Any, engine: Any, pixels: np.ndarray) -> Callable[[], np.ndarray]:
    with TemporaryDirectory() as folder:
        given = calibrated(model, pixels, Path(folder)) if precision == "int8" else model
        run = partial(Predictor(given, precision=precision, engine=engine, device="cpu"), pixels)
        run()  # reads what it needs while the folder is there
    return run


def calibrated(model: Segmenter | FCN, pixels: np.ndarray, folder: Path) -> Path:
    """Return a folder with ranges for 8 bits: the model's own, or a copy with those of one picture, for speed alone."""
    if isinstance(model, FCN):
        network, preprocess = model, Preprocess()
    elif model.folder is not None and (model.folder / INT8).is_file():
        return model.folder
    else:
        network, preprocess = model.network, model.preprocess
    save(network, folder, preprocess=preprocess)
    store_quantisation(folder, find_quantisation(frozen(network), preprocess, [pixels]))
    return folder


def exported(contest: Contest, network: FCN, image: Tensor, *, operations: float, like: str) -> None:
    """Add OpenVINO and ONNX Runtime on the same network, argmax in the graph."""
    for short in SHORT.values():
        make = partial(lambda short: peers.openvino(network, image, [short])[short], short)
        least = EXACT if short == "fp32" else NEAR
        attempt(contest, f"OpenVINO {short}", make, precision=short, operations=operations, like=like, least=least)
    make_ort = partial(peers.onnxruntime, network, image)
    attempt(contest, "ONNX Runtime fp32", make_ort, precision="fp32", operations=operations, like=like, least=EXACT)


def untrained(name: str, classes: int) -> FCN:
    """Build a network whose score heads are no longer zero, so that labels differ from pixel to pixel."""
    torch.manual_seed(0)
    network = build(name, classes).eval()
    for head in network.heads:
        nn.init.normal_(head.weight, std=0.01)
    return network


def vgg() -> Contest:
    """FCN-8s on VGG-16, 21 classes, a picture of 500 x 500: torchfcn as shipped, ours with its padding and without."""
    pixels = picture(500, 500)
    image = normalised(pixels)
    contest = Contest("FCN-8s VGG-16, 1 x 500 x 500, 21 classes", {})
    padded, same = untrained("fcn8s-vgg16", 21), untrained("fcn8s-vgg16-same", 21)
    much, less = (count_operations(network, (500, 500)) for network in (padded, same))
    as_shipped = "torchfcn FCN8s fp32 (padding 100)"
    attempt(
        contest, as_shipped, lambda: peers.eager(peers.torchfcn_like(padded), image), precision="fp32", operations=much
    )
    ours(contest, "ours padding 100", padded, pixels, operations=much, like=as_shipped)
    eager = "PyTorch fp32 (same padding)"
    attempt(contest, eager, lambda: peers.eager(same, image), precision="fp32", operations=less)
    ours(contest, "ours same padding", same, pixels, operations=less, like=eager)
    exported(contest, same, image, operations=less, like=eager)
    return contest


def camvid(name: str) -> Contest:
    """A delivered model for CamVid, one picture of 480 x 360, 11 classes."""
    segmenter = load(MODELS / name, device="cpu")
    assert isinstance(segmenter, Segmenter)
    pixels = picture(360, 480)
    image, network = normalised(pixels, segmenter.preprocess), segmenter.network.eval()
    operations = count_operations(network, (360, 480))
    contest = Contest(f"models/{name}, 480 x 360, 11 classes", {}, rounds=15)
    eager = "PyTorch fp32"
    attempt(contest, eager, lambda: peers.eager(network, image), precision="fp32", operations=operations)
    ours(contest, "ours", segmenter, pixels, operations=operations, like=eager)
    exported(contest, network, image, operations=operations, like=eager)
    return contest


def others() -> Contest:
    """Other networks for the same job, as their users run them in float32: what one gets, not like for like."""
    pixels = picture(360, 480)
    image = normalised(picture(384, 480))  # theirs want multiples of 32
    contest = Contest("480 x 360 (others: 480 x 384), 11 classes: other networks as they are used", {})
    segmenter = load(MODEL, device="cpu")
    attempt(contest, "torchvision fcn_resnet50 fp32", lambda: peers.eager(peers.torchvision_fcn(11), image))
    for kind in ("FPN", "Unet"):
        attempt(contest, f"smp {kind} resnet18 fp32", partial(_smp, kind, image))
    for precision, short in SHORT.items():
        for engine in ENGINES[precision]:
            make = partial(_prepared, segmenter, precision, engine, pixels)
            attempt(contest, f"ours models/camvid-scratch {short}, {engine}", make)
    return contest


def _smp(kind: str, image: Tensor) -> Callable[[], np.ndarray]:
    return peers.eager(peers.smp(kind, 11), image)


def head() -> Contest:
    """From score maps to labels: 21 classes, 63 x 63 units and their finer maps, 500 x 500 pixels."""
    network = untrained("fcn8s-vgg16-same", 21)
    with torch.inference_mode():
        shapes = [each.shape for each in network.score_maps(torch.zeros(1, 3, 500, 500))]
    drawn = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 21, 8, 8, generator=drawn)
    maps = [nn.functional.interpolate(coarse, shape[2:], mode="bicubic") for shape in shapes]
    maps = [each.contiguous(memory_format=torch.channels_last) for each in maps]
    deconvolution = nn.ConvTranspose2d(21, 21, 16, 8, bias=False)
    ladder = Ladder(network)

    def dense() -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(deconvolution(maps[-1])[:, :, 2:502, 2:502].argmax(1)[0])

    def eager() -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(network.upsampled(network.fused(maps), (500, 500)).argmax(1)[0])

    contest = Contest("head alone: 21 classes, x 8 to 500 x 500 labels", {}, rounds=15)
    contest.entries["transposed convolution (dense, x 8 alone) + argmax"] = Entry(dense)
    contest.entries["our layers, one after the other + argmax"] = Entry(eager)
    whole = partial(lambda: ladder.labels(maps, (500, 500)).numpy()[0])
    contest.entries["ours, in one pass"] = Entry(whole, like="our layers, one after the other + argmax", least=EXACT)
    return contest


def loss() -> Contest:
    """Upsampling and loss, forward and backward: 8 x 11 x 45 x 60 scores, 360 x 480 labels."""
    network = untrained("fcn8s-resnet18", 11)
    drawn = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        fused = network.fused(network.score_maps(torch.zeros(8, 3, 360, 480)))
    scores = torch.randn(fused.shape, generator=drawn).requires_grad_()
    labels = torch.randint(11, (8, 360, 480), generator=drawn)

    def gradient(lose: Callable[[], Tensor]) -> Tensor:
        (found,) = torch.autograd.grad(lose(), scores)
        return found

    step = network.last_step
    usual = partial(gradient, lambda: nn.functional.cross_entropy(step(scores, (360, 480)), labels))
    plain = partial(gradient, lambda: pixel_loss(step(scores, (360, 480)), labels, normalization="valid"))
    fast = partial(gradient, lambda: upsampled_loss(scores, labels, step))
    contest = Contest("loss of upsampled scores, forward and backward: 8 x 11 x 360 x 480", {})
    contest.entries["upsampling, then cross_entropy"] = Entry(usual)
    for name, way in (("upsampling, then pixel_loss", plain), ("ours, in one operation", fast)):
        contest.entries[name] = Entry(way, like="upsampling, then cross_entropy", least=EXACT)
    return contest


def counting() -> Contest:
    """Confusion matrix of 500 x 500 labels, 21 classes and void, uint8, with all threads."""
    import confusion

    truth, guess = (each.astype(np.uint8) for each in confusion.pairs(None)["smooth"])
    counters = confusion.counters()
    contest = Contest("confusion matrix, 500 x 500, 21 classes", {}, rounds=15)
    contest.entries["fast_hist"] = Entry(partial(counters.pop("fast_hist"), truth, guess))
    for name, count in counters.items():
        contest.entries[name] = Entry(partial(count, truth, guess), like="fast_hist", least=1.0)
    if "torchmetrics" not in counters:
        contest.absent["torchmetrics"] = "not installed"
    return contest


def crf() -> Contest:
    """Dense CRF, 500 x 375, 21 classes, 10 iterations, the usual bandwidths."""
    import crf as benchmark

    image = picture(375, 500, noise=8)  # a camera's; with 40 steps almost no two pixels share a vertex of the lattice
    drawn = torch.Generator().manual_seed(0)
    scores = nn.functional.interpolate(3 * torch.randn(1, 21, 12, 16, generator=drawn), (375, 500), mode="bicubic")[0]
    unary = np.ascontiguousarray(-scores.log_softmax(0).numpy())
    contest = Contest("dense CRF, 500 x 375, 21 classes, 10 iterations, noise of 8 steps", {}, rounds=5)

    def most_likely(infer: Callable[..., np.ndarray]) -> np.ndarray:
        found: np.ndarray = infer(unary, image, (80.0, 13.0)).argmax(0)
        return found

    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError as error:
        contest.absent["pydensecrf2"] = str(error)
    else:
        contest.entries["pydensecrf2"] = Entry(partial(most_likely, benchmark.theirs))
    contest.entries["ours"] = Entry(partial(most_likely, benchmark.ours), like="pydensecrf2", least=EXACT)
    return contest


def large() -> Contest:
    """A picture of 2048 x 2048 through models/camvid-scratch: in bands, as ``predict`` does, and in one pass."""
    pixels = picture(2048, 2048)
    contest = Contest("models/camvid-scratch, 2048 x 2048: bands and one pass", {}, rounds=3)
    precision = "bf16" if fast_bf16(torch.device("cpu")) else "fp32"
    segmenter = load(MODEL, device="cpu", precision=precision)
    assert isinstance(segmenter, Segmenter)

    def whole() -> np.ndarray:
        image = normalised(pixels, segmenter.preprocess).contiguous(memory_format=torch.channels_last)
        short = precision == "bf16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=short):
            return np.asarray(segmenter.network.eval()(image).argmax(1)[0])

    one_pass = f"PyTorch {precision}, one pass"
    contest.entries[one_pass] = Entry(whole)
    contest.entries[f"ours {precision}, as predict does it"] = Entry(
        lambda: segmenter.predict(pixels).labels, like=one_pass, least=NEAR
    )
    return contest


def training(case: str) -> Contest:
    """A training step beside the usual one, with its peak memory."""
    import training as benchmark

    return benchmark.contest(case)


def patchwise(*, backward: bool) -> Contest:
    """A classifier on a whole picture and on its windows."""
    import patchwise as benchmark

    return benchmark.contest(backward=backward)


ROWS: dict[str, Callable[[], Contest]] = {
    "vgg": vgg, "camvid-scratch": partial(camvid, "camvid-scratch"), "camvid": partial(camvid, "camvid"),
    "others": others, "head": head, "loss": loss, "counting": counting, "crf": crf, "large": large,
    "training": partial(training, "compact"), "training-vgg": partial(training, "vgg16"),
    "patchwise": partial(patchwise, backward=False), "patchwise-training": partial(patchwise, backward=True),
}  # fmt: skip


def chosen(only: list[str], rounds: int | None) -> Iterator[Contest]:
    """Prepare the rows that were asked for, one after the other."""
    for name in only:
        try:
            contest = ROWS[name]()
        except (ImportError, RuntimeError) as error:  # of an old peer on a new library
            contest = Contest(name, {}, {"the row": " ".join(str(error).split())[:160]})
        contest.rounds = rounds or contest.rounds
        yield contest


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, help="how often each is timed")
    parser.add_argument("--dry", action="store_true", help="print only: results.md stays as it is")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", torch.jit.TracerWarning)  # exports are of one size, and say so in many lines
    with suppress(ImportError):
        library("torchvision")  # makes it importable beside a PyTorch for the CPU, for torchmetrics and others too
    watch = Watch()
    limits = measure_limits(watch=watch)
    sections = [heading(limits, watch)]
    say(sections[0])
    for contest in chosen(arguments.only, arguments.rounds):
        sections.append(run(contest, limits))
        say(sections[-1])
        if not arguments.dry:
            keep(sections)  # at once: what was measured before a run is cut off counts
        sections.clear()


if __name__ == "__main__":
    main()
