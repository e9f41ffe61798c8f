"""Make inputs and labels of tokens, the same way in training, evaluation and analysis: masked, or the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

IGNORED = -100
"""The label of a position that is not predicted (the convention of PyTorch and Hugging Face)."""


def next_token(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and labels for predicting each token of a block from those before it.

    Args:
        tokens: (blocks, block_size) int64.

    Returns:
        Inputs and labels, both like `tokens`; −100 is the label of the last position.
    """
    import torch

    labels = torch.full_like(tokens, IGNORED)
    labels[:, :-1] = tokens[:, 1:]
    return tokens, labels


def masked(
    tokens: Tensor, share: float, mask: int, vocabulary: int, special: Sequence[int], seed: int
) -> tuple[Tensor, Tensor]:
    """Devlin et al. 2018: of the chosen positions 80 % become the mask, 10 % a random token, 10 % stay.

    Args:
        tokens: (blocks, block_size) int64.
        share: of positions to predict.
        mask: the mask token.
        vocabulary: how many tokens there are to replace one by.
        special: tokens that are never chosen.
        seed: decides the masks.

    Returns:
        Inputs and labels, both like `tokens`; −100 is the label of what is not predicted.
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
