"""Optimisers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.sgd import sgd

OptimizerName = Literal["caffe-sgd", "sgd", "adamw"]
BiasMultipliers = Literal["all", "scores"]
CRF = "crf."  # before the names of the CRF's weights in a network
BIAS_RATE = 2.0  # the reference's lr_mult of biases; their decay_mult is 0


class Descent(BaseModel):
    """How weights follow the gradient: the choices that every training has, on pictures or on a scene."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    changeable: ClassVar[tuple[str, ...]] = ()
    """The choices that a resumed run may change."""

    optimizer: OptimizerName = "adamw"
    """``caffe-sgd`` is SGD with the reference's semantics: biases learn twice as fast and do not decay."""
    bias_multipliers: BiasMultipliers = "all"
    """With ``caffe-sgd``: whether ``all`` biases have that, or only those of the ``scores`` (reference AlexNet)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The highest of the run, after ``warmup``."""
    trunk_rate: Annotated[float, Field(gt=0)] = 1.0
    """Multiplies the learning rate of the trunk: below 1 where it is pretrained and the score layers are fresh."""
    rest_trunk: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of the run, from its start, in which the trunk rests and only score layers learn."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD; with AdamW the decay of its mean gradient."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Of convolution weights; biases and normalisation do not decay."""
    schedule: Literal["poly", "fixed"] = "poly"
    """``poly`` falls to zero as (1 - share of the run) ** ``power``."""
    power: Annotated[float, Field(gt=0)] = 0.9
    """The exponent of ``poly``."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """The share of the run in which the learning rate rises from zero."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Gradients are scaled down to this norm (over all weights) where theirs is larger; ``null`` leaves them."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse ``batch=true``: Python would count it as 1."""
        given = value if isinstance(value, list | tuple) else [value]
        wanted = cls.model_fields[str(info.field_name)].annotation
        if any(isinstance(each, bool) for each in given) and bool not in (wanted, *get_args(wanted)):
            raise ValueError("true and false are no numbers")
        return value

    def rate_at(self, progress: float) -> float:
        """Return the learning rate at some point of the run.

        Args:
            progress: How far the run is, 0..1.

        Returns:
            The rate; with ``poly`` it falls by (1 - progress) ** power, as DeepLab and most segmentation recipes do.

        >>> Descent(learning_rate=0.1, power=1, warmup=0).rate_at(0.25)
        0.07500000000000001
        """
        # The small step keeps the very first update from a rate of zero.
        rise = min(1.0, (progress + 1e-4) / self.warmup) if self.warmup else 1.0
        fall = (1 - min(progress, 1.0)) ** self.power if self.schedule == "poly" else 1.0
        return self.learning_rate * (rise * fall)


def make_optimizer(network: nn.Module, descent: Descent) -> Optimizer:
    """Make an optimiser over the trainable parameters.

    Weights of convolutions decay; biases, normalisation parameters and a CRF's do not; the trunk's learn at
    ``trunk_rate`` times the rate (``set_rates``). ``fused`` runs the whole update in one
    pass over memory. For ``caffe-sgd`` and ``bias_multipliers`` see ``caffe_groups``.
    """
    rate, momentum, decay = descent.learning_rate, descent.momentum, descent.weight_decay
    if descent.optimizer == "caffe-sgd":
        caffe = caffe_groups(network, bias_multipliers=descent.bias_multipliers)
        return CaffeSGD(caffe, lr=rate, momentum=momentum, weight_decay=decay)
    trainable = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    trunks = {id(parameter) for trunk in trunk_of(network) for parameter in trunk.parameters()}
    kinds: dict[tuple[bool, bool], list[Tensor]] = {(True, False): [], (False, False): []}
    for name, parameter in trainable:
        apart = id(parameter) in trunks and (descent.trunk_rate != 1 or descent.rest_trunk > 0)
        kinds.setdefault((parameter.ndim > 1 and not name.startswith(CRF), apart), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay if decays else 0.0}
        | ({"share": descent.trunk_rate, "rests": descent.rest_trunk} if trunk else {})
        for (decays, trunk), parameters in kinds.items()
    ]
    if descent.optimizer == "sgd":
        return DenseSGD(groups, lr=rate, momentum=momentum)
    return DenseAdamW(groups, lr=rate, betas=(momentum, 0.999), fused=True)


class DenseSGD(SGD):
    """SGD whose fused update walks through weights as they lie in memory.

    PyTorch's copies those that lie channels last, to and fro, which takes four times as long as the update.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one update; takes no closure."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            tensors = [[weight, weight.grad] for weight in weights]
            if group["momentum"]:
                for weight, row in zip(weights, tensors, strict=True):
                    state = self.state[weight]
                    if state.get("momentum_buffer") is None:
                        state["momentum_buffer"] = torch.zeros_like(weight)
                    row.append(state["momentum_buffer"])
            rows = [_as_they_lie(row) for row in tensors]
            sgd(
                [row[0] for row in rows],
                [row[1] for row in rows],
                [row[2] if group["momentum"] else None for row in rows],
                fused=True,
                **{key: group[key] for key in ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")},
            )


class DenseAdamW(AdamW):
    """AdamW whose fused update walks through weights as they lie in memory; see ``DenseSGD``."""

    def _init_group(self, group: dict[str, Any], *lists: Any) -> Any:
        found = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]
        weights, gradients, means, squares = lists[:4]
        for index, row in enumerate(zip(weights, gradients, means, squares, strict=True)):
            weights[index], gradients[index], means[index], squares[index] = _as_they_lie(row)
        return found


