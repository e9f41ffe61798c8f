"""Swap two layers for a single step, as a regularizer.

With some probability a training step is done with a pair of layers swapped, adjacent ones or any two; the next step
finds them where they were. Nothing of it lasts but the gradients: lineage and checkpoints know only each layer's own
place. Whether a step swaps, and which pair, is a function of the seed and the step.
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
"""The share of the probability that is left when `done` of training is."""


class SwapRegularizer:
    """Which steps swap, and which two layers.

    Args:
        settings: probability, pairs and annealing.
        seed: of the run.
        total_steps: of the run.
        lowest: the lowest place that may be swapped; some families have a bottom layer unlike the others.
    """

    def __init__(self, settings: SwappingConfig, seed: int, total_steps: int, lowest: int = 0) -> None:
        self._settings, self._seed, self._total, self._lowest = settings, seed, total_steps, lowest

    @property
    def on(self) -> bool:
        """Whether any step may swap."""
        return self._settings.probability > 0

    def probability(self, step: int) -> float:
        """The chance that the update after `step` finished ones swaps."""
        return self._settings.probability * ANNEAL[self._settings.anneal](step / self._total)

    def pair(self, step: int, depth: int) -> tuple[int, int]:
        """The two places that step `step` would swap in a stack of `depth` layers, the lower one first."""
        random = Random(derive(self._seed, "swap pair", step))
        if self._settings.pairs == "adjacent":
            lower = random.randrange(self._lowest, depth - 1)
            return lower, lower + 1
        first, second = sorted(random.sample(range(self._lowest, depth), 2))
        return first, second

    def is_due(self, step: int, depth: int) -> bool:
        """Whether the update after `step` finished ones swaps."""
        return self._enough(depth) and Random(derive(self._seed, "swap", step)).random() < self.probability(step)

    def _enough(self, depth: int) -> bool:
        return depth - self._lowest > 1

    @contextmanager
    def at(self, step: int, layers: nn.ModuleList) -> Iterator[None]:
        """The stack as the update after `step` finished ones is to see it."""
        if self.on and self.is_due(step, len(layers)):
            with self.pair_of(step, layers):
                yield
        else:
            yield

    @contextmanager
    def pair_of(self, step: int, layers: nn.ModuleList) -> Iterator[None]:
        """The stack with the pair of this step swapped, whether or not the step swaps."""
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
        """What to log once `step` updates are done, the last of them on a stack of `depth` layers; nothing when off."""
        if not self.on:
            return {}
        last = max(step - 1, 0)
        return {
            run_folder.SWAP_PROBABILITY: self.probability(last),
            run_folder.SWAPPED: float(self.is_due(last, depth)),
        }


def _exchange(layers: nn.ModuleList, first: int, second: int) -> None:
    layers[first], layers[second] = layers[second], layers[first]
