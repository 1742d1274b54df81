"""Statements of the papers that span several rooms; numbers are those of the fact sheet, section 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fullyconv.data.synthetic import WIRE, write_dataset
from fullyconv.geometry import axis_map
from fullyconv.losses import class_weights, pixel_loss, sample_terms
from fullyconv.networks import build
from fullyconv.networks.fcn import FCN
from fullyconv.recipes.demo import DEMO_STAGED
from fullyconv.surgery import conv_to_linear
from fullyconv.trace import outputs
from fullyconv.train.assemble import assemble
from fullyconv.train.chain import change_chain, place
from fullyconv.train.folder import BEST, open_run
from fullyconv.train.optim import CaffeSGD, Descent, make_optimizer
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import Recipe
from fullyconv.train.run import Run
from fullyconv.types import VOID
from fullyconv.upsample import Upsample
from runs import Notes


def unpadded() -> nn.Sequential:
    """A convolutionalised classifier: stride 4, a 7 x 7 "fully connected" layer at the end."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(6, 6, 2, stride=2), nn.ReLU(), nn.Conv2d(6, 4, 7)
    ).double()


def patches(net: nn.Module, image: Tensor) -> Tensor:
    """Cut out the receptive field of every unit of the output, row by row."""
    line, (high, wide) = axis_map(outputs(net).along(0)[0]), net(image).shape[-2:]
    field, stride = int(line.field), int(line.scale)
    return torch.cat(
        [
            image[..., stride * i : stride * i + field, stride * j : stride * j + field]
            for i in range(high)
            for j in range(wide)
        ]
    )


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters())))


def test_the_network_on_an_image_is_the_classifier_on_every_patch() -> None:
    # Statement 1.
    net, image = unpadded(), torch.randn(1, 3, 45, 52, dtype=torch.float64)
    classifier = nn.Sequential(*list(net)[:-1], nn.Flatten(), conv_to_linear(net[-1]))
    with torch.no_grad():
        scores = net(image)
        answers = classifier(patches(net, image))
    torch.testing.assert_close(scores[0].flatten(1).T, answers, rtol=0, atol=1e-12)


