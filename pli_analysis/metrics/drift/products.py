"""Spectra of weight changes, and basis-independent distances of QK and OV products.

Attention depends on a head's value and output weights only through OᵀV. If V becomes GV and O becomes G⁻ᵀO for an
invertible G, the head computes the same function, and ‖OᵀV − O₀ᵀV₀‖ is 0 as well.

For queries and keys (Q becomes GQ, K becomes G⁻ᵀK), the set of such G depends on the operation between the projections
and their product:

- Position embeddings added to the input (BERT, GPT-2): attention scores are xᵀQᵀKy: any invertible G.
- Rotary positions (Su et al. 2021, arXiv:2104.09864): scores at relative position m are xᵀQᵀR(m)Ky, where R(m) rotates
  each pair of dimensions at its own frequency. G must commute with all R(m): a rotation and scaling of each pair, and
  any invertible matrix within the dimensions that are not rotated. See `rotary_distance`.
- Normalized queries and keys (Qwen3): scores are not a product of weights, so no distance is computed.
"""

from __future__ import annotations

import numpy as np


def bilinear(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the Frobenius norm ‖LᴴR‖ of each head, from d × d products: ‖LᴴR‖² = Σ (LLᴴ) ∘ (RRᴴ)ᵀ.

    Args:
        left, right: (heads, d, width) in float64 or complex128.
    """
    with np.errstate(invalid="ignore"):
        squares = (left @ left.conj().swapaxes(-1, -2)) * (right @ right.conj().swapaxes(-1, -2)).swapaxes(-1, -2)
        return np.sqrt(np.maximum(squares.sum(axis=(-1, -2)).real, 0))


def bilinear_change(left: np.ndarray, right: np.ndarray, left0: np.ndarray, right0: np.ndarray) -> np.ndarray:
    """Return ‖LᴴR − L₀ᴴR₀‖ of each head.

    No matrix of width × width is formed. The difference is computed as one product, [L − L₀; L₀]ᴴ [R; R − R₀], so that
    it is precise for small changes, and exactly 0 without any.

    Args:
        left, right: (heads, d, width) now, in float64 or complex128.
        left0, right0: the same at birth.
    """
    with np.errstate(invalid="ignore"):
        moved, other = left - left0, right - right0
    return bilinear(np.concatenate([moved, left0], axis=-2), np.concatenate([right, other], axis=-2))


def bilinear_distance(left: np.ndarray, right: np.ndarray, left0: np.ndarray, right0: np.ndarray) -> np.ndarray:
    """Return ‖LᵀR − L₀ᵀR₀‖ ÷ ‖L₀ᵀR₀‖ of each head, or the numerator where L₀ᵀR₀ is zero: see `bilinear_change`."""
    return _relative(bilinear_change(left, right, left0, right0), bilinear(left0, right0))


def rotary_distance(q: np.ndarray, k: np.ndarray, q0: np.ndarray, k0: np.ndarray, turning: int) -> np.ndarray:
    """Return the distance of QᵀR(m)K from Q₀ᵀR(m)K₀ of each head, as a root mean square over relative positions m.

    It is √(mean over m of ‖QᵀR(m)K − Q₀ᵀR(m)K₀‖² ÷ mean over m of ‖Q₀ᵀR(m)K₀‖²), in the limit of means over infinitely
    many positions; the root of the numerator where the denominator is 0. If a pair of dimensions is written as one
    complex row, R(m) multiplies it by exp(imω), and products of different frequencies are orthogonal over m. So each
    pair adds ½‖qᴴk − q₀ᴴk₀‖², and the dimensions that are not rotated add ‖QᵀK − Q₀ᵀK₀‖². It is 0 only if the scores
    are equal at every position.

    Args:
        q, k: (heads, d, width) now, in float64.
        q0, k0: the same at birth.
        turning: number of rotated dimensions, the first of the d; n and n + turning ÷ 2 form a pair.
    """
    still = [array[:, turning:] for array in (q, k, q0, k0)]
    pairs = [_pairs(array[:, :turning]) for array in (q, k, q0, k0)]
    moved = bilinear_change(*still) ** 2 + (bilinear_change(*pairs) ** 2).sum(axis=1) / 2
    reference = bilinear(*still[2:]) ** 2 + (bilinear(*pairs[2:]) ** 2).sum(axis=1) / 2
    return _relative(np.sqrt(moved), np.sqrt(reference))


def _pairs(array: np.ndarray) -> np.ndarray:
    """Combine the dimensions that rotary positions pair: (heads, 2n, width) → (heads, n, 1, width) complex."""
    half = array.shape[1] // 2
    return (array[:, :half] + 1j * array[:, half:])[:, :, None]


def _relative(distance: np.ndarray, reference: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        found = distance / np.where(reference > 0, reference, 1.0)
    return np.where(np.isfinite(found), found, np.nan)  # NaN for heads with numbers that are not finite


def spectrum(now: np.ndarray, birth: np.ndarray) -> tuple[float, float, float]:
    """Return ‖Δ‖₂ ÷ ‖W(b)‖₂, stable rank ‖Δ‖²_F ÷ ‖Δ‖₂² and effective rank of the change Δ = W − W(b) of a matrix.

    The effective rank is the exponential of the entropy of the singular values divided by their sum (Roy and Vetterli
    2007). If Δ is zero, the first is 0 and the ranks are NaN; if W(b) is zero, the first is ‖Δ‖₂. All are NaN if a
    number is not finite.

    >>> [round(value, 6) for value in spectrum(np.diag([3.0, 3.0, 1.0]), np.diag([1.0, 1.0, 1.0]))]
    [2.0, 2.0, 2.0]
    """
    with np.errstate(invalid="ignore"):
        change = now.astype(np.float64) - birth
    if not np.isfinite(change).all():
        return (float("nan"),) * 3
    values = np.linalg.svd(change, compute_uv=False)
    if not values[0] > 0:
        return 0.0, float("nan"), float("nan")
    before = np.linalg.norm(birth.astype(np.float64), 2) or 1.0
    shares = values[values > 0] / values.sum()
    effective = np.exp(-(shares * np.log(shares)).sum())
    return float(values[0] / before), float((values**2).sum() / values[0] ** 2), float(effective)
