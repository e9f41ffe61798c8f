"""Draws in strata: who is drawn, and whether a mean and its standard error are what they say."""

import warnings

import numpy as np
import pytest
from scipy.stats import t

from pli_train.core.sampling import Design, clustered, draw

NUMBER = 1200


@pytest.fixture(scope="module")
def population():
    """Sums and counts of blocks in documents of 40 alike ones, and a fair guess of each block's mean."""
    chance = np.random.default_rng(0)
    document = chance.normal(size=NUMBER // 40).repeat(40)
    means = 5 + document + 0.3 * chance.normal(size=NUMBER)
    counts = chance.integers(15, 25, NUMBER).astype(float)
    return means * counts, counts, means + 0.4 * chance.normal(size=NUMBER)


def covered(sums, counts, locations, design):
    """Whether a 95 % interval of this draw holds the mean of all."""
    found = design.mean(sums[locations], counts[locations])
    reach = t.ppf(0.975, found.freedom) * found.error
    return abs(found.value - sums.sum() / counts.sum()) <= reach


def test_intervals_hold_the_truth_as_often_as_they_say(population):
    """And do not where neighbors are taken for a random draw, which evaluations did once."""
    sums, counts, guess = population
    held = {"drawn": [], "first 16": [], "in a row": []}
    for seed in range(1000):
        locations, design = draw(guess, 60, seed)
        held["drawn"].append(covered(sums, counts, locations, design))
        held["first 16"].append(covered(sums, counts, locations[:16], design.first(16)))
        start = np.random.default_rng(seed).integers(NUMBER - 60)
        held["in a row"].append(covered(sums, counts, np.arange(start, start + 60), Design.simple(60, NUMBER)))
    shares = {rule: np.mean(of) for rule, of in held.items()}
    assert 0.93 <= shares["drawn"] <= 0.98
    assert 0.93 <= shares["first 16"] <= 0.98
    assert shares["in a row"] < 0.5


def test_strata_of_a_fair_guess_make_the_error_small(population):
    sums, counts, guess = population
    errors = {}
    for name, difficulty in (("guess", guess), ("none", np.zeros(NUMBER))):
        locations, design = draw(difficulty, 60, 0)
        errors[name] = design.mean(sums[locations], counts[locations]).error
    assert errors["guess"] < 0.7 * errors["none"]


def test_the_estimate_equals_a_slow_reference(population):
    """Cochran 1977: (5.27) for the variance of a stratified mean, of residuals from the ratio; (5.16) for freedom."""
    sums, counts, guess = population
    locations, design = draw(guess, 31, 5)
    found = design.mean(sums[locations], counts[locations])
    strata = [np.flatnonzero(design.stratum == number) for number in range(len(design.sizes))]
    assert sorted(map(len, strata)) == [2] * 14 + [3] and design.sizes.sum() == NUMBER
    share = design.sizes / NUMBER
    mean_of = [w * sums[locations[drawn]].mean() for w, drawn in zip(share, strata, strict=True)]
    count_of = [w * counts[locations[drawn]].mean() for w, drawn in zip(share, strata, strict=True)]
    ratio = sum(mean_of) / sum(count_of)
    variance, fourth = 0.0, 0.0
    for size, drawn in zip(design.sizes, strata, strict=True):
        residuals = sums[locations[drawn]] - ratio * counts[locations[drawn]]
        part = (size / NUMBER) ** 2 * (1 - len(drawn) / size) * residuals.var(ddof=1) / len(drawn)
        variance, fourth = variance + part, fourth + part**2 / (len(drawn) - 1)
    assert found.value == pytest.approx(ratio, rel=1e-12)
    assert found.error == pytest.approx(variance**0.5 / sum(count_of), rel=1e-9)
    assert found.freedom == pytest.approx(variance**2 / fourth, rel=1e-9)


def test_each_block_is_drawn_as_often_as_any_other():
    """Also those that are as hard as others: their order is random."""
    times = np.zeros(40)
    for seed in range(2000):
        locations, design = draw(np.repeat([1.0, 2.0], 20), 8, seed)
        assert len(set(locations.tolist())) == 8 and np.bincount(design.stratum).tolist() == [2] * 4
        times[locations] += 1
    assert abs(times - 400).max() < 5 * (2000 * 0.2 * 0.8) ** 0.5


def test_what_was_read_whole_has_no_error_and_one_block_has_none_that_is_known(population):
    sums, counts, guess = (values[:11] for values in population)
    locations, design = draw(guess, 99, 0)
    found = design.mean(sums[locations], counts[locations])
    assert sorted(locations) == list(range(11))
    assert found.value == pytest.approx(sums.sum() / counts.sum()) and found.error == 0
    locations, design = draw(guess, 1, 0)
    assert np.isnan(design.mean(sums[locations], counts[locations]).error)


def test_documents_of_equal_length_have_the_error_of_their_means():
    chance = np.random.default_rng(1)
    sums = chance.normal(size=(7, 5)) + chance.normal(size=(7, 1))
    found = clustered(sums.ravel(), np.full(35, 2.0), np.arange(7).repeat(5))
    means = sums.mean(1) / 2
    assert found.value == pytest.approx(means.mean()) and found.freedom == 6
    assert found.error == pytest.approx(means.std(ddof=1) / 7**0.5)
    assert np.isnan(clustered(sums[0], np.ones(5), np.zeros(5, int)).error)


def test_of_nothing_there_is_no_mean_and_no_warning():
    """A block of masked-lm may have nothing to predict."""
    nothing = np.zeros(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [Design.simple(4, of).mean(nothing, nothing) for of in (4, 9)]
        found.append(clustered(nothing, nothing, np.arange(4)))
    assert np.isnan([each.value for each in found]).all() and np.isnan([each.error for each in found]).all()
