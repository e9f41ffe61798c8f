"""A view of single heads: their attention to one block, at one checkpoint or two."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.report.parts import HeadView
from pli_train.core.errors import counted

if TYPE_CHECKING:
    from pli_analysis.metrics.head_weights import HeadWeights

LEVELS = 255
"""Number of levels above 0 that a weight on the page can have."""

METHOD = [
    (
        "single heads",
        "The weights of one block are rounded to 8 bits, as the square root of each weight ÷ the largest of its row. "
        "The error is at most 0.4 % of the largest weight of the row.",
    )
]
"""Terms, and how they are measured."""


def view(found: HeadWeights) -> HeadView:
    """Return the view of some heads.

    Args:
        found: result of `pli_analysis.metrics.head_weights.head_weights`.
    """
    is_causal = not any(np.triu(each, 1).any() for heads in found.checkpoints for each in heads.weights.values())
    checkpoints = [
        {
            "step": heads.step,
            "heads": [_head(name, each, is_causal) for name, each in heads.weights.items()],
            "donors": heads.donors,
        }
        for heads in found.checkpoints
    ]
    data = {"tokens": found.tokens, "causal": is_causal, "checkpoints": checkpoints}
    return HeadView("Attention of single heads", _caption(found), data)


def _head(name: str, weights: np.ndarray, is_causal: bool) -> dict[str, str]:
    layer, _, head = name.partition(".")
    levels, largest = encoded(weights, is_causal)
    return {"name": name, "layer": layer, "head": head, "levels": levels, "largest": largest}


def encoded(weights: np.ndarray, is_causal: bool) -> tuple[str, str]:
    """Return the attention of a head in base64: a byte for each weight, and the largest of each row as float32.

    A weight is largest × (byte ÷ 255)². Square roots keep small weights next to a large one: a linear byte would round
    equal attention to 512 tokens to 0.

    Args:
        weights: (queries, keys), whose rows sum to 1.
        is_causal: whether to leave out the keys after each query.
    """
    largest = weights.max(axis=1, keepdims=True)
    levels = np.rint(LEVELS * np.sqrt(weights / largest)).astype(np.uint8)
    kept = levels[np.tril_indices(len(levels))] if is_causal else levels
    return _base64(kept), _base64(largest.astype("<f4"))


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _caption(found: HeadWeights) -> str:
    """Describe what is shown, and what is left out."""
    steps = " and ".join(f"{heads.step:,}" for heads in found.checkpoints)
    shown, total = (max(counts) for counts in zip(*((len(h.weights), h.total) for h in found.checkpoints), strict=True))
    of = f"{counted(shown, 'head')}" if shown == total else f"{shown} of {total} heads"
    words = (
        f"Block {found.block} of {found.blocks} ({counted(len(found.tokens), 'token')}), {of}, "
        f"{'steps' if len(found.checkpoints) > 1 else 'step'} {steps}."
    )
    if shown == total:
        return words
    return f"{words} The other heads are not on this page: choose with --heads."
