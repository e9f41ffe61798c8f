"""Lineage inferred from weights, against the true one of runs that wrote it down, and against slow references."""

import itertools

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from pli_analysis import inferred, matching
from pli_analysis.run import Run
from pli_train import run_folder
from pli_train.errors import BadInput
from pli_train.growth.ffn import WidenFFN
from pli_train.growth.heads import AddHeads
from pli_train.growth.insert import Insert
from pli_train.lineage import Lineage
from tests.drifting import Drifting
from tests.stripping import random_run, strip

FRESH = 1000
"""Seeds of runs that `matching.SCALE` was not chosen on: for that seeds from 0 on were used."""


# --- who is who, by distances ---------------------------------------------------------------------------------------


def by_hand(distance):
    """The best monotone alignment and each pair's share, all alignments gone through one by one."""
    few, many = distance.shape
    ways = list(itertools.combinations(range(many), few))
    weights = np.array([np.prod([distance[i, j] ** (-1 / matching.SCALE) for i, j in enumerate(w)]) for w in ways])
    shares = np.zeros(distance.shape)
    for way, weight in zip(ways, weights / weights.sum(), strict=True):
        shares[range(few), way] += weight
    return ways[int(np.argmax(weights))], shares


@pytest.mark.parametrize("seed", range(30))
def test_the_alignment_is_the_one_that_going_through_all_of_them_finds(seed):
    generator = np.random.default_rng(seed)
    few = int(generator.integers(1, 5))
    distance = generator.uniform(0.1, 1.2, (few, few + int(generator.integers(0, 4))))
    chosen, shares = matching._aligned(matching.costs(distance))
    best, expected = by_hand(distance)
    assert tuple(chosen) == best
    np.testing.assert_allclose(shares, expected, rtol=1e-9, atol=1e-12)


def test_two_layers_equally_near_get_half_the_confidence_each_and_the_lower_one_the_name():
    found = matching.match(np.array([[1.0, 0.01, 0.01, 1.0]]))
    assert found.places == (None, 0, None, None)
    np.testing.assert_allclose(found.confidence, [1.0, 0.5, 0.5, 1.0], atol=0.01)


def test_another_order_is_found_where_it_is_clearly_nearer():
    distance = np.ones((3, 4))
    distance[0, 3] = distance[1, 1] = distance[2, 0] = 0.05
    found = matching.match(distance)
    assert found.places == (2, 1, None, 0)
    assert found.confidence.min() > 0.99


def test_layers_that_are_gone_are_left_out():
    distance = np.ones((4, 2))
    distance[1, 0] = distance[3, 1] = 0.05
    assert matching.match(distance).places == (1, 3)


def test_unrelated_models_are_matched_in_order_with_no_confidence(rng=np.random.default_rng(0)):
    found = matching.match(matching.apart(rng.normal(size=(6, 4000)), rng.normal(size=(6, 4000))))
    assert found.places == tuple(range(6))
    assert found.confidence.max() < 0.5


def test_distance_is_zero_of_equals_one_of_unrelated_and_the_same_both_ways(rng=np.random.default_rng(1)):
    x, y = rng.normal(size=(3, 20_000)), 5 * rng.normal(size=(4, 20_000))
    assert matching.apart(x, x).diagonal() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(matching.apart(x, y), 1, atol=0.05)
    np.testing.assert_array_equal(matching.apart(x, y), matching.apart(y, x).T)
    assert matching.apart(x * 0, y).tolist() == np.ones((3, 4)).tolist()
    assert matching.apart(x * np.nan, y).tolist() == np.ones((3, 4)).tolist()


# --- random grown runs ----------------------------------------------------------------------------------------------


def check(seeds, corpus, folder):
    """Judge what is inferred of random runs: a table with a row for each layer of each later checkpoint."""
    rows = []
    for seed in seeds:
        keep = random_run(seed, folder / f"{seed}", corpus)
        truth = strip(folder / f"{seed}", folder / f"stripped-{seed}", keep)
        opened = Run.open(folder / f"stripped-{seed}")
        table = opened.confidence
        sure = table[~table["part"].str.contains(".", regex=False)].set_index(["checkpoint", "index"])
        pairs = zip(opened.checkpoints[1:], truth, truth[1:], strict=False)
        for checkpoint, before, after in pairs:
            assert len(checkpoint.lineage.stack) == len(after.stack)
            for index, id in enumerate(after.stack):
                told = sure.loc[(str(checkpoint.name), index)]
                true = before.stack.index(id) if id in before.stack else None
                mine = None if pd.isna(told["matched"]) else int(told["matched"])
                donor = after.layers[id].birth.donor if true is None else None
                rows.append((seed, before.stack != after.stack, true, mine, mine == true, told["confidence"]))
                rows[-1] += (donor, told["donor"])
    return pd.DataFrame(rows, columns=["seed", "grew", "true", "matched", "right", "confidence", "donor", "told"])


def summary(table):
    """The figures to report."""
    grew, lines = table[table["grew"]], []
    old = grew[grew["true"].notna()]
    for name, rows in (("layers at growth", grew), ("old ones of them", old), ("without growth", table[~table["grew"]])):
        lines.append(f"{name}: {rows['right'].sum()} of {len(rows)} right ({rows['right'].mean():.1%})")
    for low, high in ((0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 0.99), (0.99, 1.01)):
        rows = grew[(grew["confidence"] >= low) & (grew["confidence"] < high)]
        lines.append(f"  confidence {low} to {min(high, 1)}: {rows['right'].sum()} of {len(rows)} right")
    return "\n".join(lines)


def holds(table):
    grew = table[table["grew"]]
    print(summary(table))
    assert grew["right"].mean() >= 0.95
    assert grew[grew["true"].notna()]["right"].mean() >= 0.95
    assert table[~table["grew"]]["right"].all()
    assert table[table["confidence"] >= 0.9]["right"].all(), "a wrong match must not be confident"
    # Confidence is no modesty either: matches that are right mostly have a high one.
    assert (grew[grew["right"]]["confidence"] >= 0.9).mean() > 0.85


def test_the_lineage_of_random_grown_runs_is_found_again(corpus, tmp_path):
    holds(check(range(FRESH, FRESH + 4), corpus, tmp_path))


@pytest.mark.slow
def test_the_lineage_of_fifty_random_grown_runs_is_found_again(corpus, tmp_path):
    holds(check(range(FRESH, FRESH + 50), corpus, tmp_path))
