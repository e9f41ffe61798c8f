"""Debiased CKA, orthogonal Procrustes, overlap of nearest neighbors.

A representation is an array (batches, samples, width). The samples of a batch come from different sequences, so that
they are independent. The two representations may differ in width.
"""

from __future__ import annotations

import numpy as np

NEIGHBORS = 10
"""Maximum number of nearest neighbors of a sample that are compared."""
FEWEST = 4
"""Minimum number of samples in a batch for HSIC₁."""


def u_centered(values: np.ndarray) -> np.ndarray:
    """Return U-centered linear kernels, whose inner products are unbiased (Székely and Rizzo 2014).

    Args:
        values: (batches, samples, width), at least four samples.

    Returns:
        (batches, samples, samples) float64, with zero diagonals.
    """
    x = values.astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)  # does not change the result, but reduces rounding errors
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
    """Return debiased linear CKA (Kornblith et al. 2019; Nguyen et al. 2021, arXiv:2010.15327).

    HSIC₁ (Song et al. 2012) is summed over batches, separately for the numerator and both factors of the denominator.
    It is not clipped: for independent representations it is around 0, positive or negative. NaN if a representation is
    constant.

    Args:
        first, second: results of `u_centered` for the same samples.
    """
    # HSIC₁ = ⟨U, V⟩ ÷ (n (n − 3)); all batches have the same n, which cancels.
    across, mine, theirs = (float(np.vdot(a, b)) for a, b in ((first, second), (first, first), (second, second)))
    return across / (mine * theirs) ** 0.5 if mine > 0 and theirs > 0 else float("nan")


def unit(values: np.ndarray) -> np.ndarray:
    """Return all samples as one matrix, centered and with Frobenius norm 1: (batches · samples, width) float64."""
    x = values.reshape(-1, values.shape[-1]).astype(np.float64)
    x -= x.mean(axis=0)
    norm = np.linalg.norm(x)
    return x / norm if norm > 0 else x


def procrustes(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Procrustes similarity, from 0 to 1: 1 if an orthogonal map turns one representation into the other.

    It is the nuclear norm of XᵀY, or 1 − d² ÷ 2 for the Procrustes distance d (Schönemann 1966; Ding et al. 2021). If
    there are few samples relative to the width, independent representations score far above 0: compare only values for
    the same samples.

    Args:
        first, second: results of `unit`.
    """
    return float(np.linalg.svd(first.T @ second, compute_uv=False).sum())


def neighbors(values: np.ndarray) -> np.ndarray:
    """Return whether each sample is a nearest neighbor of another in its batch, by cosine.

    The result is (batches, samples, samples) bool, with `neighbors_of(samples)` neighbors in each row.
    """
    x = values.astype(np.float64)
    norms = np.linalg.norm(x, axis=2, keepdims=True)
    x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    near = x @ x.swapaxes(1, 2)
    n = near.shape[1]
    near[:, np.arange(n), np.arange(n)] = -np.inf
    order = np.argsort(-near, axis=2, kind="stable")[:, :, : neighbors_of(n)]
    is_neighbor = np.zeros(near.shape, bool)
    np.put_along_axis(is_neighbor, order, True, axis=2)
    return is_neighbor


def neighbors_of(samples: int) -> int:
    """Return how many neighbors of each sample are compared."""
    return max(1, min(NEIGHBORS, (samples - 1) // 3))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return mutual k-NN (Huh et al. 2024, arXiv:2405.07987): the share of neighbors that both have in common.

    Its expectation by chance is k ÷ (samples − 1).

    Args:
        first, second: results of `neighbors` for the same samples.
    """
    return float((first & second).sum() / first.sum())
