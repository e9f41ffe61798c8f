"""Cache of t-SNE and UMAP results.

A result is cached under a hash of the squared distances, the method, and the versions of this module and of the
libraries that compute it. So a second call imports none of these libraries, and a new version of one recomputes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib import metadata

import numpy as np

from pli_analysis.metrics.maps import projections
from pli_analysis.metrics.maps.projections import Components
from pli_train.core import cache

VERSION = 1
"""Increase this when the same distances give other points."""
LIBRARIES = {
    "tsne": ("numpy", "scipy", "scikit-learn"),
    "umap": ("numpy", "scipy", "scikit-learn", "numba", "umap-learn"),
}


def plane(
    method: str, squared: np.ndarray, components: Components, say: Callable[[str], None] = lambda line: None
) -> np.ndarray:
    """Return the points of `projections.in_plane`, from the cache if possible."""
    if method not in LIBRARIES:
        return projections.in_plane(method, squared, components, say)
    name = f"planes/{_key(method, squared)}"
    if (kept := cache.get_array(name, (len(squared), 2))) is not None:
        return kept
    drawn = projections.in_plane(method, squared, components, say)
    cache.put_array(name, drawn)
    return drawn


def _key(method: str, squared: np.ndarray) -> str:
    """Hash the inputs of a projection. The initial points, of PCA, are determined by the distances."""
    versions = [metadata.version(library) for library in LIBRARIES[method]]
    distances = hashlib.sha256(np.ascontiguousarray(squared, "<f8").data).hexdigest()
    return hashlib.sha256(json.dumps([method, VERSION, versions, distances]).encode()).hexdigest()
