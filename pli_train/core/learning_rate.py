"""Learning rate as a function of the step, and the factor applied to new and frozen parts.

These are pure functions without a scheduler object: parameter groups added later cannot be missing from it, and resumed
runs cannot restore a wrong state. Analysis uses them too, so this module imports neither torch nor pydantic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pli_train.core.lineage import Event, Lineage

FOUNDER = -1
"""The birth step of the initial parts of a run: earlier than an event at step 0."""


class Optim(Protocol):
    """The fields of `pli_train.config.schema.OptimConfig` that determine the learning rate."""

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
    """Return the linear decay from 1 to 0, for the share `done` of the steps after warm-up."""
    return 1 - done


def cosine(done: float) -> float:
    """Return the cosine decay from 1 to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    return (1 + math.cos(math.pi * done)) / 2


def constant(done: float) -> float:
    """Return 1, for a constant rate."""
    return 1.0


SHAPES: dict[str, Callable[[float], float]] = {"linear": linear, "cosine": cosine, "constant": constant}


def at_step(step: int, total_steps: int, optim: Optim, events: Sequence[Event] = ()) -> float:
    """Return the learning rate of the update after `step` completed updates.

    Warm-up rises linearly and reaches `lr` at its last step. Then the rate decays from `lr` to `lr_end`. `wsd`
    (warm-up, stable, decay; Hu et al. 2024, arXiv:2404.06395) keeps `lr` and decays linearly over the last
    `decay_ratio` of training.

    Growth events can change the schedule. An event with `rewind` restarts the decay at `lr`, without warm-up, over the
    rest of training (the warm restart of Loshchilov and Hutter 2017, the learning-rate rewinding of Renda et al. 2020,
    arXiv:2003.02389). During the `rewarm_steps` after an event with `rewarm`, the rate rises linearly back to the
    schedule (Ibrahim et al. 2024, arXiv:2403.08763).
    """
    past = [event for event in events if event.step <= step]
    begun = _rewound(past)
    if begun is None:
        rate = _on_schedule(step, total_steps, optim, round(optim.warmup_ratio * total_steps))
    else:
        rate = _on_schedule(step - begun, total_steps - begun, optim, warmup=0)
    return rate * climb(step, [event for event in past if event.facts.get("learning_rate") == "rewarm"])


def climb(step: int, events: Sequence[Event]) -> float:
    """Return the re-warm-up factor of the learning rate after `step` completed updates: the smallest of the events.

    The factor of an event with `rewarm_steps` n is 1/n in the first update after it, and 1 in the n-th.
    """
    shares = [(step - event.step + 1) / event.facts["rewarm_steps"] for event in events if event.step <= step]
    return min([1.0, *shares])


def phase(step: int, total_steps: int, optim: Optim, events: Sequence[Event] = ()) -> str:
    """Return the phase of the learning-rate schedule for the update after `step` completed updates.

    Returns:
        `warm-up`; `re-warm-up` after an event with `rewarm`; else the schedule's `linear`, `cosine` or `constant`, or
        `stable` or `decay` for `wsd`; followed by `after step s` if an event at step s rewound the schedule.
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
    """Return the step of the latest freeze that is active, which freezes parts born before it; None without one."""
    holds = [e.step for e in lineage.events if e.step <= step < e.step + e.facts.get("freeze_steps", 0)]
    return max(holds, default=None)


def warming(lineage: Lineage, step: int) -> list[Event]:
    """Return the events whose new parts are still warming up."""
    mine = (event for event in lineage.events if event.facts.get("learning_rate") == "rewarm-new")
    return [event for event in mine if event.step <= step and climb(step, [event]) < 1]


def of_birth(born: int, lineage: Lineage, step: int) -> float:
    """Return the learning-rate factor of parts born at step `born` (FOUNDER: initial parts): from 0 (frozen) to 1."""
    since = waiting(lineage, step)
    if since is not None and born < since:
        return 0.0
    return climb(step, [event for event in warming(lineage, step) if event.step == born])


def _rewound(past: Sequence[Event]) -> int | None:
    """Return the step of the last event that rewound the schedule, or None."""
    return max((event.step for event in past if event.facts.get("learning_rate") == "rewind"), default=None)


def _on_schedule(step: int, total_steps: int, optim: Optim, warmup: int) -> float:
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    start = warmup if optim.schedule != "wsd" else max(warmup, total_steps - round(optim.decay_ratio * total_steps))
    shape = SHAPES["linear" if optim.schedule == "wsd" else optim.schedule]
    done = min(max(step - start, 0) / max(total_steps - start, 1), 1.0)
    return optim.lr_end + (optim.lr - optim.lr_end) * shape(done)
