"""The held-out blocks: the sample for evaluations, masks, and loss.

A block's masks are a function of its index in the held-out text, so they are the same at every step, at every context
length, and in `pli_analysis`, which reads the sample saved in the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pli_train.core.randomness import derive
from pli_train.core.sampling import Estimate, clustered, draw
from pli_train.data import surprisal
from pli_train.data.blocks import Blocks
from pli_train.data.objective import Batch, Objective, row_losses
from pli_train.data.prefetch import cut

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from pli_train.data.sources.digits import ImageCorpus
    from pli_train.data.tokenization import TokenizedText


class HeldOut:
    """The held-out blocks of a corpus, and the sample of them for regular evaluations.

    Args:
        text: the corpus.
        block_size: tokens per block.
        drawn: maximum number of blocks to draw.
        objective: the training objective.
        seed: seed of the run.

    Attributes:
        locations: (drawn,) indices of the drawn blocks, in random order.
        design: the sampling design.
        documents: (blocks,) index of the document in which each block begins, from 0; each image is a document.
        difficulty: (blocks,) difficulty of each block; 0 for images.
    """

    def __init__(
        self, text: TokenizedText | ImageCorpus, block_size: int, drawn: int, objective: Objective, seed: int
    ) -> None:
        self._blocks, self._objective, self._seed = Blocks(text.eval, block_size, 0, "held-out text"), objective, seed
        self._block_size = block_size
        self.documents, self.difficulty = np.arange(self.count), np.zeros(self.count)
        if text.tokenizer is not None:
            # A view of the memory-mapped file, so that a large text is not copied into memory.
            whole = text.eval[: self.count * block_size].reshape(self.count, block_size)
            self.documents = text.documents(block_size)
            self.difficulty = surprisal.of_blocks(text.train, whole, text.vocabulary, text.fingerprint)
        self.locations, self.design = draw(self.difficulty, drawn, derive(seed, "held out"))

    @property
    def count(self) -> int:
        """Number of blocks of the held-out text."""
        return self._blocks.count

    def batch(self, locations: np.ndarray, context: int) -> Batch:
        """Return a batch of the blocks with these indices, split into rows of `context` tokens."""
        blocks = self._blocks.of(locations)
        if self._objective.task != "masked-lm":
            return self._objective.batch(cut(blocks, context), 0)
        seeds = (derive(self._seed, "eval mask", int(location)) for location in locations)
        each = [self._objective.batch(block[None], seed) for block, seed in zip(blocks, seeds, strict=True)]
        inputs, labels = (torch.cat([getattr(one, name) for one in each]) for name in ("inputs", "labels"))
        return Batch.of("masked-lm", inputs.reshape(-1, context), labels.reshape(-1, context))

    def loss(self, model: nn.Module, accelerator: Accelerator, context: int, size: int) -> Estimate:
        """Estimate the mean loss over all held-out text, in nats, from the sample; `size` blocks are read at a time."""
        return self.design.mean(*self.losses(model, accelerator, self.locations, context, size))

    def full_loss(self, model: nn.Module, accelerator: Accelerator, context: int, size: int) -> tuple[Estimate, int]:
        """Return the mean loss over all held-out text, which is read in full, and the number of predictions.

        The standard error takes documents as sampling units.
        """
        sums, counts = self.losses(model, accelerator, np.arange(self.count), context, size)
        return clustered(sums, counts, self.documents), int(counts.sum())

    def kept(self) -> dict[str, np.ndarray]:
        """Return the sample as saved in the run for analysis: see `run_folder`."""
        batch = self.batch(self.locations, self._block_size)
        columns = {
            "inputs": batch.inputs.numpy(),
            "labels": batch.labels.numpy(),
            "block": self.locations,
            "document": self.documents[self.locations],
            "stratum": self.design.stratum,
            "strata": self.design.sizes,
        }
        return {name: values.astype(np.int32) for name, values in columns.items()}

    @torch.inference_mode()
    def losses(
        self, model: nn.Module, accelerator: Accelerator, locations: np.ndarray, context: int, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum of the losses of each block, and the number of predictions: (locations,) float64 each."""
        model.eval()
        totals = torch.zeros(2, len(locations), device=accelerator.device)
        starts = range(0, len(locations), size)
        for start in starts[accelerator.process_index :: accelerator.num_processes]:
            here = locations[start : start + size]
            whole = self.batch(here, context)
            batch = whole.rows(0, len(whole.inputs), accelerator.device)
            losses = torch.stack(row_losses(model, batch))
            totals[:, start : start + size] = losses.reshape(2, len(here), -1).sum(2)
        sums, counts = accelerator.reduce(totals, "sum").cpu().double().numpy()
        return sums, counts
