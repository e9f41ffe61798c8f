"""Debiased CKA, orthogonal Procrustes, overlap of nearest neighbors.

A representation is (batches, samples, width): the samples of a batch come from different sequences, so that they can
count as independent. Widths may differ.
"""

from __future__ import annotations

import numpy as np

NEIGHBORS = 10
"""Nearest neighbors of a sample that are compared, at most."""
FEWEST = 4
"""Samples of a batch that HSIC₁ takes at least."""


def u_centered(values: np.ndarray) -> np.ndarray:
    """Linear kernels, centered so that their inner products are unbiased (Székely and Rizzo 2014).

    Args:
        values: (batches, samples, width), four samples at least.

    Returns:
        (batches, samples, samples) float64, zero on the diagonals.
    """
    x = values.astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)  # changes nothing but the size of rounding errors
    kernel = x @ x.swapaxes(1, 2)
    n = kernel.shape[1]
    diagonal = np.arange(n)
    kernel[:, diagonal, diagonal] = 0
    sums = kernel.sum(axis=1)
    kernel -= (sums[:, :, None] + sums[:, None, :]) / (n - 2)
    kernel += (sums.sum(axis=1) / ((n - 1) * (n - 2)))[:, None, None]
    kernel[:, diagonal, diagonal] = 0
    return kernel


def cka(first: np.ndarray, second: np.ndarray) -> float:
    """Debiased linear CKA (Kornblith et al. 2019; Nguyen et al. 2021, arXiv:2010.15327).

    HSIC₁ (Song et al. 2012) of every batch is added up for the numerator and for both denominators apart. It is not
    clipped: of independent representations it lies around 0, on both sides. NaN where one does not vary.

    Args:
        first, second: of `u_centered`, of the same samples.
    """
    # HSIC₁ = ⟨U, V⟩ ÷ (n (n − 3)); all batches have the same n, which cancels.
    across, mine, theirs = (float(np.vdot(a, b)) for a, b in ((first, second), (first, first), (second, second)))
    return across / (mine * theirs) ** 0.5 if mine > 0 and theirs > 0 else float("nan")


def unit(values: np.ndarray) -> np.ndarray:
    """All samples in one table, centered and of Frobenius norm 1: (batches · samples, width) float64."""
    x = values.reshape(-1, values.shape[-1]).astype(np.float64)
    x -= x.mean(axis=0)
    norm = np.linalg.norm(x)
    return x / norm if norm > 0 else x


def procrustes(first: np.ndarray, second: np.ndarray) -> float:
    """How far an orthogonal map turns one into the other: 1 when entirely, from 0 (Schönemann 1966; Ding et al. 2021).

    It is the nuclear norm of XᵀY, and 1 − d² ÷ 2 of the Procrustes distance d. With few samples beside the width
    independent representations score far above 0: compare values of the same samples only.

    Args:
        first, second: of `unit`.
    """
    return float(np.linalg.svd(first.T @ second, compute_uv=False).sum())


def neighbors(values: np.ndarray) -> np.ndarray:
    """Which samples of its batch are nearest to each, by cosine: (batches, samples, samples) bool.

    There are `neighbors_of(samples)` of each.
    """
    x = values.astype(np.float64)
    norms = np.linalg.norm(x, axis=2, keepdims=True)
    x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    near = x @ x.swapaxes(1, 2)
    n = near.shape[1]
    near[:, np.arange(n), np.arange(n)] = -np.inf
    order = np.argsort(-near, axis=2, kind="stable")[:, :, : neighbors_of(n)]
    found = np.zeros(near.shape, bool)
    np.put_along_axis(found, order, True, axis=2)
    return found


def neighbors_of(samples: int) -> int:
    """How many neighbors are compared among so many samples."""
    return max(1, min(NEIGHBORS, (samples - 1) // 3))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual k-NN (Huh et al. 2024, arXiv:2405.07987): the share of neighbors that both have.

    By chance it is k ÷ (samples − 1).

    Args:
        first, second: of `neighbors`, of the same samples.
    """
    return float((first & second).sum() / first.sum())
