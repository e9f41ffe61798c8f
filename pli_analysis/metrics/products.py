"""What takes products of matrices: a change's spectrum, and a head's change whatever basis it is written in.

Attention sees a head's queries and keys only through QᵀK, and its values and outputs only through OᵀV: any invertible
G turns Q into GQ and K into G⁻ᵀK and changes nothing that the head computes. ‖QᵀK − Q₀ᵀK₀‖ is blind to that too.
With rotary positions QᵀK is the product at equal positions, and fewer G change nothing.
"""

from __future__ import annotations

import numpy as np


def bilinear(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """‖LᵀR‖ of each head, Frobenius, from d × d products: ‖LᵀR‖² = Σ (LLᵀ) ∘ (RRᵀ).

    Args:
        left, right: (heads, d, width) in float64.
    """
    squares = (left @ left.swapaxes(1, 2)) * (right @ right.swapaxes(1, 2))
    return np.sqrt(np.maximum(squares.sum(axis=(1, 2)), 0))


def bilinear_distance(left: np.ndarray, right: np.ndarray, left0: np.ndarray, right0: np.ndarray) -> np.ndarray:
    """‖LᵀR − L₀ᵀR₀‖ ÷ ‖L₀ᵀR₀‖ of each head; the distance itself where L₀ᵀR₀ is zero.

    No matrix of width × width is formed. The difference is written as one product, [L − L₀; L₀]ᵀ [R; R − R₀], so that
    it keeps its digits when little has moved and is exactly 0 when nothing has.

    Args:
        left, right: (heads, d, width) now, in float64.
        left0, right0: the same at birth.
    """
    moved = bilinear(np.concatenate([left - left0, left0], axis=1), np.concatenate([right, right - right0], axis=1))
    reference = bilinear(left0, right0)
    return moved / np.where(reference > 0, reference, 1.0)


def spectrum(now: np.ndarray, birth: np.ndarray) -> tuple[float, float, float]:
    """Of a matrix's change Δ = W − W(b): ‖Δ‖₂ ÷ ‖W(b)‖₂, stable rank ‖Δ‖²_F ÷ ‖Δ‖₂², effective rank.

    The effective rank is the exponential of the entropy of the singular values over their sum (Roy and Vetterli 2007).
    Where nothing moved the first is 0 and the ranks are NaN; where W(b) is zero the first is ‖Δ‖₂ itself.

    >>> [round(value, 6) for value in spectrum(np.diag([3.0, 3.0, 1.0]), np.diag([1.0, 1.0, 1.0]))]
    [2.0, 2.0, 2.0]
    """
    values = np.linalg.svd(now.astype(np.float64) - birth, compute_uv=False)
    if not values[0] > 0:
        return 0.0, float("nan"), float("nan")
    before = np.linalg.norm(birth.astype(np.float64), 2) or 1.0
    shares = values[values > 0] / values.sum()
    effective = np.exp(-(shares * np.log(shares)).sum())
    return float(values[0] / before), float((values**2).sum() / values[0] ** 2), float(effective)
