"""The states of a net, and the fields that say how a blob of weights trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["TRAIN", "TEST"]


@dataclass(frozen=True)
class ParamSpec:
    """``param``: how a blob of weights trains."""

    name: str = ""
    share_mode: Literal["STRICT", "PERMISSIVE"] = "STRICT"
    lr_mult: float = 1
    decay_mult: float = 1


@dataclass(frozen=True)
class StateRule:
    """``include`` and ``exclude``: in which state of the net a layer is there."""

    phase: Phase | None = None
    min_level: int | None = None
    max_level: int | None = None
    stage: tuple[str, ...] = ()
    not_stage: tuple[str, ...] = ()

    def __str__(self) -> str:
        levels = [f"level at least {self.min_level}"] if self.min_level is not None else []
        levels += [f"level at most {self.max_level}"] if self.max_level is not None else []
        phase = [f"phase {self.phase}"] if self.phase else []
        stages = [f"stage {stage!r}" for stage in self.stage] + [f"no stage {stage!r}" for stage in self.not_stage]
        return " and ".join(phase + levels + stages) or "any state"


@dataclass(frozen=True)
class State:
    """The state of a net."""

    phase: Phase | None = None
    level: int = 0
    stage: tuple[str, ...] = ()

    def meets(self, rule: StateRule) -> bool:
        """Return whether a rule holds in this state (Caffe's ``StateMeetsRule``)."""
        return (
            rule.phase in (None, self.phase)
            and (rule.min_level is None or self.level >= rule.min_level)
            and (rule.max_level is None or self.level <= rule.max_level)
            and all(stage in self.stage for stage in rule.stage)
            and not any(stage in self.stage for stage in rule.not_stage)
        )
