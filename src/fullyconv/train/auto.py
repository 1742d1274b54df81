"""Every choice of a recipe from what the data and the machine are like, each with its reason in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, exp, hypot, isnan, sqrt
from typing import Any, Literal, NamedTuple

from fullyconv.data.fingerprint import Fingerprint
from fullyconv.files import counted
from fullyconv.scores.bounds import advise
from fullyconv.train.recipe import MOST_VIEWS

MINUTES = 30.0
GIVEN = "as you set it"

COARSEST, FINEST = 8, 2  # strides that are chosen from
REACHED = 0.95, 0.7  # a stride is fine enough where the mean IU can reach the first, and every class the second
ENOUGH_MPX = 60.0  # millions of pixels that a run should see at least: else a coarser, quicker network learns more
PASSES = {
    2: 8,
    4: 3,
}  # over the training pictures that a stride is worth: before, what is there matters more than where
UPDATES = 1200  # that a run should have before views and batches grow
LONG = 3000  # updates from which a lower rate pays
MOST_UPDATES = 6000  # where nobody said how long
VIEW_MPX: dict[str, tuple[float, float]] = {"cpu": (0.15, 0.82), "cuda": (0.82, 4.2)}  # of an update, least and most
SIDES = (128, 512)  # of views
TURNS_WITHIN = 0.75  # of a picture's shorter side: the diagonal of views that are turned
WHOLE_ENOUGH = 320  # a side at which a view of a picture with an up shows enough of it
FULL_BATCH, SMALL_BATCH, MOST_BATCH = 8, 4, 32
BYTES_PER_PIXEL = 2500  # of a batch, of all that a training step keeps
VALIDATING = 0.08  # the share of the time that may go into validations
EPOCHS = 12  # about as many, so that there are as many validations
MANY = 40  # looks at each picture, below which views need not differ as much (CamVid: zoom costs at 6, not at 36)
SLACK = 1.2  # more epochs than the pace promises: the clock ends the run


class Choice(NamedTuple):
    """A key of the recipe, its value, and why."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Machine:
    """What there is to train with; ``memory`` in bytes, of the device."""

    device: Literal["cpu", "cuda"]
    cores: int
    memory: int
    bf16: bool


Pace = Callable[[str], float]
"""Seconds that a network, by its name, trains on a million pixels."""


def choose(
    data: Fingerprint, machine: Machine, given: Mapping[str, Any], pace: Pace, *, start: str = ""
) -> list[Choice]:
    """Choose what a recipe leaves open.

    Args:
        data: What the training pictures are like.
        machine: What there is to train with.
        given: What was set: it is kept, and the rest goes by it.
        pace: Measures, or knows, how quickly networks train here.
        start: The trunk, or the whole network, that the weights fit which the run starts from; empty: fresh weights.

    Returns:
        All choices, those that were given too, in the order in which they follow from each other.

    >>> from fullyconv.scores.bounds import count_bounds
    >>> import numpy as np
    >>> blocks = count_bounds(np.repeat([0, 1], 64)[None].repeat(64, 0), classes=2)
    >>> data = Fingerprint(100, 1_000_000, (400, 500), ("a", "b"), (0.5, 0.5), (60.0, 60.0), 0.1, blocks,
    ...                    grey=True, halves=0.0, layout=0.0)
    >>> found = choose(data, Machine("cpu", 2, 16 << 30, bf16=True), {"minutes": 10}, lambda name: 1.0)
    >>> [(choice.key, choice.value) for choice in found][:3]
    [('minutes', 10), ('network', 'fpn8s-resnet18'), ('crop', (224, 224))]
    """
    made = _Made(data, machine, given, pace, start)
    _length(made)
    _network(made)
    _views(made)
    _augmentation(made)
    _loss(made)
    _schedule(made)
    _rates(made)
    _arithmetic(made)
    return list(made.choices.values())


class _Made:
    """What has been chosen so far, and what it follows from."""

    def __init__(self, data: Fingerprint, machine: Machine, given: Mapping[str, Any], pace: Pace, start: str) -> None:
        self.data, self.machine, self.given, self.start = data, machine, given, start
        self.choices: dict[str, Choice] = {}
        self._pace, self._paces = pace, dict[str, float]()

    def take(self, key: str, value: Any, reason: str) -> Any:
        """Choose a value, unless one is given; returns which it is."""
        if key in self.given:
            value, reason = self.given[key], GIVEN
        self.choices[key] = Choice(key, value, reason)
        return value

    def __getitem__(self, key: str) -> Any:
        return self.choices[key].value

    def pace(self, network: str) -> float:
        """Return the seconds per million pixels, measured once."""
        if network not in self._paces:
            self._paces[network] = self._pace(network)
        return self._paces[network]

    @property
    def full_name(self) -> str:
        """The network with its trunk."""
        trunk = self.given.get("trunk")
        return f"{self['network'].partition('-')[0]}-{trunk}" if trunk else self["network"]

    def megapixels(self, network: str) -> float:
        """Return the millions of pixels that a network sees in the time there is."""
        if self["minutes"] is None:
            return float("inf")
        return (1 - VALIDATING) * 60 * float(self["minutes"]) / self.pace(network)