def _as_they_lie(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Turn tensors that all lie channels last so that they are contiguous; others stay as they are."""
    turned = [tensor.detach().permute(0, 2, 3, 1) for tensor in tensors if tensor.ndim == 4]
    return turned if len(turned) == len(tensors) and all(each.is_contiguous() for each in turned) else list(tensors)


def set_rates(optimizer: Optimizer, rate: float, progress: float) -> None:
    """Set the learning rate of every group of parameters at ``progress`` (0..1) through the run."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if progress < group.get("rests", 0.0) else rate * group.get("share", 1.0)


def trunk_of(network: nn.Module) -> list[nn.Module]:
    """Return the trunks of a network, below whatever brings their maps together."""
    streams: Iterable[nn.Module] = getattr(network, "streams", {}).values()
    return [cast("nn.Module", getattr(stream, "trunk", stream)) for stream in streams]


def caffe_groups(network: nn.Module, *, bias_multipliers: BiasMultipliers = "all") -> list[dict[str, Any]]:
    """Group the trainable parameters as the reference's ``param`` entries do.

    Biases of convolutions learn at twice the rate and do not decay, in ``all`` layers or only in the
    ``scores`` (the reference's AlexNet: its trunk, ``trunk.…``, has no such entries); parameters of
    normalisation layers learn at the rate itself and do not decay, and all else is a weight.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = network.get_submodule(name.rpartition(".")[0])
        rate, decay = 1.0, 1.0
        if isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm) or name.startswith(CRF):
            decay = 0.0
        elif name.endswith("bias") and (bias_multipliers == "all" or not name.startswith("trunk.")):
            rate, decay = BIAS_RATE, 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "rate_multiplier": rate, "decay_multiplier": decay}
        for (rate, decay), parameters in groups.items()
    ]


class CaffeSGD(Optimizer):
    """Stochastic gradient descent as Caffe's solver does it.

    ``V <- momentum * V + lr * rate_multiplier * (g + weight_decay * decay_multiplier * W)``, then ``W <- W
    - V``. The learning rate lies inside the velocity, so after it changes the old velocity runs out at
    the old rate; ``torch.optim.SGD`` would rescale it (with a fixed rate the two agree). The multipliers are
    given per parameter group and default to 1.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]] | Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"lr and weight_decay are 0 or more and momentum lies from 0 to below 1, not {lr}, {weight_decay}, "
                f"{momentum}"
            )
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(cast("Any", groups), defaults | {"rate_multiplier": 1.0, "decay_multiplier": 1.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one update; parameters without a gradient rest, their velocity too. Takes no closure."""
        if closure is not None:
            raise ValueError("CaffeSGD takes no closure: compute the gradients first, then call step()")
        for group in self.param_groups:
            rate = group["lr"] * group["rate_multiplier"]
            decay = group["weight_decay"] * group["decay_multiplier"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(parameter)
                velocity = state["velocity"].mul_(group["momentum"])
                velocity.add_(parameter.grad, alpha=rate).add_(parameter, alpha=rate * decay)
                parameter.sub_(velocity)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Flatten an optimiser's state to named tensors."""
    return {
        f"{index}.{key}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # Fused updates walk memory: state must lie as its parameter does (channels last).
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        state.setdefault(int(index), {})[key] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
