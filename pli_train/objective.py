"""What the model is asked to predict: the next token (causal-lm) or the masked ones (masked-lm)."""

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
    """Tokens and what to predict at each position: two (blocks, block_size) int64 tensors."""

    inputs: Tensor
    labels: Tensor

    @property
    def targets(self) -> int:
        """How many positions are predicted."""
        return int((self.labels != IGNORED).sum())

    def rows(self, start: int, stop: int, device: torch.device) -> Batch:
        """Some of the blocks, on a device."""
        return Batch(self.inputs[start:stop].to(device), self.labels[start:stop].to(device))


class Objective:
    """Turns blocks into a batch for one task.

    Args:
        task: `causal-lm` or `masked-lm`.
        tokenizer: gives the mask token and the tokens that are never masked.
        mlm_probability: share of positions to predict under masked-lm.
    """

    def __init__(self, task: str, tokenizer: PreTrainedTokenizerBase, mlm_probability: float) -> None:
        self.task = task
        self._probability = mlm_probability
        self._mask = tokenizer.mask_token_id
        self._vocabulary = len(tokenizer)
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))

    def batch(self, blocks: np.ndarray, seed: int) -> Batch:
        """The batch made of `blocks`, (blocks, block_size) int64. `seed` decides the masks of this one batch."""
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
    logits = model(input_ids=batch.inputs).logits
    return cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum")