def _length(made: _Made) -> None:
    if "epochs" in made.given:
        made.take("minutes", None, "epochs are set")
    else:
        made.take("minutes", MINUTES, "nobody said how long: set minutes for another length")


def _network(made: _Made) -> None:
    """Take the finest stride that the masks ask for, and of the networks of that stride one that the time allows."""
    data, start = made.data, made.start
    if start and "-" in start:
        made.take("network", start, "that of the model it starts from")
        return
    trunk = made.given.get("trunk") or start or "resnet18"
    finest = FINEST if trunk == "resnet18" else 4
    stride = min(COARSEST, max(finest, data.bounds.coarsest(*REACHED)))
    why = advise(data.bounds, data.names, stride).removeprefix("advice: ")
    whence = "its weights are given" if start or made.given.get("trunk") else "a compact trunk: no weights are given"
    if "network" not in made.given:
        while stride < COARSEST:
            full = f"fpn{stride}s-{trunk}"
            passes = made.megapixels(full) / data.megapixels
            if made.megapixels(full) >= ENOUGH_MPX and passes >= PASSES[stride]:
                break
            why = f"stride {stride} would see each training picture {passes:.1f} times in the time there is"
            stride *= 2
            why = f"stride {stride}: {why}"
    variant = f"fpn{stride}s"
    made.take("network", variant if made.given.get("trunk") else f"{variant}-{trunk}", f"{why}; {whence}")


def _augmentation(made: _Made) -> None:
    data = made.data
    passes = made.megapixels(made.full_name) / data.megapixels
    factor = exp(min(0.5, max(0.1, 0.6 * data.variety * min(1, passes / MANY))))
    said = f"areas of one class differ by a factor of {exp(data.variety):.2f} in thickness from picture to picture"
    said += f"; each is seen only {passes:.0f} times" if passes < MANY else ""
    made.take("scale", (round(1 / factor, 2), round(factor, 2)), said)
    if data.sided:
        made.take("flip", False, f"{data.sided!r} lies on one side of nearly every picture")
    else:
        made.take("flip", True, "no class keeps to one side")
    if data.halves > 0.1:
        why = f"top and bottom differ in the classes of {data.halves:.0%} of the pixels"
    elif data.upright:
        why = f"{data.layout:.0%} of what turning them over changes in brightness is common to all pictures"
    else:
        why = f"the pictures have no up: their halves differ in {data.halves:.1%} of the pixels"
    free = not (data.upright or data.sided)
    made.take("upside_down", free, why)
    crop = made["crop"]
    inside = crop is not None and hypot(*crop) <= TURNS_WITHIN * min(data.size)
    filled = why if inside or not free else f"{why}; but turned views of this size would be full of void"
    made.take("rotation", 180.0 if free and inside else 0.0, filled)
    what = "brightness and contrast, the pictures are grey" if data.grey else "brightness, contrast and saturation"
    made.take("colour", 0.2, f"{what}: cameras and light differ")


def _views(made: _Made) -> None:
    """Share the pixels of the run out to updates, views and batches."""
    least, most = VIEW_MPX[made.machine.device]
    budget = made.megapixels(made.full_name)
    wanted = min(most, max(least, budget / UPDATES))
    room = made.machine.memory / 2 / BYTES_PER_PIXEL / 1e6
    side = sqrt(1e6 * wanted / FULL_BATCH)
    if side < 192:
        side = sqrt(1e6 * wanted / SMALL_BATCH)
    side = min(SIDES[1], max(SIDES[0], 32 * round(side / 32)))
    fits = [_side(made.data, int(side), axis) for axis in (0, 1)]
    seen = "as the clock allows" if budget == float("inf") else f"{budget:.0f} million pixels in the time there is"
    half = ", at least half a picture, for it has an up" if max(fits) > side else ""
    crop = made.take("crop", (fits[0], fits[1]), f"{seen}, shared out to about {UPDATES} updates or more{half}")
    height, width = crop or made.data.size
    area = height * width / 1e6
    together = 1 if crop is None else min(MOST_BATCH, max(SMALL_BATCH, round(wanted / area)))
    batch = max(1, min(together, int(room / area)))
    made.take("batch", batch, f"{batch * area:.2f} million pixels at a time" + _held(batch, together))
    rest = ceil(together / made["batch"])
    made.take("accumulate", rest, "more do not fit into memory" if rest > 1 else "the batch fits into memory")


