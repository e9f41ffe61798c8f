"""Planes kept by content: drawn once, and the same bits from the cache as from scratch."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from pli_analysis.metrics.maps import plane_cache, projections
from pli_train.core import cache
from tests.conftest import UMAP


@pytest.fixture
def squared(monkeypatch, tmp_path):
    """Distances, and a cache that is empty."""
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "cache"))
    return squareform(pdist(np.random.default_rng(0).normal(size=(20, 5)))) ** 2


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn, and not taken from the cache: methods in order."""
    methods = []

    def stub(method, squared, components, say):
        methods.append(method)
        return components.values[:, :2] + len(methods)

    monkeypatch.setattr(projections, "in_plane", stub)
    return methods


def plane(method, squared):
    return plane_cache.plane(method, squared, projections.pca(squared))


KEPT = """
import sys
import numpy as np
from pli_analysis.metrics.maps import plane_cache, projections
squared = np.load(sys.argv[1])
np.save(sys.argv[2], plane_cache.plane(sys.argv[3], squared, projections.pca(squared)))
assert not {"sklearn", "umap", "numba"} & set(sys.modules), "a library was imported"
"""


@pytest.mark.parametrize("method", ["tsne", UMAP])
def test_a_second_call_in_another_process_imports_no_library_and_has_the_same_bits(method, squared, tmp_path):
    np.save(tmp_path / "squared.npy", squared)
    command = [sys.executable, "-c", KEPT, tmp_path / "squared.npy", tmp_path / "plane.npy", method]
    cold = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert "a library was imported" in cold.stderr
    first = np.load(tmp_path / "plane.npy")
    assert np.array_equal(first, projections.in_plane(method, squared, projections.pca(squared)))
    warm = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert warm.returncode == 0, warm.stderr
    assert np.array_equal(np.load(tmp_path / "plane.npy"), first)


def test_pca_is_not_kept(squared, drawn):
    for _ in range(2):
        plane("pca", squared)
    assert drawn == ["pca", "pca"]
    assert not cache.root().exists()


def test_other_distances_methods_and_versions_are_drawn_anew(squared, drawn, monkeypatch):
    first = plane("tsne", squared)
    assert np.array_equal(plane("tsne", squared), first) and drawn == ["tsne"]
    plane("umap", squared)
    other = squared.copy()
    other[0, 1] = other[1, 0] = np.nextafter(other[0, 1], 9)
    plane("tsne", other)
    monkeypatch.setattr(plane_cache.metadata, "version", lambda library: "9.9")
    plane("tsne", squared)
    monkeypatch.setattr(plane_cache, "VERSION", plane_cache.VERSION + 1)
    plane("tsne", squared)
    assert drawn == ["tsne", "umap", "tsne", "tsne", "tsne"]


def test_what_is_kept_of_another_size_is_drawn_anew(squared, drawn, monkeypatch):
    plane("tsne", squared)
    monkeypatch.setattr(cache, "get", lambda name: bytes(16))
    plane("tsne", squared)
    assert drawn == ["tsne", "tsne"]
