"""What the model is asked to predict: the next token (causal-lm), the masked ones (masked-lm), or an image's class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a position that is not predicted (the convention of PyTorch and Hugging Face)."""


@dataclass(frozen=True)
class Batch:
    """What goes in and what is to come out.

    Attributes:
        inputs: tokens, (blocks, block_size) int64; or images, (blocks, channels, height, width) float32.
        labels: the token to predict at each position, like `inputs`; or each image's class, (blocks,) int64.
        argument: what the model calls `inputs`.
    """

    inputs: Tensor
    labels: Tensor
    argument: str = "input_ids"

    @property
    def targets(self) -> int:
        """How many positions are predicted."""
        return int((self.labels != IGNORED).sum())

    def rows(self, start: int, stop: int, device: torch.device) -> Batch:
        """Some of the blocks, on a device."""
        return Batch(self.inputs[start:stop].to(device), self.labels[start:stop].to(device), self.argument)


class Objective:
    """Turns blocks into a batch for one task.

    Args:
        task: `causal-lm`, `masked-lm` or `image-classification`.
        tokenizer: gives the mask token and the tokens that are never masked; None for images.
        mlm_probability: share of positions to predict under masked-lm.
    """

    def __init__(self, task: str, tokenizer: PreTrainedTokenizerBase | None, mlm_probability: float) -> None:
        self.task = task
        if tokenizer is None:
            return
        self._probability = mlm_probability
        self._mask = tokenizer.mask_token_id
        self._vocabulary = len(tokenizer)
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))

    def batch(self, blocks: np.ndarray, seed: int) -> Batch:
        """The batch made of `blocks` as `Blocks` gives them. `seed` decides the masks of this one batch."""
        if self.task == "image-classification":
            return Batch(torch.from_numpy(blocks["pixels"]), torch.from_numpy(blocks["label"]), "pixel_values")
        tokens = torch.from_numpy(blocks)
        return self._next_token(tokens) if self.task == "causal-lm" else self._masked(tokens, seed)

    @staticmethod
    def _next_token(tokens: Tensor) -> Batch:
        labels = torch.full_like(tokens, IGNORED)
        labels[:, :-1] = tokens[:, 1:]
        return Batch(tokens, labels)

    def _masked(self, tokens: Tensor, seed: int) -> Batch:
        """Devlin et al. 2018: of the chosen positions 80 % become the mask, 10 % a random token, 10 % stay."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.rand(tokens.shape, generator=generator) < self._probability
        chosen &= ~torch.isin(tokens, self._special)
        fate = torch.rand(tokens.shape, generator=generator)
        others = torch.randint(self._vocabulary, tokens.shape, generator=generator)
        inputs = torch.where(chosen & (fate < 0.8), self._mask, tokens)
        inputs = torch.where(chosen & (fate >= 0.9), others, inputs)
        return Batch(inputs, torch.where(chosen, tokens, IGNORED))


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy in nats, summed over the batch's targets: a float32 scalar."""
    logits = model(**{batch.argument: batch.inputs}).logits
    return cross_entropy(logits.flatten(0, -2).float(), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum")
