"""A solver's file, ``solver.prototxt``: what to train, how fast, how long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fullyconv.caffe.description import Description, describe, describe_message
from fullyconv.caffe.prototxt import Message, parse
from fullyconv.caffe.states import State
from fullyconv.files import BadFile

Method = Literal["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"]
OldMethod = Literal["SGD", "NESTEROV", "ADAGRAD", "RMSPROP", "ADADELTA", "ADAM"]

METHODS: dict[str, Method] = {
    "SGD": "SGD", "NESTEROV": "Nesterov", "ADAGRAD": "AdaGrad", "RMSPROP": "RMSProp", "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}  # fmt: skip
LEAST = {
    "max_iter": 0, "iter_size": 1, "average_loss": 1, "snapshot": 0, "display": 0, "test_interval": 0, "base_lr": 0,
    "weight_decay": 0,
}  # fmt: skip
NEEDS: dict[str, tuple[str, ...]] = {  # what each lr_policy reads
    "fixed": (), "step": ("gamma", "stepsize"), "exp": ("gamma",), "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"), "poly": ("power", "max_iter"), "sigmoid": ("gamma", "stepsize"),
}  # fmt: skip
INLINE = ("net_param", "train_net_param", "test_net_param")


@dataclass(frozen=True)
class Settings:
    """The fields of a solver's file, with Caffe's defaults; the nets themselves are read by ``nets``."""

    net: str = ""
    train_net: str = ""
    test_net: tuple[str, ...] = ()
    train_state: State = field(default_factory=State)
    test_state: tuple[State, ...] = ()
    test_iter: tuple[int, ...] = ()
    test_interval: int = 0
    test_compute_loss: bool = False  # no effect: losses of a test are outputs of the net
    test_initialization: bool = True
    base_lr: float = 0
    display: int = 0
    average_loss: int = 1
    max_iter: int = 0
    iter_size: int = 1
    lr_policy: str = "fixed"
    gamma: float | None = None
    power: float | None = None
    momentum: float = 0
    weight_decay: float = 0
    regularization_type: str = "L2"
    stepsize: int | None = None
    stepvalue: tuple[int, ...] = ()
    clip_gradients: float = -1
    snapshot: int = 0
    snapshot_prefix: str = ""
    snapshot_diff: bool = False
    snapshot_format: Literal["HDF5", "BINARYPROTO"] = "BINARYPROTO"
    snapshot_after_train: bool = True
    solver_mode: Literal["CPU", "GPU"] = "GPU"  # no effect: --device says where
    device_id: int = 0
    random_seed: int = -1
    type: str = ""
    solver_type: OldMethod | None = None
    delta: float = 1e-8
    momentum2: float = 0.999
    rms_decay: float = 0.99
    debug_info: bool = False
    layer_wise_reduce: bool = True
    weights: tuple[str, ...] = ()

    @property
    def method(self) -> Method:
        """How weights follow gradients."""
        if self.solver_type is not None:
            return METHODS[self.solver_type]
        return METHODS[(self.type or "SGD").upper()]


@dataclass(frozen=True)
class Solver:
    """A solver's file: its settings, the net that it trains and the nets that it tests."""

    path: Path
    settings: Settings
    train: Description
    tests: list[Description]


def read_solver(path: Path) -> Solver:
    """Read a solver's file and the nets that it names, which are looked for from the working folder and beside it.

    Raises ``BadFile`` for a field, a method, a policy or a number of nets and tests that cannot be honoured.
    """
    root = parse(path)
    if root.messages("layer") or root.messages("layers"):
        raise root.fail("this describes a net, not its training", "give the solver.prototxt that names it")
    inline = {name: root.messages(name) for name in INLINE}
    rest = Message(root.path, 1, {name: found for name, found in root.fields.items() if name not in INLINE})
    settings = rest.read(Settings, "the solver")
    _check(settings, rest)
    train = _train_net(settings, inline, path)
    tests = _test_nets(settings, inline, path)
    if len(settings.test_iter) not in (0, len(tests)):
        raise rest.fail(f"{len(settings.test_iter)} test_iter for {len(tests)} test nets", "give one for each")
    return Solver(path, settings, train, tests if settings.test_iter else [])


