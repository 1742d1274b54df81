"""Steps of the solver against a Caffe of NumPy in float64, written from its documentation; snapshots that resume."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fullyconv.caffe.wire import read_solverstate, read_weights
from fullyconv.cli import app
from fullyconv.files import BadFile
from fullyconv.solver.released import Roots
from fullyconv.solver.run import places
from fullyconv.solver.settings import Settings, read_solver
from fullyconv.solver.training import Training
from fullyconv.solver.updates import learning_rate
from miniatures import labels, sbdd, voc, write_mat

Blobs = dict[str, list[np.ndarray]]

HEIGHT, WIDTH = 5, 6
NET = """
layer { name: "data" type: "DenseImageData" top: "data" top: "label" include { phase: TRAIN }
  transform_param { scale: 0.01 mean_value: 100 mean_value: 110 mean_value: 120 }
  dense_image_data_param { source: "list.txt" batch_size: 2 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 4 kernel_size: 3 pad: 1
    weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "constant" value: 0.1 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "score" type: "Convolution" bottom: "conv" top: "score" param { lr_mult: 3 }
  convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "other" type: "Convolution" bottom: "conv" top: "other" param { lr_mult: 0 }
  convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
  loss_param { ignore_label: 255 normalize: false } }
layer { name: "second" type: "SoftmaxWithLoss" bottom: "other" bottom: "label" top: "second" loss_weight: 0.5
  loss_param { ignore_label: 255 normalize: true } }
"""
SOLVER = 'net: "net.prototxt" snapshot_prefix: "snap/it" random_seed: 3 max_iter: 50 base_lr: 0.01 '


def workplace(folder: Path, solver: str, net: str = NET) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for index in range(5):
        picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        mask = rng.integers(0, 3, (HEIGHT, WIDTH), np.uint8)
        mask[0, : index + 1] = 255
        Image.fromarray(picture).save(folder / f"p{index}.png")
        Image.fromarray(mask).save(folder / f"m{index}.png")
        lines.append(f"p{index}.png m{index}.png\n")
    (folder / "list.txt").write_text("".join(lines))
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text(SOLVER + solver)
    return folder / "solver.prototxt"


class NumpyCaffe:
    """The net above, forward and backward, and the solvers, in float64."""

    factors = {"conv": [(1, 1), (2, 0)], "score": [(3, 1), (1, 1)], "other": [(0, 1), (1, 1)]}  # noqa: RUF012

    def __init__(self, weights: Blobs) -> None:
        self.weights = {name: [blob.astype(float) for blob in blobs] for name, blobs in weights.items()}
        self.memory = {
            name: [[np.zeros_like(blob), np.zeros_like(blob)] for blob in blobs] for name, blobs in self.weights.items()
        }

    def gradients(self, data: np.ndarray, label: np.ndarray) -> tuple[float, Blobs]:
        kernel, bias = self.weights["conv"]
        padded = np.pad(data, ((0, 0), (0, 0), (1, 1), (1, 1)))
        taps = [(i, j) for i in range(3) for j in range(3)]
        seen = {(i, j): padded[:, :, i : i + HEIGHT, j : j + WIDTH] for i, j in taps}
        before = sum(np.einsum("oc,nchw->nohw", kernel[:, :, i, j], seen[i, j]) for i, j in taps) + bias[:, None, None]
        hidden = np.maximum(before, 0)
        back, total, found = np.zeros_like(hidden), 0.0, {}
        for name, weight in (("score", 1.0), ("other", 0.5)):
            matrix, offset = self.weights[name]
            scores = np.einsum("oc,nchw->nohw", matrix[:, :, 0, 0], hidden) + offset[:, None, None]
            chances = np.exp(scores - scores.max(1, keepdims=True))
            chances /= chances.sum(1, keepdims=True)
            counted = label[:, 0] != 255
            truth = np.where(counted, label[:, 0], 0).astype(int)
            divisor = len(data) if name == "score" else counted.sum()
            own = np.take_along_axis(chances, truth[:, None], 1)[:, 0]
            total += weight * -(np.log(np.maximum(own, np.finfo(np.float32).tiny)) * counted).sum() / divisor
            slope = chances - (np.arange(3)[None, :, None, None] == truth[:, None])
            slope *= counted[:, None] * weight / divisor
            found[name] = [np.einsum("nohw,nchw->oc", slope, hidden)[..., None, None], slope.sum((0, 2, 3))]
            back += np.einsum("oc,nohw->nchw", matrix[:, :, 0, 0], slope)
        back *= before > 0
        kernels = np.zeros_like(kernel)
        for i, j in taps:
            kernels[:, :, i, j] = np.einsum("nohw,nchw->oc", back, seen[i, j])
        return total, {"conv": [kernels, back.sum((0, 2, 3))], **found}

    def update(self, method: str, rate: float, iteration: int, gradients: Blobs, clip: float) -> None:
        """Follow the summed gradients of two batches; weights at rest have none, the L2 decay is 0.01."""
        gradients["other"][0][:] = 0
        norm = math.sqrt(sum((part**2).sum() for parts in gradients.values() for part in parts))
        shrink = clip / norm if norm > clip else 1.0
        for name, parts in gradients.items():
            for index, part in enumerate(parts):
                multiplier, decay = self.factors[name][index]
                if multiplier:
                    values = self.weights[name][index]
                    step = part * shrink / 2 + 0.01 * decay * values
                    values -= self.rule(method, rate * multiplier, step, self.memory[name][index], iteration)

    @staticmethod
    def rule(method: str, rate: float, g: np.ndarray, memory: list[np.ndarray], iteration: int) -> np.ndarray:
        one, two = memory
        if method in ("SGD", "Nesterov"):
            memory[0] = 0.9 * one + rate * g
            return memory[0] if method == "SGD" else 1.9 * memory[0] - 0.9 * one
        if method == "AdaGrad":
            memory[0] = one + g**2
            return rate * g / (np.sqrt(memory[0]) + 1e-8)
        if method == "RMSProp":
            memory[0] = 0.95 * one + 0.05 * g**2
            return rate * g / (np.sqrt(memory[0]) + 1e-8)
        if method == "AdaDelta":
            memory[0] = 0.9 * one + 0.1 * g**2
            step = g * np.sqrt((two + 1e-8) / (memory[0] + 1e-8))
            memory[1] = 0.9 * two + 0.1 * step**2
            return rate * step
        memory[0], memory[1] = 0.9 * one + 0.1 * g, 0.999 * two + 0.001 * g**2
        correction = math.sqrt(1 - 0.999 ** (iteration + 1)) / (1 - 0.9 ** (iteration + 1))
        return rate * correction * memory[0] / (np.sqrt(memory[1]) + 1e-8)


METHODS = {
    "SGD": "momentum: 0.9", "Nesterov": "momentum: 0.9", "AdaGrad": "", "RMSProp": "rms_decay: 0.95",
    "AdaDelta": "momentum: 0.9", "Adam": "momentum: 0.9",
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_fifty_steps_equal_a_caffe_of_numpy_in_float64(tmp_path: Path, method: str) -> None:
    fields = f'type: "{method}" {METHODS[method]} weight_decay: 0.01 iter_size: 2 clip_gradients: 4 '
    path = workplace(tmp_path, fields + 'lr_policy: "multistep" gamma: 0.5 stepvalue: 20 stepvalue: 30')
    training = Training(read_solver(path), Roots(), dtype=torch.float64)
    net = training.net
    start = {layer.name: [blob.detach().numpy().copy() for _, blob in net.blobs(layer)] for layer in net.described}
    caffe = NumpyCaffe({name: blobs for name, blobs in start.items() if blobs})
    for iteration in range(50):
        parts = [training.batch(2 * iteration + part) for part in range(2)]
        both = [caffe.gradients(blobs["data"].numpy(), blobs["label"].numpy()) for blobs in parts]
        sums = {
            name: [one + two for one, two in zip(blobs, both[1][1][name], strict=True)]
            for name, blobs in both[0][1].items()
        }
        caffe.update(method, 0.01 * 0.5 ** ((iteration >= 20) + (iteration >= 30)), iteration, sums, 4.0)
        assert training.step() == pytest.approx((both[0][0] + both[1][0]) / 2, rel=1e-9)
    for layer in net.described:
        for (name, blob), expected in zip(net.blobs(layer), caffe.weights.get(layer.name, []), strict=True):
            np.testing.assert_allclose(
                blob.detach().numpy(), expected, rtol=1e-8, atol=1e-11, err_msg=f"{layer.name} {name}"
            )
    assert not np.array_equal(start["conv"][0], caffe.weights["conv"][0])


@pytest.mark.parametrize(
    ("policy", "formula"),
    [
        ('lr_policy: "fixed"', lambda i: 1.0),
        ('lr_policy: "step" gamma: 0.5 stepsize: 7', lambda i: 0.5 ** (i // 7)),
        ('lr_policy: "exp" gamma: 0.99', lambda i: 0.99**i),
        ('lr_policy: "inv" gamma: 0.1 power: 0.75', lambda i: (1 + 0.1 * i) ** -0.75),
        ('lr_policy: "poly" power: 0.9', lambda i: (1 - i / 50) ** 0.9),
        ('lr_policy: "sigmoid" gamma: -0.1 stepsize: 20', lambda i: 1 / (1 + math.exp(0.1 * (i - 20)))),
    ],
)
def test_learning_rates(tmp_path: Path, policy: str, formula: Callable[[int], float]) -> None:
    settings = read_solver(workplace(tmp_path, policy)).settings
    for iteration in range(0, 50, 3):
        assert learning_rate(settings, iteration, 0) == pytest.approx(0.01 * formula(iteration))


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ('type: "LBFGS"', "type is 'LBFGS': write one of SGD, Nesterov"),
        ('lr_policy: "cosine"', "lr_policy is 'cosine': write one of fixed, step"),
        ('lr_policy: "step" gamma: 0.1', "lr_policy step without stepsize"),
        ('type: "AdaGrad" momentum: 0.9', "AdaGrad with a momentum"),
        ("momentum: 1.5", "momentum is 1.5: it lies from 0 to below 1"),
        ("iter_size: 0", "iter_size is 0: it is at least 1"),
        ("snapshot_format: HDF5", "write snapshot_format: BINARYPROTO"),
        ('regularization_type: "L3"', "write L1 or L2"),
        ('train_net: "net.prototxt"', "names 2 nets to train"),
        ("wrong: 3", "the solver has a field 'wrong'"),
    ],
)
def test_solvers_that_cannot_be_honoured(tmp_path: Path, solver: str, message: str) -> None:
    with pytest.raises(BadFile, match=re.escape(message)):
        read_solver(workplace(tmp_path, solver))


def test_a_net_is_no_solver(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"describes a net.*give the solver\.prototxt"):
        read_solver(workplace(tmp_path, "").with_name("net.prototxt"))


@pytest.mark.parametrize(
    ("prefix", "place"), [("a/b/train", ("a/b", "train")), ("a/", ("a", "")), ("/x", ("/", "x")), ("x", (".", "x"))]
)
def test_snapshots_lie_where_caffe_puts_them(tmp_path: Path, prefix: str, place: tuple[str, str]) -> None:
    """What the prefix says comes before ``_iter_N``, even where it ends in a slash."""
    solver = workplace(tmp_path, "")
    solver.write_text(re.sub('snapshot_prefix: ".*?"', f'snapshot_prefix: "{prefix}"', solver.read_text()))
    assert places(read_solver(solver), None) == (Path(place[0]), place[1])


def test_a_net_in_the_solvers_file_and_tests_of_several_states(tmp_path: Path) -> None:
    path = workplace(tmp_path, 'test_iter: 1 test_iter: 2 test_state { stage: "a" } test_state { level: 2 }')
    assert [(test.state.phase, test.state.stage, test.state.level) for test in read_solver(path).tests] == [
        ("TEST", ("a",), 0),
        ("TEST", (), 2),
    ]
    path.write_text(f"net_param {{ {NET} }} max_iter: 1 solver_type: NESTEROV")
    read = read_solver(path)
    assert (read.settings.method, read.train.state.phase) == ("Nesterov", "TRAIN")
    assert [layer.name for layer in read.train.layers][:2] == ["data", "conv"]


def test_l1_decay_shrinks_by_the_sign(tmp_path: Path) -> None:
    def after(fields: str) -> tuple[np.ndarray, np.ndarray]:
        training = Training(read_solver(workplace(tmp_path, fields)), Roots(), dtype=torch.float64)
        before = training.net.layers["conv"].weight.detach().numpy().copy()
        training.step()
        return before, training.net.layers["conv"].weight.detach().numpy()

    before, plain = after("")
    _, decayed = after('weight_decay: 0.1 regularization_type: "L1"')
    np.testing.assert_allclose(plain - decayed, 0.01 * 0.1 * np.sign(before), atol=1e-12)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    training = Training(read_solver(workplace(tmp_path, "")), Roots())
    with torch.no_grad():
        training.net.layers["score"].bias[0] = float("nan")
    with pytest.raises(ValueError, match="the loss of iteration 0 is nan: lower base_lr"):
        training.step()


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["caffe", "train", *map(str, arguments)])
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    return done.output


DROP = 'layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }\n'
DROPPED = NET.replace('layer { name: "score"', DROP + 'layer { name: "score"')


@pytest.mark.parametrize("method", ["SGD", "Adam"])
def test_a_resumed_training_ends_where_one_that_ran_through_does(tmp_path: Path, method: str) -> None:
    fields = f'type: "{method}" momentum: 0.9 snapshot: 3 display: 2 lr_policy: "multistep" gamma: 0.1 stepvalue: 2'
    path = workplace(tmp_path, fields, DROPPED)
    through = run(path, "--out", tmp_path / "a", "--iterations", 7, "--device", "cpu")
    assert re.search(r"iteration 0: loss \S+, rate 0.01\n", through)
    assert re.search(r"iteration 2: loss \S+, rate 0.001\n", through)
    run(path, "--out", tmp_path / "b", "--iterations", 4, "--device", "cpu")
    again = run(path, "--out", tmp_path / "b", "--iterations", 7, "--resume", "--device", "cpu")
    assert "continues at iteration 4" in again
    names = [f"it_iter_{number}.{kind}" for number in (3, 6, 7) for kind in ("caffemodel", "solverstate")]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    state = read_solverstate(tmp_path / "a" / "it_iter_7.solverstate")
    assert (state.iteration, state.current_step, len(state.history)) == (7, 1, 6 if method == "SGD" else 12)


def test_snapshots_of_another_net_or_damaged_are_refused(tmp_path: Path) -> None:
    path = workplace(tmp_path, "momentum: 0.9")
    run(path, "--out", tmp_path / "a", "--iterations", 1, "--device", "cpu")
    state = tmp_path / "a" / "it_iter_1.solverstate"
    whole = state.read_bytes()
    command = ["caffe", "train", str(path), "--out", str(tmp_path / "b"), "--snapshot", str(state), "--device", "cpu"]
    for content, words in ((whole[:-9], "truncated"), (b"\x12\x01a", "no state of a solver")):
        state.write_bytes(content)
        failed = CliRunner().invoke(app, command)
        assert failed.exit_code != 0
        assert words in str(failed.exception)
    state.write_bytes(whole)
    (tmp_path / "net.prototxt").write_text(NET.replace("num_output: 4", "num_output: 5"))
    failed = CliRunner().invoke(app, command)
    assert "give a snapshot of the same net" in str(failed.exception)


FCN = """
layer { name: "data" type: "Python" top: "data" top: "label" python_param { module: "voc_layers" layer: "%s"
  param_str: "{\\'%s\\': \\'nowhere\\', \\'seed\\': 1337, \\'split\\': \\'%s\\', \\'mean\\': (104, 116, 122)}" } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 pad: 10 kernel_size: 3 stride: 2 weight_filler { type: "msra" } } }
