"""The learning rate as a function of the step.

A pure function and no scheduler object: a group of parameters that joins later cannot be left out of it, and a
resumed run cannot find it at the wrong place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pli_train.lineage import Event
    from pli_train.sections import OptimConfig


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


def at_step(step: int, total_steps: int, optim: OptimConfig, events: Sequence[Event] = ()) -> float:
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
    begun = max((event.step for event in past if event.facts.get("learning_rate") == "rewind"), default=None)
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


def _on_schedule(step: int, total_steps: int, optim: OptimConfig, warmup: int) -> float:
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    start = warmup if optim.schedule != "wsd" else max(warmup, total_steps - round(optim.decay_ratio * total_steps))
    shape = SHAPES["linear" if optim.schedule == "wsd" else optim.schedule]
    done = min(max(step - start, 0) / max(total_steps - start, 1), 1.0)
    return optim.lr_end + (optim.lr - optim.lr_end) * shape(done)
