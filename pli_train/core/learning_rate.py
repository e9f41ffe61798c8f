"""Learning rate as a function of the step, with the share that newborn and frozen parts get.

Pure functions and no scheduler object: a group of parameters that joins later cannot be left out of them, and a
resumed run cannot find them at the wrong place. Analysis uses them too, so this module imports no torch and no
pydantic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pli_train.core.lineage import Event, Lineage

FOUNDER = -1
"""The birth step of what a run began with: earlier than an event at step 0."""


class Optim(Protocol):
    """The fields of `pli_train.config.schema.OptimConfig` that decide the learning rate."""

    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def lr_end(self) -> float: ...  # noqa: D102
    @property
    def schedule(self) -> str: ...  # noqa: D102
    @property
    def warmup_ratio(self) -> float: ...  # noqa: D102
    @property
    def decay_ratio(self) -> float: ...  # noqa: D102


def linear(done: float) -> float:
    """1 → 0 in a straight line over the share `done` of the time after warm-up."""
    return 1 - done


def cosine(done: float) -> float:
    """1 → 0 along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    return (1 + math.cos(math.pi * done)) / 2


def constant(done: float) -> float:
    """1 throughout."""
    return 1.0


SHAPES: dict[str, Callable[[float], float]] = {"linear": linear, "cosine": cosine, "constant": constant}


def at_step(step: int, total_steps: int, optim: Optim, events: Sequence[Event] = ()) -> float:
    """The learning rate of the update that follows `step` finished ones.

    Warm-up climbs linearly to `lr` so that its last step has it; then the shape runs from `lr` to `lr_end`. `wsd`
    (warm-up, stable, decay; Hu et al. 2024, arXiv:2404.06395) holds `lr` and falls linearly over the last
    `decay_ratio` of training.

    Growth events may have a say. After one with `rewind` the shape starts over from `lr`, without warm-up, and takes
    the rest of training (the warm restart of Loshchilov and Hutter 2017, the learning-rate rewinding of Renda et al.
    2020, arXiv:2003.02389). During the `rewarm_steps` after one with `rewarm` the rate climbs linearly back to what it
    would be (Ibrahim et al. 2024, arXiv:2403.08763).
    """
    past = [event for event in events if event.step <= step]
    begun = _rewound(past)
    if begun is None:
        rate = _on_schedule(step, total_steps, optim, round(optim.warmup_ratio * total_steps))
    else:
        rate = _on_schedule(step - begun, total_steps - begun, optim, warmup=0)
    return rate * climb(step, [event for event in past if event.facts.get("learning_rate") == "rewarm"])


def climb(step: int, events: Sequence[Event]) -> float:
    """How much of the learning rate is back, `step` finished updates into training: the least of these events' shares.

    An event at step s with `rewarm_steps` n lets 1/n through in the first update after it and all of it in the n-th.
    """
    shares = [(step - event.step + 1) / event.facts["rewarm_steps"] for event in events if event.step <= step]
    return min([1.0, *shares])


def phase(step: int, total_steps: int, optim: Optim, events: Sequence[Event] = ()) -> str:
    """The part of the learning-rate schedule that the update after `step` finished ones belongs to.

    Returns:
        `warm-up`; `re-warm-up` in the climb after an event with `rewarm`; else `linear`, `cosine` or `constant` by the
        schedule, `stable` or `decay` under `wsd`; followed by `after step s` once an event at s rewound the schedule.
    """
    past = [event for event in events if event.step <= step]
    if climb(step, [event for event in past if event.facts.get("learning_rate") == "rewarm"]) < 1:
        return "re-warm-up"
    begun = _rewound(past)
    if begun is None and step < round(optim.warmup_ratio * total_steps):
        return "warm-up"
    name = optim.schedule
    if name == "wsd":
        left = total_steps - (begun or 0)
        name = "decay" if step - (begun or 0) >= left - round(optim.decay_ratio * left) else "stable"
    return name if begun is None else f"{name} after step {begun}"


def waiting(lineage: Lineage, step: int) -> int | None:
    """Parts born before this step are frozen now; None when nobody is. Of several freezes the latest counts."""
    holds = [e.step for e in lineage.events if e.step <= step < e.step + e.facts.get("freeze_steps", 0)]
    return max(holds, default=None)


def warming(lineage: Lineage, step: int) -> list[Event]:
    """Events whose newborns are still warming up."""
    mine = (event for event in lineage.events if event.facts.get("learning_rate") == "rewarm-new")
    return [event for event in mine if event.step <= step and climb(step, [event]) < 1]


def of_birth(born: int, lineage: Lineage, step: int) -> float:
    """The pace of what was born at step `born` (FOUNDER for what the run began with): 0 is frozen, 1 is free."""
    since = waiting(lineage, step)
    if since is not None and born < since:
        return 0.0
    return climb(step, [event for event in warming(lineage, step) if event.step == born])


def _rewound(past: Sequence[Event]) -> int | None:
    """The step of the last of these events that started the schedule over."""
    return max((event.step for event in past if event.facts.get("learning_rate") == "rewind"), default=None)


def _on_schedule(step: int, total_steps: int, optim: Optim, warmup: int) -> float:
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    start = warmup if optim.schedule != "wsd" else max(warmup, total_steps - round(optim.decay_ratio * total_steps))
    shape = SHAPES["linear" if optim.schedule == "wsd" else optim.schedule]
    done = min(max(step - start, 0) / max(total_steps - start, 1), 1.0)
    return optim.lr_end + (optim.lr - optim.lr_end) * shape(done)
