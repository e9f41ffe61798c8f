"""Surprisal under n-grams equals a slow reference, whatever was counted."""

import math
from collections import Counter

import numpy as np
import pytest

from pli_train.data import surprisal


def slow(train, block, vocabulary, order):
    """Witten and Bell (1991) in dictionaries."""
    total = 0.0
    for place in range(1, len(block)):
        p = 1 / vocabulary
        for length in range(1, min(place + 1, order) + 1):
            sequences = Counter(tuple(train[at : at + length]) for at in range(len(train) - length + 1))
            context, token = tuple(block[place - length + 1 : place]), block[place]
            here = {sequence: number for sequence, number in sequences.items() if sequence[:-1] == context}
            if here:
                p = (here.get((*context, token), 0) + len(here) * p) / (sum(here.values()) + len(here))
        total -= math.log(p)
    return total / (len(block) - 1)


@pytest.mark.parametrize(("vocabulary", "order"), [(12, 3), (1000, 2)])
def test_surprisal_equals_a_slow_reference(tmp_path, monkeypatch, vocabulary, order):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path))
    monkeypatch.setattr(surprisal, "ROWS", 2)
    chance = np.random.default_rng(0)
    train = chance.integers(0, 9, 300).astype(np.uint16)
    blocks = chance.integers(0, 12, (5, 8)).astype(np.uint16)  # some tokens were never seen
    found = surprisal.of_blocks(train, blocks, vocabulary, "corpus")
    expected = [slow(train.tolist(), block, vocabulary, order) for block in blocks.tolist()]
    assert found == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(surprisal, "NGrams", None)
    assert (surprisal.of_blocks(train, blocks, vocabulary, "corpus") == found).all(), "kept"


def test_of_a_long_text_segments_from_everywhere_are_counted(monkeypatch):
    monkeypatch.setattr(surprisal, "MOST", 64)
    monkeypatch.setattr(surprisal, "SEGMENT_TOKENS", 8)
    found = surprisal.spread(np.arange(1000))
    assert len(found) == 64 and found[0] == 0 and found[-1] == 999
    assert np.diff(found[::8]).max() < 150
    assert surprisal.spread(np.arange(64)).tolist() == list(range(64))
