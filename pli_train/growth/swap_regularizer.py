"""Swap two layers for a single step, as a regularizer.

With some probability a training step runs with two layers swapped, adjacent ones or any two; after the step they are
swapped back. Only the gradients of that step are affected: lineage and checkpoints always have the layers at their own
indices. Whether a step swaps, and which pair, depends only on the seed and the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING

from pli_train.core.randomness import derive
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from torch import nn

    from pli_train.growth.config import SwappingConfig

ANNEAL: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
"""Name → function of the fraction of training that is done; it returns the factor of the probability."""


class SwapRegularizer:
    """Decide which steps swap layers, and which two.

    Args:
        settings: the section `[growth.swapping]`.
        seed: of the run.
        total_steps: optimizer updates of the run.
        lowest: lowest index that may be swapped; some families have a bottom layer that differs from the others.
    """

    def __init__(self, settings: SwappingConfig, seed: int, total_steps: int, lowest: int = 0) -> None:
        self._settings, self._seed, self._total, self._lowest = settings, seed, total_steps, lowest

    @property
    def on(self) -> bool:
        """Whether any step may swap."""
        return self._settings.probability > 0

    def probability(self, step: int) -> float:
        """Return the probability that the update after `step` finished ones swaps."""
        return self._settings.probability * ANNEAL[self._settings.anneal](step / self._total)

    def pair(self, step: int, depth: int) -> tuple[int, int]:
        """Return the two indices that step `step` would swap in a stack of `depth` layers, the lower one first."""
        random = Random(derive(self._seed, "swap pair", step))
        if self._settings.pairs == "adjacent":
            lower = random.randrange(self._lowest, depth - 1)
            return lower, lower + 1
        first, second = sorted(random.sample(range(self._lowest, depth), 2))
        return first, second

    def is_due(self, step: int, depth: int) -> bool:
        """Return whether the update after `step` finished ones swaps."""
        return self._enough(depth) and Random(derive(self._seed, "swap", step)).random() < self.probability(step)

    def _enough(self, depth: int) -> bool:
        return depth - self._lowest > 1

    @contextmanager
    def at(self, step: int, layers: nn.ModuleList) -> Iterator[None]:
        """Swap the layers for the update after `step` finished ones, if that update swaps."""
        if self.on and self.is_due(step, len(layers)):
            with self.pair_of(step, layers):
                yield
        else:
            yield

    @contextmanager
    def pair_of(self, step: int, layers: nn.ModuleList) -> Iterator[None]:
        """Swap the pair of this step, whether or not the step swaps."""
        if not self._enough(len(layers)):
            yield
            return
        first, second = self.pair(step, len(layers))
        _exchange(layers, first, second)
        try:
            yield
        finally:
            _exchange(layers, first, second)

    def scalars(self, step: int, depth: int) -> dict[str, float]:
        """Return what to log after `step` updates, the last on `depth` layers; nothing when swapping is off."""
        if not self.on:
            return {}
        last = max(step - 1, 0)
        return {
            run_folder.SWAP_PROBABILITY: self.probability(last),
            run_folder.SWAPPED: float(self.is_due(last, depth)),
        }


def _exchange(layers: nn.ModuleList, first: int, second: int) -> None:
    layers[first], layers[second] = layers[second], layers[first]
