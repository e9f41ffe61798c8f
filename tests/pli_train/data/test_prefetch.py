"""Batches made in the background are those made now, in any order of asking."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pli_train.data.blocks import Blocks
from pli_train.data.objective import Objective
from pli_train.data.prefetch import BatchPrefetcher, cut

TOKENS = np.arange(16 * 50, dtype=np.uint16) % 300


@pytest.fixture
def batches():
    made = BatchPrefetcher(Blocks(TOKENS, 16, seed=3), Objective("causal-lm", None, 0.15), size=4, seed=3)
    yield made
    made.close()


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("inputs", "labels", "locations"))


@given(asked=st.lists(st.tuples(st.integers(0, 40), st.sampled_from([4, 8, 16])), min_size=1, max_size=8))
def test_a_batch_is_a_function_of_step_and_context(asked):
    made = BatchPrefetcher(Blocks(TOKENS, 16, seed=3), Objective("causal-lm", None, 0.15), size=4, seed=3)
    for step, context in asked:
        batch = made.at(step, context)
        assert same(batch, made.make(step, context))
        assert batch.inputs.shape == (4 * 16 // context, context)
    made.close()


def test_the_next_batch_is_made_while_this_one_trains(batches, monkeypatch):
    made, done = [], threading.Event()
    make = batches.make

    def noted(step, context):
        made.append((step, threading.current_thread() is threading.main_thread()))
        batch = make(step, context)
        if step == 1:
            done.set()
        return batch

    monkeypatch.setattr(batches, "make", noted)
    batches.at(0, 16)
    assert done.wait(10)
    batches.at(1, 16)
    batches.close()
    assert made[:2] == [(0, True), (1, False)] and (1, True) not in made


def test_what_goes_wrong_in_the_background_is_raised_where_the_batch_is_asked_for(batches, monkeypatch):
    def broken(step, context):
        raise OSError("gone")

    batches.at(0, 16)
    monkeypatch.setattr(batches, "make", broken)
    batches.at(1, 16)
    with pytest.raises(OSError, match="gone"):
        batches.at(2, 16)


def test_images_are_not_cut():
    rows = np.zeros(3, dtype=[("pixels", "f4", (1, 2, 2)), ("label", "i8")])
    assert cut(rows, 8) is rows
