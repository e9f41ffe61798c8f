"""Surprisal under bigrams equals a slow reference, whatever was counted."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from pli_train.data import surprisal


def slow(train, block, vocabulary):
    """Witten and Bell (1991) in dictionaries."""
    single, pairs = Counter(train), Counter(pairwise(train))
    total = 0.0
    for before, token in pairwise(block):
        p = (single[token] + 1) / (len(train) + vocabulary)
        seen = sum(number for (first, _), number in pairs.items() if first == before)
        followers = sum(first == before for first, _ in pairs)
        if seen:
            p = (pairs[before, token] + followers * p) / (seen + followers)
        total -= math.log(p)
    return total / (len(block) - 1)


def test_surprisal_equals_a_slow_reference(tmp_path, monkeypatch):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path))
    monkeypatch.setattr(surprisal, "ROWS", 2)
    chance = np.random.default_rng(0)
    train = chance.integers(0, 9, 300).astype(np.uint16)
    blocks = chance.integers(0, 12, (5, 8)).astype(np.uint16)  # some tokens were never seen
    found = surprisal.of_blocks(train, blocks, 12, "corpus")
    expected = [slow(train.tolist(), block, 12) for block in blocks.tolist()]
    assert found == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(surprisal, "Bigrams", None)
    assert (surprisal.of_blocks(train, blocks, 12, "corpus") == found).all(), "kept"


def test_of_a_long_text_segments_from_everywhere_are_counted(monkeypatch):
    monkeypatch.setattr(surprisal, "MOST", 64)
    monkeypatch.setattr(surprisal, "SEGMENT_TOKENS", 8)
    found = surprisal.spread(np.arange(1000))
    assert len(found) == 64 and found[0] == 0 and found[-1] == 999
    assert np.diff(found[::8]).max() < 150
    assert surprisal.spread(np.arange(64)).tolist() == list(range(64))
