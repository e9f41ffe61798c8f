"""The learning rate as a function of the step.

A pure function and no scheduler object: a group of parameters that joins later cannot be left out of it, and a
resumed run cannot find it at the wrong place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pli_train.config import OptimConfig


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


def at_step(step: int, total_steps: int, optim: OptimConfig) -> float:
    """The learning rate of the update that follows `step` finished ones.

    Warm-up climbs linearly to `lr` so that its last step has it; then the shape runs from `lr` to `lr_end`. `wsd`
    (warm-up, stable, decay; Hu et al. 2024, arXiv:2404.06395) holds `lr` and falls linearly over the last
    `decay_ratio` of training.
    """
    warmup = round(optim.warmup_ratio * total_steps)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    start = warmup if optim.schedule != "wsd" else max(warmup, total_steps - round(optim.decay_ratio * total_steps))
    shape = SHAPES["linear" if optim.schedule == "wsd" else optim.schedule]
    done = min(max(step - start, 0) / max(total_steps - start, 1), 1.0)
    return optim.lr_end + (optim.lr - optim.lr_end) * shape(done)