def test_training_on_a_whole_image_is_training_on_all_its_patches() -> None:
    # Statement 3.
    net, image = unpadded(), torch.randn(1, 3, 45, 52, dtype=torch.float64)
    labels = torch.randint(VOID, 4, net(image).shape[-2:])[None]
    whole = pixel_loss(net(image), labels, normalization="none")
    cut = pixel_loss(net(patches(net, image)), labels.view(-1, 1, 1), normalization="none")
    torch.testing.assert_close(whole, cut, rtol=1e-13, atol=0)
    for ours, theirs in zip(gradients(net, whole), gradients(net, cut), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_sampling_loss_terms_keeps_the_expected_gradient() -> None:
    # Statement 5: a term is kept with probability p, for 1/p times as many images.
    torch.manual_seed(0)
    scores = torch.randn(1, 4, 6, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(VOID, 4, (1, 6, 7))
    (whole,) = torch.autograd.grad(pixel_loss(scores, labels, normalization="none"), scores)
    generator, probability, draws = torch.Generator().manual_seed(1), 0.25, 4000
    kept = torch.cat([sample_terms(labels, probability=probability, generator=generator) for _ in range(draws)])
    loss = pixel_loss(scores.expand(draws, -1, -1, -1), kept, normalization="batch") / probability
    (mean,) = torch.autograd.grad(loss, scores)
    assert (mean - whole).abs().max() < 5 * whole.abs().max() * (3 / draws) ** 0.5  # five standard errors
    assert not torch.equal(mean, whole)


def test_shifts_below_the_stride_reach_every_patch() -> None:
    # Statement 5: without them only patches on the grid of the stride are ever seen.
    net = unpadded()
    line = axis_map(outputs(net).along(0)[0])
    image = torch.randn(1, 3, 50, 31, dtype=torch.float64)
    every = [image[..., top : top + int(line.field), :] for top in range(50 - int(line.field) + 1)]
    with torch.no_grad():
        rows = {float(net(image[..., cut:, :])[0, 0, i, 0]) for cut in range(int(line.scale))
                for i in range(net(image[..., cut:, :]).shape[2])}  # fmt: skip
        answers = {float(net(patch)[0, 0, 0, 0]) for patch in every}
    assert len(rows) == len(answers) == len(every)
    assert max(abs(a - b) for a, b in zip(sorted(rows), sorted(answers), strict=True)) < 1e-12


def test_balanced_weights_give_every_class_the_same_say() -> None:
    # Statement 6: three quarters background, as in VOC.
    labels = torch.tensor([0] * 75 + [1] * 20 + [2] * 5).view(1, 10, 10)
    shares = torch.tensor([0.75, 0.2, 0.05])
    scores = torch.zeros(1, 3, 10, 10, requires_grad=True)
    loss = pixel_loss(scores, labels, weights=class_weights(shares, power=1.0), normalization="none")
    (slope,) = torch.autograd.grad(loss, scores)
    pull = [float(-slope[0, c][labels[0] == c].sum()) for c in range(3)]  # towards its own class
    assert pull == pytest.approx([pull[0]] * 3, rel=1e-5)


def step(net: FCN, *, steps: int = 1) -> None:
    optimizer = make_optimizer(net, Descent(optimizer="caffe-sgd", learning_rate=1e-2, weight_decay=0.0))
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        pixel_loss(net(torch.randn(1, 3, 40, 50)), torch.randint(0, net.classes, (1, 40, 50))).backward()
        optimizer.step()


def test_fixed_interpolation_never_moves_and_learned_moves_one_kernel_per_class() -> None:
    # Statement 7: both start from the same function.
    torch.manual_seed(0)
    fixed, learned = build("fcn16s-resnet18", 3), build("fcn16s-resnet18", 3, upsampling="learned")
    learned.load_state_dict(fixed.state_dict(), strict=False)
    for net in (fixed, learned):
        for head in net.heads:
            nn.init.constant_(head.weight, 0.01)
    image = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        torch.testing.assert_close(fixed.eval()(image), learned.eval()(image), rtol=1e-4, atol=1e-5)
    assert not any(True for part in fixed.upsamplers for _ in part.parameters())
    before = [p.clone() for p in learned.upsamplers.parameters()]
    step(learned.train())
    for old, new in zip(before, learned.upsamplers.parameters(), strict=True):
        assert new.shape[:2] == (3, 1)
        assert not torch.equal(old, new)


def test_zero_skip_scores_leave_the_coarse_prediction_as_it_is() -> None:
    # Statement 9.
    torch.manual_seed(0)
    net, image = build("fcn16s-resnet18", 3).eval(), torch.randn(1, 3, 60, 70)
    nn.init.normal_(net.heads[0].weight)
    (rows, columns), (first, last) = [plan.stages for plan in net.plans], net.upsamplers
    with torch.no_grad():
        coarse, middle = net.heads[0](net.trunk(image)[-1]), net.trunk(image)[-2]
        keep, sizes = [], []
        for axis, stages in enumerate((rows, columns)):
            inside = stages[0].offset >= 0  # crop the coarse map to the finer one, or the other way round
            keep.append(max(stages[0].offset, 0))
            sizes.append(middle.shape[2 + axis] if inside else first.full_size(coarse.shape[2 + axis], axis))
        alone = last(first(coarse, tuple(keep), tuple(sizes)), (rows[1].offset, columns[1].offset), (60, 70))
        assert torch.equal(net(image), alone)
    assert alone.any()


def test_two_small_upsamplings_cut_the_corners_of_one_large() -> None:
    # Statement 9: an isolated peak keeps 0.5625 of its height through 2x then 16x, 0.969 through 32x.
    def upsampled(scores: Tensor, factors: tuple[int, ...]) -> Tensor:
        for factor in factors:
            up = Upsample(scores.shape[1], kernel=(2 * factor, 2 * factor), stride=(factor, factor))
            scores = up(scores, (0, 0), tuple(up.full_size(scores.shape[2 + axis], axis) for axis in (0, 1)))
        return scores

    peak = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    peak[..., 2, 2] = 1
    assert float(upsampled(peak, (32,)).max()) == pytest.approx(0.969, abs=5e-4)
    assert float(upsampled(peak, (2, 16)).max()) == pytest.approx(0.5625, abs=1e-12)
    torch.manual_seed(0)
    scores = torch.randn(1, 21, 16, 16, dtype=torch.float64)
    once, twice = (upsampled(scores, factors)[0].argmax(0) for factors in ((32,), (2, 16)))
    # Align by the crop offsets of the reference: both grids are centred on the same units.
    margin = (twice.shape[0] - once.shape[0]) // 2
    twice = twice[margin : margin + once.shape[0], margin : margin + once.shape[1]]
    agreement = float((once == twice)[64:-64, 64:-64].double().mean())
    assert 0.85 < agreement < 0.97


def test_heavy_momentum_forgets_in_twenty_images_what_the_batch_forgets_in_one_step() -> None:
    # Statement 10: p^(1/k) = p'^(1/k'), so 0.9 over batches of 20 is 0.9947 image by image; 0.99 remembers 0.818.
    assert pytest.approx(0.9947, abs=5e-5) == 0.9 ** (1 / 20)
    assert pytest.approx(0.818, abs=5e-4) == 0.99**20

    def remembered(momentum: float, updates: int) -> float:
        parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = CaffeSGD([parameter], lr=1.0, momentum=momentum, weight_decay=0.0)
        for update in range(updates + 1):
            parameter.grad = torch.tensor([float(update == 0)], dtype=torch.float64)
            optimizer.step()
        return float(optimizer.state[parameter]["velocity"])

    assert remembered(0.9 ** (1 / 20), 20) == pytest.approx(remembered(0.9, 1), rel=1e-12)
    assert remembered(0.99, 20) == pytest.approx(0.99**20, rel=1e-12)


def test_a_network_of_zeros_never_trains() -> None:
    # Statement 13: without transplanted weights every gradient of the trunk is exactly zero.
    net = build("fcn32s-resnet18", 3)
    for module in net.trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    step(net, steps=3)
    for name, parameter in net.named_parameters():
        if name.startswith("trunk."):
            assert parameter.grad is not None
            assert not parameter.grad.any(), name
    assert not net.heads[0].weight.any()
    assert net.heads[0].bias.any()  # all it can learn is how frequent the classes are


def test_zero_scores_over_a_trained_trunk_do_train() -> None:
    # Statement 13, the other half: the first step moves the scores, the second reaches the trunk.
    torch.manual_seed(0)
    net = build("fcn32s-resnet18", 3)
    step(net)
    assert not any(p.grad.any() for name, p in net.named_parameters() if name.startswith("trunk."))
    assert net.heads[0].weight.any()
    step(net)
    assert any(p.grad.any() for name, p in net.named_parameters() if name.startswith("trunk."))


@pytest.mark.slow
def test_skips_refine_what_the_coarse_network_blurs(tmp_path: Path) -> None:
    # Statements 8, 9 and 11 on generated pictures: thin wires gain most from finer strides, and training
    # only the scores of a trunk that has not been trained learns far less than training all of it.
    data = write_dataset(tmp_path / "data", train=160, val=24)
    changes = {"minutes": None, "epochs": 4, "validate_every": 100, "precision": "fp32", "device": "cpu"}
    chain = change_chain(DEMO_STAGED, changes | {"fcn32s.epochs": 10}, source="test")
    last = {stage.name: train(stage.recipe, data, stage.run) for stage in place(chain, tmp_path)}
    longer = {"epochs": 8, "learning_rate": 1e-3, "start_from": str(tmp_path / "fcn32s" / BEST)}
    coarse = train(chain.stages["fcn32s"].model_copy(update=longer), data, tmp_path / "coarse")
    assert coarse["mean_iu"] < last["fcn8s"]["mean_iu"]  # a lower rate without a skip does not do it: statement 11
    fixed = chain.stages["fcn32s"].model_copy(update={"train_only": "scores", "epochs": 4})
    assert train(fixed, data, tmp_path / "fixed")["mean_iu"] < last["fcn32s"]["mean_iu"] / 2
    assert last["fcn32s"]["mean_iu"] < last["fcn16s"]["mean_iu"] < last["fcn8s"]["mean_iu"]
    assert last["fcn8s"]["per_class_iu"][WIRE] > last["fcn32s"]["per_class_iu"][WIRE] + 0.1


def test_max_fusion_switches_the_gradient_between_streams_and_the_sum_does_not() -> None:
    # Statement 11: why maximum fusion is hard to train.
    for fuse, reached in ((torch.maximum, 1), (torch.add, 2)):
        coarse, fine = (torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
        fuse(coarse, fine).sum().backward()
        assert coarse.grad is not None
        assert fine.grad is not None
        assert ((coarse.grad != 0).int() + (fine.grad != 0).int() == reached).all()


def test_without_the_last_stride_fc6_would_have_to_be_14_x_14() -> None:
    # Statement 11: halving pool5's stride is no way to finer output, for fc6 must still cover 7 of its old steps.
    with torch.device("meta"):
        vgg = build("fcn32s-vgg16")
    path = vgg.plans[0].taps[0]
    fc6 = next(index for index, layer in enumerate(path) if layer.kernel == 7)
    before, after = axis_map(path[: fc6 - 1]).scale, axis_map(path[:fc6]).scale
    assert path[fc6].kernel * after / before == 14


@pytest.mark.slow
def test_mirroring_and_random_scores_make_no_noticeable_difference(tmp_path: Path) -> None:
    # Statement 12, on generated pictures: within 0.1 of mean IU of plain training from zero scores.
    data = write_dataset(tmp_path / "data", train=96, val=24)
    plain = DEMO_STAGED.stages["fcn32s"].model_copy(
        update={"minutes": None, "epochs": 6, "validate_every": 6, "precision": "fp32", "device": "cpu", "flip": False}
    )
    expected = train(plain, data, tmp_path / "plain")["mean_iu"]
    mirrored = train(plain.model_copy(update={"flip": True}), data, tmp_path / "mirrored")["mean_iu"]
    random = train(plain, data, tmp_path / "random", score_std=0.01)["mean_iu"]
    assert abs(mirrored - expected) < 0.1
    assert abs(random - expected) < 0.1
    assert expected > 0.2  # it has learned something: one class alone gives 0.13


def train(recipe: Recipe, data: Path, run: Path, *, score_std: float = 0.0) -> dict[str, Any]:
    watcher = Notes()
    with open_run(run, resume=False) as folder:
        job = assemble(recipe, prepare(recipe, data), folder)
        if score_std:
            for head in job.network.heads:
                nn.init.normal_(head.weight, std=score_std)
        Run(job, folder, watcher).train()
    return watcher.epochs[-1]
