"""Project distances to the plane with PCA, t-SNE or UMAP; trustworthiness."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pli_train.core.errors import BadInput, did_you_mean

METHODS = ("pca", "tsne", "umap")
FEWEST = 5
"""Minimum number of points for t-SNE and UMAP; with fewer, PCA is used."""
EXACT = 250
"""Maximum number of points for exact t-SNE, which takes two seconds; beyond, Barnes–Hut is as good and faster."""
SEED = 0
NEIGHBORS = 10
"""Maximum number of neighbors of a point for trustworthiness."""


@dataclass(frozen=True)
class Components:
    """Principal components.

    Attributes:
        values: (points, components), by decreasing variance. The sign of each component is such that its value of
            largest magnitude is positive.
        shares: (components,): fractions of the total variance.
    """

    values: np.ndarray
    shares: np.ndarray


def pca(squared: np.ndarray, most: int = 50) -> Components:
    """Return principal components from squared distances (classical scaling, Torgerson 1952).

    Args:
        squared: (points, points).
        most: maximum number of components. There are always at least two; the second is 0 if there is only one.
    """
    means = squared.mean(axis=0)
    inner = -0.5 * (squared - means - means[:, None] + means.mean())
    found, vectors = np.linalg.eigh((inner + inner.T) / 2)
    order = np.argsort(found)[::-1]
    found, vectors = np.maximum(found[order], 0.0), vectors[:, order]
    kept = max(min(most, len(squared) - 1), 1)
    values = vectors[:, :kept] * np.sqrt(found[:kept])
    values *= np.where(values[np.abs(values).argmax(axis=0), np.arange(kept)] < 0, -1.0, 1.0)
    whole = found.sum()
    shares = found[:kept] / whole if whole > 0 else np.zeros(kept)
    if kept < 2:
        values, shares = np.pad(values, ((0, 0), (0, 1))), np.pad(shares, (0, 1))
    return Components(values, shares)


def method_for(method: str, count: int) -> str:
    """Return the method, or PCA if there are too few points for it.

    Raises:
        BadInput: for an unknown method, or fewer than two points.
    """
    if method not in METHODS:
        raise BadInput(
            f"--method {method}: is not a method{did_you_mean(method, METHODS)}; use one of {', '.join(METHODS)}"
        )
    if count < 2:
        raise BadInput(f"a map needs at least two points, and there is {count}: it needs more checkpoints or parts")
    return method if count >= FEWEST else "pca"


def in_plane(
    method: str, squared: np.ndarray, components: Components, say: Callable[[str], None] = lambda line: None
) -> np.ndarray:
    """Project points to the plane: (points, 2).

    t-SNE (van der Maaten and Hinton 2008) and UMAP (McInnes et al. 2018, arXiv:1802.03426) are initialized with PCA,
    which preserves the global arrangement better (Kobak and Linderman 2021).

    Args:
        method: one of METHODS, as returned by `method_for`.
        squared: squared distances, (points, points).
        components: principal components of the same points.
        say: called with a line before a slow operation.
    """
    from threadpoolctl import threadpool_limits

    plane = components.values[:, :2]
    spread = plane[:, 0].std()
    if method == "pca" or spread == 0:
        return plane.copy()
    draw = _tsne if method == "tsne" else _umap
    # One thread: several ones wait for each other at each step, up to ten times as long on a busy machine.
    with threadpool_limits(1):
        return np.asarray(draw(np.sqrt(squared), plane / spread, say), dtype=np.float64)


def _tsne(distances: np.ndarray, start: np.ndarray, say: Callable[[str], None]) -> np.ndarray:
    from sklearn.manifold import TSNE

    count = len(distances)
    return TSNE(
        metric="precomputed",
        init=(1e-4 * start).astype(np.float32),
        perplexity=min(30.0, (count - 1) / 3),
        method="exact" if count <= EXACT else "barnes_hut",
        learning_rate="auto",
        random_state=SEED,
    ).fit_transform(distances)


def _umap(distances: np.ndarray, start: np.ndarray, say: Callable[[str], None]) -> np.ndarray:
    import sys

    if "umap" not in sys.modules:
        say("umap: loading and compiling it takes from 5 seconds to a minute")
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that precomputed distances have no inverse transform
        return UMAP(
            metric="precomputed",
            init=(10 * start).astype(np.float32),
            n_neighbors=min(15, len(distances) - 1),
            random_state=SEED,
            n_jobs=1,
        ).fit_transform(distances)


def trustworthiness(squared: np.ndarray, plane: np.ndarray) -> tuple[float, int] | None:
    """Return trustworthiness (Venna and Kaski 2001): 1 if all neighbors in the plane are neighbors in the space.

    Args:
        squared: squared distances, (points, points).
        plane: the projected points, (points, 2).

    Returns:
        Trustworthiness and the number of neighbors used; None with too few points.
    """
    count = len(squared)
    neighbors = min(NEIGHBORS, (count - 1) // 2)
    if neighbors < 1:
        return None
    false = 0
    for own, row in enumerate(squared):
        differ = np.square(plane - plane[own]).sum(axis=1)
        differ[own] = np.inf
        near = np.argsort(differ, kind="stable")[:neighbors]
        ranks = np.count_nonzero(row < row[near, None], axis=1)  # ranks start at 1, as the point itself is counted
        false += int(np.maximum(ranks - neighbors, 0).sum())
    return 1 - 2 * false / (count * neighbors * (2 * count - 3 * neighbors - 1)), neighbors
