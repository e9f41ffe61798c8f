"""Points in a plane: distances from streamed columns, and three projections, of numbers alone."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from scipy.stats import norm

from pli_analysis.metrics.maps import gram, projections
from tests.conftest import UMAP


class Columns:
    """Vectors in memory, read in blocks of so many columns."""

    def __init__(self, values, size=7):
        self.values, self.size = values, size
        self.count, self.width = values.shape

    def blocks(self):
        for start in range(0, self.width, self.size):
            yield self.values[:, start : start + self.size].astype(np.float64)


@st.composite
def trees(draw):
    """Vectors, and for each the number of an earlier one that it came from, or None."""
    count = draw(st.integers(2, 12))
    sources = [None] + [draw(st.one_of(st.none(), st.integers(0, i - 1))) for i in range(1, count)]
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).normal(size=(count, draw(st.integers(1, 30)))), sources


@settings(max_examples=50, deadline=None)
@given(trees())
def test_distances_equal_those_of_the_vectors_themselves(case):
    values, sources = case
    found = gram.squared_distances(gram.gram(Columns(values), sources).steps, sources)
    assert found == pytest.approx(squareform(pdist(values)) ** 2, abs=1e-9)


def test_checkpoints_that_differ_in_their_last_bits_keep_their_distance():
    """A Gram matrix of the vectors in float64, centered, has nothing but noise here."""
    generator = np.random.default_rng(0)
    first = generator.normal(size=50_000).astype(np.float32)
    path = [first]
    for _ in range(5):
        chosen = generator.random(first.size) < 1e-3
        path.append(np.where(chosen, np.nextafter(path[-1], np.float32(9)), path[-1]))
    values = np.array(path)
    exact = squareform(pdist(values.astype(np.longdouble) - first)) ** 2
    found = gram.squared_distances(gram.gram(Columns(values, 999), [None, 0, 1, 2, 3, 4]).steps, [None, 0, 1, 2, 3, 4])
    assert found == pytest.approx(exact, rel=1e-6)
    wide = values.astype(np.float64)
    inner = wide @ wide.T
    naive = np.diag(inner)[:, None] + np.diag(inner) - 2 * inner
    assert not np.allclose(naive, exact, rtol=0.1, atol=0)


def test_a_sketch_states_its_error_and_keeps_to_it():
    generator = np.random.default_rng(0)
    values = np.cumsum(generator.normal(size=(60, 50_000)), axis=0)
    sources = [None, *range(59)]
    sketched = gram.gram(Columns(values, 6000), sources, exact=1)
    assert gram.gram(Columns(values, 6000), sources).error is None
    stated = sketched.error
    assert 0 < stated.median < stated.largest < stated.bound < 0.06 and stated.pairs == 24 * 23 // 2
    true = squareform(pdist(values))
    found = np.sqrt(gram.squared_distances(sketched.steps, sources))
    relative_distances = true > 0
    error = np.abs(found[relative_distances] / true[relative_distances] - 1)
    # A squared distance has a standard error of √(2 ÷ 4096), so a distance of half that: 1.1 %.
    assert np.sqrt(np.mean(error**2)) == pytest.approx(0.011, rel=0.5)
    assert stated.median == pytest.approx(np.median(error), rel=1)
    assert stated.largest <= error.max() < stated.bound


def walks(generator, kind):
    """30 points in 12,000 dimensions."""
    steps = generator.laplace(size=(30, 12_000)) if kind == "heavy tails" else generator.normal(size=(30, 12_000))
    if kind == "few numbers at a time":
        steps *= generator.random(steps.shape) < 1e-3
    return steps if kind == "unrelated" else np.cumsum(steps, axis=0)


def errors(kind, times):
    """(what a sketch to 512 numbers states, the error of every distance), of so many data sets."""
    generator, sources = np.random.default_rng(0), [None, *range(29)]
    for _ in range(times):
        values = walks(generator, kind)
        sketched = gram.gram(Columns(values, 6000), sources, exact=1)
        found = gram.squared_distances(sketched.steps, sources)[np.triu_indices(30, 1)]
        yield sketched.error, np.abs(np.sqrt(found) / pdist(values) - 1)


def expected_among_all(errors):
    """What was stated before: from the errors among 24 vectors, the one that one pair in all is expected beyond."""
    some = np.unique(np.linspace(0, 29, 24).astype(int))
    known = squareform(errors)[np.ix_(some, some)][np.triu_indices(24, 1)]
    return max(known.max(), np.sqrt((known**2).mean()) * norm.isf(1 / (30 * 29)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in line", "unrelated", "heavy tails"])
def test_the_bound_of_a_sketch_is_exceeded_in_one_of_a_hundred_data_sets_at_most(monkeypatch, kind):
    monkeypatch.setattr(gram, "SKETCH", 512)
    stated = [(error.bound, found) for error, found in errors(kind, 100)]
    assert all(bound is not None for bound, _ in stated)
    # More than 3 of 100 have a probability of 2 % where the risk is 1 %.
    assert np.mean([found.max() > bound for bound, found in stated]) <= 0.03
    assert np.mean([found.max() > expected_among_all(found) for _, found in stated]) > 0.1


def test_no_bound_is_stated_where_differences_lie_in_few_numbers(monkeypatch):
    """There it would be exceeded: two large numbers that are added up with each other are all of an error."""
    monkeypatch.setattr(gram, "SKETCH", 512)
    stated = list(errors("few numbers at a time", 20))
    assert all(error.bound is None for error, _ in stated)
    assert np.mean([found.max() > gram.error_bound(30, 512) for _, found in stated]) > 0.1


@pytest.mark.parametrize("size", [64, 4096])
def test_the_bound_is_that_of_gaussian_sketches(size):
    """Of unrelated distances, which is the worst case: as many draws of χ² as there are pairs."""
    generator, pairs = np.random.default_rng(0), 10 * 9 // 2
    drawn = np.sqrt(generator.chisquare(size, size=(40_000, pairs)) / size)
    exceeded = np.mean(np.abs(drawn - 1).max(axis=1) > gram.error_bound(10, size))
    assert exceeded == pytest.approx(gram.RISK, rel=0.2)


@settings(max_examples=50, deadline=None)
@given(trees())
def test_pca_equals_that_of_scikit_learn(case):
    from sklearn.decomposition import PCA

    values, _ = case
    found = projections.pca(squareform(pdist(values)) ** 2)
    kept = min(len(values) - 1, values.shape[1])
    reference = PCA(kept).fit(values)
    assert found.shares[:kept] == pytest.approx(reference.explained_variance_ratio_, abs=1e-9)
    inner = values - values.mean(axis=0)
    assert found.values @ found.values.T == pytest.approx(inner @ inner.T, abs=1e-8)


def test_a_random_walk_in_many_dimensions_is_its_own_null():
    """Antognini and Sohl-Dickstein: such a walk draws smooth curves, and the null draws the same."""
    generator = np.random.default_rng(0)
    values = np.cumsum(generator.normal(size=(40, 200_000)), axis=0)
    sources = [None, *range(39)]
    steps = gram.gram(Columns(values, 20_000), sources).steps
    walk, null = (projections.pca(gram.squared_distances(found, sources)) for found in (steps, gram.random_walk(steps)))
    assert null.shares[:3] == pytest.approx(walk.shares[:3], abs=0.01)
    assert walk.shares[0] == pytest.approx(6 / np.pi**2, abs=0.02)  # what that paper derives for long walks


@pytest.mark.parametrize("method", ["tsne", UMAP])
def test_the_same_points_twice_and_neighbors_kept(method):
    generator = np.random.default_rng(0)
    values = np.repeat(generator.normal(size=(4, 50)) * 9, 15, axis=0) + generator.normal(size=(60, 50))
    squared = squareform(pdist(values)) ** 2
    first, second = (projections.in_plane(method, squared, projections.pca(squared)) for _ in range(2))
    assert np.array_equal(first, second)
    trust, neighbors = projections.trustworthiness(squared, first)
    assert neighbors == 10
    assert trust > 0.9
    shuffled = generator.permutation(first)
    assert projections.trustworthiness(squared, shuffled)[0] < 0.7


@pytest.mark.parametrize("count", [3, 6, 20, 21, 22, 80])
def test_trustworthiness_equals_that_of_scikit_learn(count):
    from sklearn.manifold import trustworthiness

    generator = np.random.default_rng(count)
    values, plane = generator.normal(size=(count, 5)), generator.normal(size=(count, 2))
    found, neighbors = projections.trustworthiness(squareform(pdist(values)) ** 2, plane)
    assert neighbors == min(10, (count - 1) // 2)
    assert found == pytest.approx(trustworthiness(values, plane, n_neighbors=neighbors), rel=1e-12)


def test_points_in_one_place_are_neighbors_whatever_their_order():
    """As births are with --since-birth: whoever of them comes first in the plane, none is a false neighbor."""
    squared = squareform(pdist(np.repeat(np.arange(4.0), 15)[:, None])) ** 2
    plane = np.repeat(np.arange(4.0), 15)[:, None] + np.random.default_rng(0).normal(scale=0.01, size=(60, 2))
    assert projections.trustworthiness(squared, plane) == (1, 10)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7, 30])
@pytest.mark.parametrize("method", ["pca", "tsne", UMAP])
def test_few_points_have_a_place_too(method, count):
    squared = squareform(pdist(np.random.default_rng(count).normal(size=(count, 9)))) ** 2
    used = projections.method_for(method, count)
    assert used == (method if count >= projections.FEWEST else "pca")
    plane = projections.in_plane(used, squared, projections.pca(squared))
    assert plane.shape == (count, 2)
    assert np.isfinite(plane).all()


@pytest.mark.parametrize("count", [5, 40])
def test_umap_is_asked_for_distances_neighbors_and_a_start_that_fit(count, monkeypatch):
    """What takes no compiling: the rest is told by the slow tests."""
    asked = {}

    class Stub:
        def __init__(self, **message):
            asked.update(message)

        def fit_transform(self, distances):
            asked["distances"] = distances
            return asked["init"]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Stub))
    values = np.random.default_rng(0).normal(size=(count, 9))
    squared = squareform(pdist(values)) ** 2
    components = projections.pca(squared)
    plane = projections.in_plane("umap", squared, components)
    assert asked["distances"] == pytest.approx(squareform(pdist(values)))
    assert asked["metric"] == "precomputed" and asked["n_neighbors"] == min(15, count - 1)
    assert asked["random_state"] == projections.SEED and asked["n_jobs"] == 1
    # The start is PCA at the size that UMAP's own starts have, 10 across.
    assert plane[:, 0].std() == pytest.approx(10, rel=1e-5)
    assert np.corrcoef(plane[:, 1], components.values[:, 1])[0, 1] == pytest.approx(1)


def test_tsne_of_more_points_than_it_draws_exactly_keeps_their_neighbors():
    values = np.cumsum(np.random.default_rng(0).normal(size=(projections.EXACT + 20, 40)), axis=0)
    squared = squareform(pdist(values)) ** 2
    first, second = (projections.in_plane("tsne", squared, projections.pca(squared)) for _ in range(2))
    assert np.array_equal(first, second)
    assert projections.trustworthiness(squared, first)[0] > 0.97


def test_points_are_drawn_by_one_thread(monkeypatch):
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_info, threadpool_limits

    used, fit_transform = [], TSNE.fit_transform

    def counted(self, distances):
        used.extend(pool["num_threads"] for pool in threadpool_info())
        return fit_transform(self, distances)

    monkeypatch.setattr(TSNE, "fit_transform", counted)
    squared = squareform(pdist(np.random.default_rng(0).normal(size=(9, 3)))) ** 2
    with threadpool_limits(2):
        projections.in_plane("tsne", squared, projections.pca(squared))
    assert set(used) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_two_thousand_points_keep_their_neighbors(method):
    """As many as 166 checkpoints of 12 layers: paths of their own that begin in one place."""
    steps = np.random.default_rng(0).normal(size=(12, 166, 40))
    steps[:, 0] *= 20
    values = np.cumsum(steps, axis=1).reshape(-1, 40)
    squared = squareform(pdist(values)) ** 2
    plane = projections.in_plane(method, squared, projections.pca(squared))
    assert plane.shape == (1992, 2) and np.isfinite(plane).all()
    assert projections.trustworthiness(squared, plane)[0] > 0.95


def test_points_that_coincide_have_a_place_too():
    for method in projections.METHODS:
        assert not projections.in_plane(method, np.zeros((8, 8)), projections.pca(np.zeros((8, 8)))).any()
