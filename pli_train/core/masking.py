"""Make inputs and labels from tokens for masked and causal models, in training, evaluation and analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

IGNORED = -100
"""The label of a position that is not predicted (the convention of PyTorch and Hugging Face)."""


def next_token(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs and labels for predicting each token of a block from the tokens before it.

    Args:
        tokens: (blocks, block_size) int64.

    Returns:
        Inputs and labels, both shaped like `tokens`; the label of the last position is −100.
    """
    import torch

    labels = torch.full_like(tokens, IGNORED)
    labels[:, :-1] = tokens[:, 1:]
    return tokens, labels


def masked(
    tokens: Tensor, share: float, mask: int, vocabulary: int, special: Sequence[int], seed: int
) -> tuple[Tensor, Tensor]:
    """Return masked inputs and labels (Devlin et al. 2018): 80 % mask, 10 % random tokens, 10 % unchanged.

    Args:
        tokens: (blocks, block_size) int64.
        share: share of positions to predict.
        mask: id of the mask token.
        vocabulary: number of token ids to draw random tokens from.
        special: ids of tokens that are never masked.
        seed: seed of the masks.

    Returns:
        Inputs and labels, both shaped like `tokens`; the label of a position that is not predicted is −100.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(tokens.shape, generator=generator) < share
    chosen &= ~torch.isin(tokens, torch.tensor(special, dtype=tokens.dtype))
    fate = torch.rand(tokens.shape, generator=generator)
    others = torch.randint(vocabulary, tokens.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), mask, tokens)
    inputs = torch.where(chosen & (fate >= 0.9), others, inputs)
    return inputs, torch.where(chosen, tokens, IGNORED)
