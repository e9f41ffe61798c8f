"""Prepare the next batch in the background."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from pli_train.core.randomness import derive

if TYPE_CHECKING:
    import numpy as np

    from pli_train.data.blocks import Blocks
    from pli_train.data.objective import Batch, Objective


class BatchPrefetcher:
    """Prefetches a run's batches. A batch depends only on the seed, the step and the context length.

    Args:
        blocks: blocks of the training text.
        objective: makes batches from them.
        size: blocks per step, over all devices and accumulated batches.
        seed: seed of the run.
    """

    def __init__(self, blocks: Blocks, objective: Objective, size: int, seed: int) -> None:
        self._blocks, self._objective, self._size, self._seed = blocks, objective, size, seed
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[tuple[int, int], Future[Batch]] | None = None

    def at(self, step: int, context: int) -> Batch:
        """Return the batch after `step` completed updates, in rows of `context` tokens; start to prepare the next."""
        key, ready = (step, context), self._next
        batch = ready[1].result() if ready and ready[0] == key else self.make(*key)
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next = (step + 1, context), self._thread.submit(self.make, step + 1, context)
        return batch

    def make(self, step: int, context: int) -> Batch:
        """Make the batch of `at` without prefetching."""
        blocks = cut(self._blocks.at_step(step, self._size), context)
        return self._objective.batch(blocks, derive(self._seed, "mask", step))

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = self._next = None  # a cancelled batch has no result


def cut(blocks: np.ndarray, context: int) -> np.ndarray:
    """Split blocks into rows of `context` tokens: (rows, context). Images are returned unchanged."""
    return blocks if blocks.dtype.names else blocks.reshape(-1, context)
