"""Project distances to the plane with PCA, t-SNE or UMAP; trustworthiness."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pli_train.core.errors import BadInput, did_you_mean

METHODS = ("pca", "tsne", "umap")
FEWEST = 5
"""Points below which neighbors say nothing, and PCA is what is left."""
EXACT = 250
"""Points up to which t-SNE is exact, which takes two seconds; beyond, Barnes and Hut's way is as good and faster."""
SEED = 0
NEIGHBORS = 10
"""Of a point, at most, that trustworthiness looks at."""


@dataclass(frozen=True)
class Components:
    """Principal components.

    Attributes:
        values: (points, components), by falling variance. Of each component the sign is such that its largest value is
            positive.
        shares: of the whole variance, for each component.
    """

    values: np.ndarray
    shares: np.ndarray


def pca(squared: np.ndarray, most: int = 50) -> Components:
    """Principal components from squared distances (Torgerson 1952: center twice, decompose).

    Args:
        squared: (points, points).
        most: components at most. There are always two, of which the second is 0 where there is but one.
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
    """The method that so many points allow: what was asked for, or PCA where they are too few.

    Raises:
        BadInput: for another method, or fewer than two points.
    """
    if method not in METHODS:
        raise BadInput(f"--method {method}: is none of {', '.join(METHODS)}{did_you_mean(method, METHODS)}")
    if count < 2:
        raise BadInput(f"a map takes two points at least, and here is {count}: more checkpoints or parts are needed")
    return method if count >= FEWEST else "pca"


def in_plane(
    method: str, squared: np.ndarray, components: Components, say: Callable[[str], None] = lambda line: None
) -> np.ndarray:
    """Points in the plane: (points, 2).

    t-SNE (van der Maaten and Hinton 2008) and UMAP (McInnes et al. 2018, arXiv:1802.03426) begin with PCA (Kobak and
    Linderman 2021), which keeps what is far apart in its place.

    Args:
        method: one of METHODS, as `method_for` gives it.
        squared: squared distances, (points, points).
        components: of the same points.
        say: told what takes long.
    """
    from threadpoolctl import threadpool_limits

    plane = components.values[:, :2]
    spread = plane[:, 0].std()
    if method == "pca" or spread == 0:
        return plane.copy()
    draw = _tsne if method == "tsne" else _umap
    # Several threads wait for each other at each step, ten times as long where others use the cores too.
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
        say("umap: loading it compiles it, which takes from 5 seconds to a minute")
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of precomputed distances it says that it cannot turn them back
        return UMAP(
            metric="precomputed",
            init=(10 * start).astype(np.float32),
            n_neighbors=min(15, len(distances) - 1),
            random_state=SEED,
            n_jobs=1,
        ).fit_transform(distances)


def trustworthiness(squared: np.ndarray, plane: np.ndarray) -> tuple[float, int] | None:
    """How far neighbors in the plane are neighbors (Venna and Kaski 2001): 1 when all are.

    Args:
        squared: squared distances, (points, points).
        plane: the same points there, (points, 2).

    Returns:
        It, and the number of neighbors that it looks at; None where there are too few points for it.
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
        ranks = np.count_nonzero(row < row[near, None], axis=1)  # the point itself makes it begin at 1
        false += int(np.maximum(ranks - neighbors, 0).sum())
    return 1 - 2 * false / (count * neighbors * (2 * count - 3 * neighbors - 1)), neighbors
