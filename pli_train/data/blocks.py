"""Blocks of tokens in an order that is a function of the step.

There is no iterator to advance: the batch of step 100 000 is as fast to get as that of step 100. A resumed run sees the
same batches as an uninterrupted one, and a twin the same batches as its parent.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pli_train.core.errors import BadInput


class Blocks:
    """The blocks of a corpus, reshuffled in each epoch.

    Args:
        tokens: 1-D array of token ids, which is divided into blocks; or of rows with named fields (images and their
            labels), of which each is a block.
        block_size: tokens per block; the remainder at the end is not used.
        seed: seed of the shuffle.
        side: name of this part of the corpus, for error messages.

    Raises:
        BadInput: if there are fewer tokens than one block.
    """

    def __init__(self, tokens: np.ndarray, block_size: int, seed: int, side: str = "corpus") -> None:
        whole = bool(tokens.dtype.names)
        self.count = len(tokens) if whole else len(tokens) // block_size
        if self.count == 0:
            raise BadInput(
                f"train.block_size: the {side} has {len(tokens)} tokens, less than one block of {block_size}: use "
                "more text, or a smaller block_size"
            )
        self._blocks = tokens if whole else tokens[: self.count * block_size].reshape(self.count, block_size)
        self._seed = seed

    def at_step(self, step: int, size: int) -> np.ndarray:
        """Return the `size` blocks of optimizer step `step` (from 0), for all devices and accumulated batches.

        Returns:
            (size, block_size) int64; or (size,) rows with their own type.
        """
        return self.of(self.order(np.arange(step * size, (step + 1) * size)))

    def order(self, positions: np.ndarray) -> np.ndarray:
        """Return the unshuffled index of the block at each position of training, (n,) int64.

        Args:
            positions: (n,) number of blocks that training uses before.
        """
        epochs, rows = np.divmod(positions, self.count)
        each = zip(epochs.tolist(), rows.tolist(), strict=True)
        return np.array([_order(self._seed, epoch, self.count)[row] for epoch, row in each], dtype=np.int64)

    def of(self, locations: np.ndarray) -> np.ndarray:
        """Return the blocks with these unshuffled indices, in the format of `at_step`."""
        return self._widened(self._blocks[locations])

    @staticmethod
    def _widened(blocks: np.ndarray) -> np.ndarray:
        return blocks if blocks.dtype.names else blocks.astype(np.int64)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
