"""Spectrum of a change, and distances of QK and OV products that do not depend on the basis.

Attention uses a head's values and outputs only through OᵀV. Any invertible G turns V into GV and O into G⁻ᵀO and
changes nothing that the head computes; ‖OᵀV − O₀ᵀV₀‖ is 0 then too.

Which G do the same for queries and keys (Q to GQ, K to G⁻ᵀK) depends on what stands between the projections and their
product:

- Positions that are added to the embeddings (BERT, GPT-2): the scores of a head are xᵀQᵀKy, so any invertible G.
- Rotary positions (Su et al. 2021, arXiv:2104.09864): at relative position m they are xᵀQᵀR(m)Ky, where R(m) turns each
  pair of dimensions at a frequency of its own. Only a G that commutes with all R(m) changes nothing: in each pair a
  rotation and a scaling, and any invertible matrix within the dimensions that do not turn.
- Norms of queries and keys (Qwen3): scores are no product of weights, so nothing is measured. See `rotary_distance`.
"""

from __future__ import annotations

import numpy as np


def bilinear(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """‖LᴴR‖ of each head, Frobenius, from d × d products: ‖LᴴR‖² = Σ (LLᴴ) ∘ (RRᴴ)ᵀ.

    Args:
        left, right: (heads, d, width) in float64 or complex128.
    """
    with np.errstate(invalid="ignore"):
        squares = (left @ left.conj().swapaxes(-1, -2)) * (right @ right.conj().swapaxes(-1, -2)).swapaxes(-1, -2)
        return np.sqrt(np.maximum(squares.sum(axis=(-1, -2)).real, 0))


def bilinear_change(left: np.ndarray, right: np.ndarray, left0: np.ndarray, right0: np.ndarray) -> np.ndarray:
    """‖LᴴR − L₀ᴴR₀‖ of each head.

    No matrix of width × width is formed. The difference is written as one product, [L − L₀; L₀]ᴴ [R; R − R₀], so that
    it keeps its digits when little has moved and is exactly 0 when nothing has.

    Args:
        left, right: (heads, d, width) now, in float64 or complex128.
        left0, right0: the same at birth.
    """
    with np.errstate(invalid="ignore"):
        moved, other = left - left0, right - right0
    return bilinear(np.concatenate([moved, left0], axis=-2), np.concatenate([right, other], axis=-2))


def bilinear_distance(left: np.ndarray, right: np.ndarray, left0: np.ndarray, right0: np.ndarray) -> np.ndarray:
    """‖LᵀR − L₀ᵀR₀‖ ÷ ‖L₀ᵀR₀‖ of each head; the distance itself where L₀ᵀR₀ is zero. Arguments as `bilinear_change`."""
    return _relative(bilinear_change(left, right, left0, right0), bilinear(left0, right0))


def rotary_distance(q: np.ndarray, k: np.ndarray, q0: np.ndarray, k0: np.ndarray, turning: int) -> np.ndarray:
    """The distance of QᵀR(m)K from Q₀ᵀR(m)K₀ of each head, as a root mean square over all relative positions m.

    It is √(mean over m of ‖QᵀR(m)K − Q₀ᵀR(m)K₀‖² ÷ mean over m of ‖Q₀ᵀR(m)K₀‖²), the means over ever more positions;
    the first root alone where the second mean is 0. With a pair of dimensions as one complex row, R(m) multiplies it by
    exp(imω), and products of different frequencies are orthogonal over m. So each pair adds ½‖qᴴk − q₀ᴴk₀‖², and the
    dimensions that do not turn ‖QᵀK − Q₀ᵀK₀‖². It is 0 only where the scores are the same at every position.

    Args:
        q, k: (heads, d, width) now, in float64.
        q0, k0: the same at birth.
        turning: how many of the d dimensions, the first ones, are turned: n and n + turning ÷ 2 together.
    """
    still = [array[:, turning:] for array in (q, k, q0, k0)]
    pairs = [_pairs(array[:, :turning]) for array in (q, k, q0, k0)]
    moved = bilinear_change(*still) ** 2 + (bilinear_change(*pairs) ** 2).sum(axis=1) / 2
    reference = bilinear(*still[2:]) ** 2 + (bilinear(*pairs[2:]) ** 2).sum(axis=1) / 2
    return _relative(np.sqrt(moved), np.sqrt(reference))


def _pairs(array: np.ndarray) -> np.ndarray:
    """(heads, 2n, width) → (heads, n, 1, width) complex, as rotary positions pair dimensions."""
    half = array.shape[1] // 2
    return (array[:, :half] + 1j * array[:, half:])[:, :, None]


def _relative(distance: np.ndarray, reference: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        found = distance / np.where(reference > 0, reference, 1.0)
    return np.where(np.isfinite(found), found, np.nan)  # NaN where a number of a head is not finite


def spectrum(now: np.ndarray, birth: np.ndarray) -> tuple[float, float, float]:
    """Of a matrix's change Δ = W − W(b): ‖Δ‖₂ ÷ ‖W(b)‖₂, stable rank ‖Δ‖²_F ÷ ‖Δ‖₂², effective rank.

    The effective rank is the exponential of the entropy of the singular values over their sum (Roy and Vetterli 2007).
    Where nothing moved the first is 0 and the ranks are NaN; where W(b) is zero the first is ‖Δ‖₂ itself. All are NaN
    where a number is not finite.

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