def _check(settings: Settings, message: Message) -> None:
    for what, fix in _faults(settings):
        raise message.fail(what, fix)


def _faults(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield what cannot be honoured, and what to write."""
    kind, policy = settings.type or "SGD", settings.lr_policy
    if kind.upper() not in METHODS:
        yield f"type is {kind!r}", f"write one of {', '.join(METHODS.values())}"
    elif settings.momentum and settings.method in ("AdaGrad", "RMSProp"):
        yield f"{settings.method} with a momentum", "remove momentum: it has none in Caffe"
    if policy not in NEEDS:
        yield f"lr_policy is {policy!r}", f"write one of {', '.join(NEEDS)}"
    yield from (
        (f"lr_policy {policy} without {name}", f"add {name}: …")
        for name in NEEDS.get(policy, ())
        if not getattr(settings, name)
    )
    if settings.regularization_type not in ("L1", "L2"):
        yield f"regularization_type is {settings.regularization_type!r}", "write L1 or L2"
    if settings.snapshot_format == "HDF5" or settings.snapshot_diff:
        yield "snapshots in HDF5, or with gradients", "write snapshot_format: BINARYPROTO, no snapshot_diff"
    yield from (
        (f"{name} is {getattr(settings, name)}", f"it is at least {least}")
        for name, least in LEAST.items()
        if getattr(settings, name) < least
    )
    if not 0 <= settings.momentum < 1:
        yield f"momentum is {settings.momentum}", "it lies from 0 to below 1"


def _train_net(settings: Settings, inline: dict[str, list[Message]], path: Path) -> Description:
    given = [name for name in ("net", "train_net") if getattr(settings, name)]
    given += [name for name in ("net_param", "train_net_param") if inline[name]]
    if len(given) != 1:
        raise BadFile(
            path, f"names {len(given)} nets to train", "give one of net, train_net, net_param, train_net_param"
        )
    state = _state(settings.train_state, "TRAIN")
    if inline["net_param"] or inline["train_net_param"]:
        return describe_message((inline["net_param"] or inline["train_net_param"])[0], state)
    return describe(find(settings.net or settings.train_net, path), state)


def _test_nets(settings: Settings, inline: dict[str, list[Message]], path: Path) -> list[Description]:
    """Read the nets to test, in Caffe's order: given inline, by name, and the training's own net for the rest."""
    count = max(len(settings.test_iter), len(inline["test_net_param"]) + len(settings.test_net))
    states = [*settings.test_state, *[State()] * count][:count]
    found = []
    for index, state in enumerate(_state(state, "TEST") for state in states):
        if index < len(inline["test_net_param"]):
            found.append(describe_message(inline["test_net_param"][index], state))
        elif index - len(inline["test_net_param"]) < len(settings.test_net):
            found.append(describe(find(settings.test_net[index - len(inline["test_net_param"])], path), state))
        elif inline["net_param"]:
            found.append(describe_message(inline["net_param"][0], state))
        elif settings.net:
            found.append(describe(find(settings.net, path), state))
    return found


def _state(state: State, phase: Literal["TRAIN", "TEST"]) -> State:
    return State(state.phase or phase, state.level, state.stage)


def find(name: str, beside: Path, *, moved: bool = True) -> Path:
    """Find a file that a solver or a net names: from the working folder, as Caffe does, else beside that file.

    ``moved``: it may also lie beside it without the folders of its name, which are of another machine.
    """
    places = [Path(name), *([beside.parent / Path(name).name] if moved else []), beside.parent / name]
    return next((place for place in places if place.exists()), places[-1])
