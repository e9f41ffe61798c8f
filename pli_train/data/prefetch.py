"""Make the next batch in the background."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from pli_train.core.randomness import derive

if TYPE_CHECKING:
    import numpy as np

    from pli_train.data.blocks import Blocks
    from pli_train.data.objective import Batch, Objective


class BatchPrefetcher:
    """A run's batches. Each is a function of the seed, the step and the context alone, whoever makes it and when.

    Args:
        blocks: of the training text.
        objective: makes a batch of them.
        size: blocks in a step, over all devices and accumulations.
        seed: of the run.
    """

    def __init__(self, blocks: Blocks, objective: Objective, size: int, seed: int) -> None:
        self._blocks, self._objective, self._size, self._seed = blocks, objective, size, seed
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[tuple[int, int], Future[Batch]] | None = None

    def at(self, step: int, context: int) -> Batch:
        """The batch of the update after `step` finished ones, in pieces of `context` tokens; starts on the next."""
        asked, ready = (step, context), self._next
        batch = ready[1].result() if ready and ready[0] == asked else self.make(*asked)
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next = (step + 1, context), self._thread.submit(self.make, step + 1, context)
        return batch

    def make(self, step: int, context: int) -> Batch:
        """The same, made now."""
        blocks = cut(self._blocks.at_step(step, self._size), context)
        return self._objective.batch(blocks, derive(self._seed, "mask", step))

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = self._next = None  # what was cancelled has no result


def cut(blocks: np.ndarray, context: int) -> np.ndarray:
    """Blocks in pieces: (pieces, context). Images stay whole."""
    return blocks if blocks.dtype.names else blocks.reshape(-1, context)