layer { name: "score" type: "Convolution" bottom: "conv1" top: "score_fr"
  convolution_param { num_output: 21 kernel_size: 1 } }
layer { name: "upscore" type: "Deconvolution" bottom: "score_fr" top: "up" param { lr_mult: 0 }
  convolution_param { num_output: 21 bias_term: false kernel_size: 4 stride: 2 } }
layer { name: "crop" type: "Crop" bottom: "up" bottom: "data" top: "score" crop_param { axis: 2 offset: 9 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
  loss_param { ignore_label: 255 normalize: false } }
"""


def test_a_training_of_the_release_runs_on_its_data_sets(tmp_path: Path) -> None:
    (tmp_path / "train.prototxt").write_text(FCN % ("SBDDSegDataLayer", "sbdd_dir", "train"))
    (tmp_path / "val.prototxt").write_text(FCN % ("VOCSegDataLayer", "voc_dir", "seg11valid"))
    (tmp_path / "solver.prototxt").write_text(
        'train_net: "train.prototxt" test_net: "val.prototxt" test_iter: 2 test_interval: 3 display: 1\n'
        'lr_policy: "fixed" base_lr: 1e-6 momentum: 0.99 iter_size: 1 max_iter: 6 weight_decay: 0.0005 snapshot: 3\n'
        'snapshot_prefix: "snapshot/train" test_initialization: false average_loss: 20\n'
    )
    data = ["--voc", voc(tmp_path)]
    sbdd(tmp_path).rename(tmp_path / "nowhere")  # beside the net, as the net says; seg11valid is computed from it, too
    output = run(tmp_path / "solver.prototxt", *data, "--out", tmp_path / "run", "--device", "cpu")
    assert "bilinear kernels: upscore" in output
    assert output.count("test net 0: loss = ") == 2  # in front of step 3, and at the end
    assert output.count("mean IU") == 2  # with the snapshot of 3, and at the end
    blobs = read_weights(tmp_path / "run" / "train_iter_6.caffemodel")
    assert blobs["upscore"][0].shape == (21, 21, 4, 4)
    assert float(blobs["upscore"][0][3, 3, 1, 1]) == 0.5625
    weights = tmp_path / "run" / "train_iter_6.caffemodel"
    more = ["--out", tmp_path / "more", "--weights", weights, "--iterations", 1, "--skip", "score", "--device", "cpu"]
    assert "2 layers; 1 not there (score)" in run(tmp_path / "solver.prototxt", *data, *more)


def alexnet(folder: Path, iterations: int, *, narrow: bool) -> list[object]:
    """Write a solver for the listing, or for it with few channels and weights that do not start at zero."""
    listing = Path(__file__).resolve().parents[3] / "shared" / "reference" / "voc-fcn-alexnet.train.prototxt"
    if not listing.is_file():
        pytest.skip("the listing is not beside the repository (../shared/reference)")
    if narrow:
        text = re.sub(
            r"num_output: \d{2,4}\b",
            lambda found: found[0] if "21" in found[0] else "num_output: 8",
            listing.read_text(),
        )
        listing = folder / "narrow.prototxt"
        listing.write_text(text.replace("num_output: 8", 'num_output: 8 weight_filler { type: "msra" }'))
    (folder / "solver.prototxt").write_text(
        f'train_net: "{listing}" lr_policy: "fixed" base_lr: 1e-2 momentum: 0.9 iter_size: 2 max_iter: {iterations} '
        'weight_decay: 0.0005 snapshot_prefix: "s/train" snapshot_after_train: false display: 1'
    )
    data = sbdd(folder)
    for mask in (data / "cls").iterdir():  # half of them one class: there is something to learn
        values = labels(21, seed=1)
        values[:, :24] = 7
        write_mat(mask, {"GTcls": {"Segmentation": values.astype(np.uint8)}})
    return [folder / "solver.prototxt", "--sbdd", data, "--out", folder / "run", "--device", "cpu"]


def losses(output: str) -> list[float]:
    return [float(found) for found in re.findall(r"loss (\S+),", output)]


@pytest.mark.slow
def test_the_listing_of_fcn_alexnet_learns_on_a_miniature(tmp_path: Path) -> None:
    found = losses(run(*alexnet(tmp_path, 12, narrow=True)))
    assert found[0] == pytest.approx(math.log(21), abs=0.5)
    assert found[-1] < found[0] - 0.05


@pytest.mark.slow
def test_the_listing_of_fcn_alexnet_trains_as_it_stands(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="layers start at zero"):
        found = losses(run(*alexnet(tmp_path, 2, narrow=False)))
    assert found[0] == pytest.approx(math.log(21), rel=1e-5)
    assert found[1] < found[0]


def test_settings_have_caffes_defaults() -> None:
    assert (Settings().iter_size, Settings().momentum2, Settings().delta, Settings().method) == (1, 0.999, 1e-8, "SGD")
