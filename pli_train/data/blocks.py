"""Blocks of tokens in an order that is a function of the step.

Nothing is consumed, so nothing has to be wound forward: the batch of step 100 000 costs what that of step 100 costs,
a resumed run sees what the unbroken one would have seen, and a twin sees what its parent saw.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pli_train.core.errors import BadInput


class Blocks:
    """The blocks of a corpus, shuffled anew each epoch.

    Args:
        tokens: 1-D array of token ids, to be cut into blocks; or of rows with named fields (images and their labels),
            each a block as it is.
        block_size: tokens in a block; what is left over at the end is not used.
        seed: of the shuffle.
        side: which part of the corpus this is, for a message.

    Raises:
        BadInput: when there are fewer tokens than one block.
    """

    def __init__(self, tokens: np.ndarray, block_size: int, seed: int, side: str = "corpus") -> None:
        whole = bool(tokens.dtype.names)
        self.count = len(tokens) if whole else len(tokens) // block_size
        if self.count == 0:
            raise BadInput(
                f"train.block_size: the {side} has {len(tokens)} tokens, less than one block of {block_size}: give "
                "more text, or a smaller block_size"
            )
        self._blocks = tokens if whole else tokens[: self.count * block_size].reshape(self.count, block_size)
        self._seed = seed

    def at_step(self, step: int, size: int) -> np.ndarray:
        """The `size` blocks of optimizer step `step` (from 0), over all devices and accumulations.

        Returns:
            (size, block_size) int64; rows as (size,) of their own type.
        """
        locations = range(step * size, (step + 1) * size)
        rows = [_order(self._seed, position // self.count, self.count)[position % self.count] for position in locations]
        return self._widened(self._blocks[rows])

    def of(self, locations: np.ndarray) -> np.ndarray:
        """The blocks at some places of the corpus, unshuffled, as `at_step` gives them."""
        return self._widened(self._blocks[locations])

    @staticmethod
    def _widened(blocks: np.ndarray) -> np.ndarray:
        return blocks if blocks.dtype.names else blocks.astype(np.int64)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