def _side(data: Fingerprint, side: int, axis: int) -> int:
    """Return a side of the views: half a picture that has an up at least, and no more than there is in most."""
    if data.upright:
        side = max(side, min(WHOLE_ENOUGH, 32 * ceil(data.size[axis] / 64)))
    return min(side, max(32, data.size[axis] // 32 * 32))


def _held(batch: int, together: int) -> str:
    return f", of {together} views wanted: memory holds no more" if batch < together else ""


def _loss(made: _Made) -> None:
    present = [share for share in made.data.shares if share > 0]
    rarest, ratio = (min(present), max(present) / min(present)) if present else (1.0, 1.0)
    index = made.data.shares.index(rarest) if present else 0
    name, thick = made.data.names[index], made.data.thickness[index]
    width = "" if isnan(thick) or thick == float("inf") else f", about {thick:.0f} px thick"
    said = f"{name!r} has {rarest:.1%} of the labelled pixels{width}"
    if len(present) == 2 and ratio > 3:
        made.take("loss", "cross-entropy+dice", f"two classes, and {said}: soft Dice weighs it as a region")
        made.take("balance", 0.0, "soft Dice looks after the rare class")
        return
    made.take("loss", "cross-entropy", f"{len(present)} classes")
    if ratio > 3:
        made.take("balance", 0.5, f"{said}, {ratio:.0f} times fewer than the most frequent class")
    else:
        made.take("balance", 0.0, "the classes are about as frequent")


def _schedule(made: _Made) -> None:
    """Turn the time into updates, and these into epochs of which each is worth a validation."""
    pictures, together = made.data.pictures, made["batch"] * made["accumulate"]
    if "epochs" in made.given:
        made.take("repeat", 1, "epochs are set")
        made.take("validate_every", max(1, made.take("epochs", 1, GIVEN) // EPOCHS), f"{EPOCHS} validations at most")
        return
    height, width = made["crop"] or made.data.size
    possible = made.megapixels(made.full_name) / (together * height * width / 1e6)
    limited = possible > MOST_UPDATES and (made["minutes"] is None or "minutes" not in made.given)
    updates = max(1, MOST_UPDATES if limited else int(possible))
    rounds = min(max(1, MOST_VIEWS // pictures), ceil(updates * together / (EPOCHS * pictures)))
    what = f"{pictures} pictures, {updates} updates of {together} views"
    repeat = made.take("repeat", rounds, f"{what}: {EPOCHS} epochs at most, each as long as to be worth a validation")
    epochs = ceil((1 if limited else SLACK) * updates / max(1, repeat * pictures // together))
    if limited:
        made.take("epochs", epochs, f"{MOST_UPDATES} updates, where nobody said how long")
    else:
        speed = f"{made.pace(made.full_name):.2g} s per million pixels"
        made.take("epochs", epochs, f"more than {made['minutes']:g} minutes hold at {speed}: the clock ends the run")
    _validation(made, epochs / (1 if limited else SLACK))


def _validation(made: _Made, epochs: float) -> None:
    """Validate as often as a small share of the time allows, ``EPOCHS`` times at most."""
    count, said = EPOCHS, f"{EPOCHS} validations at most"
    if made["minutes"] is not None:
        each = made.data.held_out / 1e6 * made.pace(made.full_name) / 3  # without gradients
        count = min(EPOCHS, max(2, int(VALIDATING * 60 * made["minutes"] / max(each, 1e-9))))
        said = f"a validation takes about {each:.2g} s, all of them {VALIDATING:.0%} of the time at most"
    made.take("validate_every", max(1, ceil(epochs / count)), said)


def _rates(made: _Made) -> None:
    pictures = made.data.pictures
    updates = made["epochs"] * max(1, made["repeat"] * pictures // (made["batch"] * made["accumulate"]))
    short = updates < LONG
    if made.start:
        made.take("learning_rate", 1e-3, "the trunk's weights are given")
        made.take("trunk_rate", 0.5, "the trunk has learned before, the rest has not")
        keep = round(1 - 1 / max(10.0, 0.05 * updates), 4)
        made.take("average", keep, f"a moving average over about a 20th of {updates} updates")
    else:
        rate = 2e-3 if short else 1e-3
        made.take("learning_rate", rate, f"{updates} updates, {'few' if short else 'enough for a lower rate'}")
    made.take("warmup", 0.05 if short else 0.02, "the first updates of fresh layers go astray at the full rate")


def _arithmetic(made: _Made) -> None:
    machine = made.machine
    place = "a GPU" if machine.device == "cuda" else f"{counted(machine.cores, 'CPU core')}"
    has = "with" if machine.bf16 else "without"
    made.take("precision", "bf16" if machine.bf16 else "fp32", f"{place} {has} instructions for bfloat16")
    if machine.device == "cuda":
        made.take("workers", min(8, max(0, machine.cores - 1)), "a GPU is quicker than one thread that prepares views")
