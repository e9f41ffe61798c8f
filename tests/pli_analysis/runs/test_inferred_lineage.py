"""Lineage inferred from weights, against the true one of runs that wrote it down, and against slow references."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from pli_analysis import api
from pli_analysis.metrics import lineage as metric
from pli_analysis.report import overview
from pli_analysis.runs import inferred_lineage, layer_matching, weight_comparison
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.growth.operators.ffn import WidenFFN
from pli_train.growth.operators.heads import AddHeads
from pli_train.growth.operators.insert import Insert
from pli_train.models import build as models
from tests.drifting import Drifting
from tests.stripping import random_run, strip

FRESH = 2000
"""Seeds of runs that `matching`'s numbers were not chosen on: those were 3000 to 3599."""


# --- who is who, by distances ---------------------------------------------------------------------------------------


def by_hand(distance):
    """The best monotone alignment and each pair's share, all alignments gone through one by one."""
    few, many = distance.shape
    ways = list(itertools.combinations(range(many), few))
    weights = np.array(
        [np.prod([distance[i, j] ** (-1 / layer_matching.SCALE) for i, j in enumerate(w)]) for w in ways]
    )
    shares = np.zeros(distance.shape)
    for way, weight in zip(ways, weights / weights.sum(), strict=True):
        shares[range(few), way] += weight
    return ways[int(np.argmax(weights))], shares


@pytest.mark.parametrize("seed", range(30))
def test_the_alignment_is_the_one_that_going_through_all_of_them_finds(seed):
    generator = np.random.default_rng(seed)
    few = int(generator.integers(1, 5))
    distance = generator.uniform(0.1, 1.2, (few, few + int(generator.integers(0, 4))))
    chosen, shares = layer_matching.aligned(layer_matching.costs(distance))
    best, expected = by_hand(distance)
    assert tuple(chosen) == best
    np.testing.assert_allclose(shares, expected, rtol=1e-9, atol=1e-12)


def test_two_layers_equally_near_get_half_the_confidence_each_and_the_lower_one_the_name():
    found = layer_matching.match(np.array([[1.0, 0.01, 0.01, 1.0]]))
    assert found.locations == (None, 0, None, None)
    np.testing.assert_allclose(found.confidence, [1.0, 0.5, 0.5, 1.0], atol=0.01)


def test_who_goes_straight_on_is_the_one_that_was_there_however_near_the_other_lies():
    distance = np.array([[0.02, 0.025, 1.0], [1.0, 1.0, 0.02]])
    onward = np.array([[0.1, 0.5, -0.3], [-0.2, -0.2, 0.4]])
    assert layer_matching.match(distance).locations == (0, None, 1)
    found = layer_matching.match(distance, onward)
    assert found.locations == (None, 0, 1)
    assert found.confidence.min() > 0.99
    # Of a layer that is not near at all the way says nothing.
    far = layer_matching.match(np.array([[0.9, 0.02]]), np.array([[1.0, 0.0]]))
    assert far.locations == (None, 0)


def test_another_order_is_found_where_it_is_clearly_nearer():
    distance = np.ones((3, 4))
    distance[0, 3] = distance[1, 1] = distance[2, 0] = 0.05
    found = layer_matching.match(distance)
    assert found.locations == (2, 1, None, 0)
    assert found.confidence.min() > 0.99


@pytest.mark.parametrize("nearer, crossed", [(1.05, False), (2.0, True)])
def test_another_order_is_mixed_into_the_confidence_by_what_it_saves_and_its_price(nearer, crossed):
    """Two layers that are each `nearer` times as near to the other's place: both orders weighed by hand."""
    found = layer_matching.match(np.array([[0.02 * nearer, 0.02], [0.02, 0.02 * nearer]]))
    chance = 1 / (1 + np.exp(layer_matching.ORDER) * nearer ** (-2 / layer_matching.SCALE))
    each = 1 / (1 + nearer ** (-1 / layer_matching.SCALE))
    expected = chance * each if crossed else (1 - chance) + chance * (1 - each)
    assert found.locations == ((1, 0) if crossed else (0, 1))
    np.testing.assert_allclose(found.confidence, expected, rtol=1e-6)


def test_layers_that_are_gone_are_left_out():
    distance = np.ones((4, 2))
    distance[1, 0] = distance[3, 1] = 0.05
    assert layer_matching.match(distance).locations == (1, 3)


@pytest.mark.parametrize("depth", [6, 48])
def test_unrelated_models_are_matched_in_order_with_no_confidence(depth):
    rng = np.random.default_rng(0)
    found = layer_matching.match(
        layer_matching.relative_distances(rng.normal(size=(depth, 4000)), rng.normal(size=(depth, 4000)))
    )
    assert found.locations == tuple(range(depth))
    assert found.confidence.max() < 0.5


def test_distance_is_zero_of_equals_one_of_unrelated_and_the_same_both_ways():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(3, 20_000)), 5 * rng.normal(size=(4, 20_000))
    assert layer_matching.relative_distances(x, x).diagonal() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(layer_matching.relative_distances(x, y), 1, atol=0.05)
    np.testing.assert_array_equal(layer_matching.relative_distances(x, y), layer_matching.relative_distances(y, x).T)
    assert layer_matching.relative_distances(x * 0, y).tolist() == np.ones((3, 4)).tolist()
    assert layer_matching.relative_distances(x * np.nan, y).tolist() == np.ones((3, 4)).tolist()


# --- random grown runs ----------------------------------------------------------------------------------------------


def check(seeds, corpus, folder):
    """Judge what is inferred of random runs: a table with a row for each layer of each later checkpoint."""
    rows = []
    for seed in seeds:
        keep = random_run(seed, folder / f"{seed}", corpus)
        truth = strip(folder / f"{seed}", folder / f"stripped-{seed}", keep)
        opened = open_run(folder / f"stripped-{seed}")
        table = opened.confidence
        sure = table[~table["part"].str.contains(".", regex=False)].set_index(["checkpoint", "index"])
        pairs = zip(opened.checkpoints[1:], truth, truth[1:], strict=False)
        for checkpoint, before, after in pairs:
            assert len(checkpoint.lineage.stack) == len(after.stack)
            for index, id in enumerate(after.stack):
                message = sure.loc[(str(checkpoint.name), index)]
                true = before.stack.index(id) if id in before.stack else None
                mine = None if pd.isna(message["matched_index"]) else int(message["matched_index"])
                donor = after.layers[id].birth.donor if true is None else None
                rows.append((seed, before.stack != after.stack, true, mine, mine == true, message["confidence"]))
                rows[-1] += (donor, message["donor"])
    return pd.DataFrame(
        rows, columns=["seed", "grew", "true", "matched_index", "right", "confidence", "donor", "recorded"]
    )


def summary(table):
    """The figures to report."""
    grew, lines = table[table["grew"]], []
    old = grew[grew["true"].notna()]
    for name, rows in (
        ("layers at growth", grew),
        ("old ones of them", old),
        ("without growth", table[~table["grew"]]),
    ):
        lines.append(f"{name}: {rows['right'].sum()} of {len(rows)} right ({rows['right'].mean():.1%})")
    for low, high in ((0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 0.99), (0.99, 1.01)):
        rows = grew[(grew["confidence"] >= low) & (grew["confidence"] < high)]
        lines.append(f"  confidence {low} to {min(high, 1)}: {rows['right'].sum()} of {len(rows)} right")
    return "\n".join(lines)


def holds(table, share):
    grew = table[table["grew"]]
    print(summary(table))
    assert grew["right"].mean() >= share
    assert grew[grew["true"].notna()]["right"].mean() >= share
    assert table[~table["grew"]]["right"].all()
    assert table[table["confidence"] >= 0.9]["right"].all(), "a wrong match must not be confident"
    # Confidence is no modesty either: matches that are right mostly have a high one.
    assert (grew[grew["right"]]["confidence"] >= 0.9).mean() > 0.85


@pytest.mark.slow
def test_the_lineage_of_random_grown_runs_is_found_again(corpus, tmp_path):
    """Of so few runs one that grows between two checkpoints alone weighs much; there are fifty below."""
    holds(check(range(FRESH, FRESH + 4), corpus, tmp_path), 0.85)


@pytest.mark.slow
def test_the_lineage_of_fifty_random_grown_runs_is_found_again(corpus, tmp_path):
    """Of 200 runs (2000 to 2099, 5000 to 5099) 99.7 % of layers at growth were right, of each fifty at least 99.3 %."""
    holds(check(range(FRESH, FRESH + 50), corpus, tmp_path), 0.98)


# --- movement ---------------------------------------------------------------------------------------------------------


def push(run, index, direction, size=0.02):
    """Move one layer; the same direction again is straight on."""
    generator = torch.Generator().manual_seed(direction)
    with torch.no_grad():
        for parameter in models.stack_of(run.model, run.anatomy)[index].parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def copied(folder, position, moments):
    """A layer and its exact copy, which then move equally far, the old one straight on and the copy not; stripped.

    Args:
        position: where the copy sits, 0 or 1.
        moments: of checkpoints, in steps; the copy is made after the first, at step 5.
    """
    run = Drifting(folder / "run", "gpt2", n_layer=1)
    for step in (5, 10, 15):
        run.step = step
        if step == 10:
            event = Insert(at=step, index=position, initializer="clone")
            event.grow(run.model, run.anatomy, run.lineage, seed=0)
            event.record(run.lineage, step)
            push(run, position, direction=step)
        push(run, 0 if step < 10 else 1 - position, direction=1)
        if step > 10:
            push(run, position, direction=step)
        run.save()
    strip(run.folder, folder / "stripped", lambda name: name.step in moments)
    return open_run(folder / "stripped")


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("moments", [(0, 5, 10), (5, 10, 15), (0, 5, 10, 15)])
def test_a_checkpoint_before_or_after_separates_a_layer_from_a_copy_as_near(moments, position, tmp_path):
    found = copied(tmp_path, position, moments)
    (grown,) = [checkpoint for checkpoint in found.checkpoints if checkpoint.step == 10]
    assert grown.lineage.stack == [["b", "a"], ["a", "b"]][position]
    assert grown.lineage.layers["b"].birth.donor == "a"
    assert found.confidence["confidence"].min() > 0.99


def test_two_checkpoints_alone_cannot_separate_a_layer_from_a_copy_as_near(tmp_path):
    found = copied(tmp_path, 0, (5, 10))
    np.testing.assert_allclose(found.confidence["confidence"], 0.5, atol=0.2)


def test_a_layer_moves_straight_on_where_heads_were_added_meanwhile(tmp_path):
    run = Drifting(tmp_path, "qwen3")
    for step in (5, 10):
        run.move(0.02, steps=5, seed=1)
        if step == 10:
            AddHeads(at=step, to=6, initializer="random").grow(run.model, run.anatomy, run.lineage, seed=0)
            run.lineage.add_heads(dict.fromkeys(run.lineage.stack, 6), step, "random", {}, to=6)
        run.save()
    first, old, new = (weight_comparison.Weights.of(checkpoint) for checkpoint in open_run(tmp_path).checkpoints)
    ahead = weight_comparison.onward(old, new, weight_comparison.Neighbor(first, (0, 1)), None)
    after = weight_comparison.onward(first, old, None, weight_comparison.Neighbor(new, (0, 1)))
    for found in (ahead, after):
        np.testing.assert_allclose(found.diagonal(), 1, atol=1e-3)
        assert found[0, 1] < 0.5 and found[1, 0] < 0.5


# --- what becomes of it -----------------------------------------------------------------------------------------------


def grown(folder, family, *events, heads=None):
    """A run that drifts, grows by each event with a checkpoint right after it, and drifts again; stripped."""
    run = Drifting(folder / "run", family, heads=heads)
    for event in events:
        run.move(0.02, steps=5)
        run.grow(event)
        run.move(0.02, steps=5)
        run.save()
    truth = strip(run.folder, folder / "stripped", lambda name: name.after)
    return open_run(run.folder), open_run(folder / "stripped"), truth


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "opt", "modernbert"])
def test_metrics_of_an_inferred_lineage_are_those_of_the_written_one(family, tmp_path):
    """One layer is born, so ids agree; its birth weights are in a checkpoint, so measures must agree too."""
    written, found, truth = grown(tmp_path, family, Insert(at=1, index=1, initializer="clone-noise", noise=0.5))
    assert [c.lineage.stack for c in found.checkpoints] == [lineage.stack for lineage in truth]
    assert found.lineage.layers["c"].birth.donor == truth[-1].layers["c"].birth.donor
    assert found.confidence["confidence"].min() > 0.99
    mine, theirs = (api.drift(run, "all") for run in (found, written))
    theirs = theirs[~theirs["checkpoint"].str.endswith("before")].reset_index(drop=True)
    # Where a step has two checkpoints the way goes over both, or over one: the same way. Speed has no rates here.
    pd.testing.assert_frame_equal(mine, theirs)


def test_new_heads_and_units_are_read_from_the_config_and_old_heads_by_their_weights(tmp_path):
    events = (
        AddHeads(at=1, to=6, initializer="random"),
        WidenFFN(at=1, to=64, initializer="random"),
        Insert(at=1, index=0),
    )
    _, found, _ = grown(tmp_path, "qwen3", *events)
    shapes = [checkpoint.lineage.shapes() for checkpoint in found.checkpoints]
    assert shapes == [[(4, 48)] * 2] + [[(6, 48)] * 2] * 2 + [[(6, 64)] * 2] * 2 + [[(6, 64)] * 3] * 2
    assert [(e.operator, e.step) for e in found.lineage.events] == [("heads", 5), ("ffn", 15), ("insert", 25)]
    heads = found.confidence[found.confidence["part"].str.contains("h")]
    assert list(heads["part"]) == [f"{id}.h{n}" for id in "ab" for n in range(4)]
    assert heads["confidence"].min() > 0.99
    table = api.drift(found, "head")
    assert (table[table["part"].isin(["a.h4", "b.h5"])]["age"].min(), table["relative_l2"].max() > 0) == (0, True)


@pytest.mark.parametrize("sample", [2**15, 2**8])
def test_distances_are_those_of_what_was_there_when_heads_and_units_are_added(sample, monkeypatch, tmp_path):
    """Against what noise of a known size leaves of weights; with small and with large matrices."""
    monkeypatch.setattr(weight_comparison, "SAMPLE", sample)
    events = (AddHeads(at=1, to=6, initializer="random"), WidenFFN(at=1, to=64, initializer="random"))
    written, found, _ = grown(tmp_path, "qwen3", *events)
    table = found.confidence[~found.confidence["part"].str.contains(".", regex=False)]
    founders = load_file(written.checkpoints[0].path / run_folder.WEIGHTS)
    for index, id in enumerate("ab"):
        squares = [
            float((w.astype(float) ** 2).mean()) for n, w in founders.items() if f"layers.{index}." in n and w.ndim > 1
        ]
        expected = np.mean([0.02**2 / (2 * square + 0.02**2) for square in squares])
        first = table[(table["part"] == id) & (table["step"] == 5)]["distance"].item()
        assert first == pytest.approx(expected, rel=0.2)
        assert table[table["part"] == id]["distance"].max() < 2 * first


def rewritten(checkpoint, change):
    """Change the weights of a checkpoint: name → array in, the same out."""
    path = checkpoint / run_folder.WEIGHTS
    save_file(change(load_file(path)), path)


def reordered(order, stack="transformer.h"):
    """Layers put in another order: `order[new] = old`."""

    def change(weights):
        moved = {name: array for name, array in weights.items() if not name.startswith(f"{stack}.")}
        for new, old in enumerate(order):
            front = f"{stack}.{old}."
            moved |= {f"{stack}.{new}.{n.removeprefix(front)}": a for n, a in weights.items() if n.startswith(front)}
        return moved

    return change


def test_layers_that_were_swapped_without_a_record_are_detected(tmp_path):
    run = Drifting(tmp_path / "run", "gpt2", n_layer=5)
    for _ in range(3):
        run.move(0.02, steps=5)
        run.save()
    strip(run.folder, tmp_path / "stripped")
    last = tmp_path / "stripped" / "checkpoint-15"
    rewritten(last, reordered([0, 3, 2, 4, 1]))
    found = open_run(tmp_path / "stripped")
    assert [" ".join(c.lineage.stack) for c in found.checkpoints] == ["a b c d e"] * 3 + ["a d c e b"]
    assert {event.operator for event in found.lineage.events} == {"swap"}
    assert found.confidence["confidence"].min() > 0.99
    drift = api.drift(found)
    assert drift[drift["step"] == 15]["relative_l2"].max() < 0.5  # and not that of one layer from another


def test_layers_that_are_taken_out_are_gone_and_the_others_keep_their_names(tmp_path):
    run = Drifting(tmp_path / "run", "gpt2", n_layer=4)
    run.move(0.02, steps=5)
    run.save()
    strip(run.folder, tmp_path / "stripped")
    rewritten(tmp_path / "stripped" / "checkpoint-5", reordered([0, 2, 3]))
    found = open_run(tmp_path / "stripped")
    assert [" ".join(c.lineage.stack) for c in found.checkpoints] == ["a b c d", "a c d"]
    assert found.lineage.events[0].operator == "remove"
    assert len(api.drift(found)) == 7
    assert overview.made(found.lineage) == "1 removal produced the stack a c d"
    assert "changed from 4 to 3 layers" in overview.lead(found)
    assert "removed: b." in overview.lineage(found).headline
    assert metric.by_step(found.lineage)[5][0] == "−b"


def test_a_removal_and_an_insertion_are_counted_separately(tmp_path):
    run = Drifting(tmp_path / "run", "gpt2", n_layer=4)
    for _ in range(2):
        run.move(0.02, steps=5)
        run.save()
    strip(run.folder, tmp_path / "stripped")
    rewritten(tmp_path / "stripped" / "checkpoint-5", reordered([0, 2, 3]))
    rewritten(tmp_path / "stripped" / "checkpoint-10", reordered([0, 2, 3, 3]))
    found = open_run(tmp_path / "stripped")
    assert sorted(found.lineage.stack) == ["a", "c", "d", "e"] and found.lineage.layers["e"].birth.donor == "d"
    assert overview.event_counts(found.lineage) == "1 growth event and 1 removal"
    assert "changed from 4 to 4 layers" in overview.lead(found)


@pytest.mark.parametrize(
    "family, change, message",
    [
        ("bert", lambda config: config | {"model_type": "roberta"}, "model_type is 'roberta', but that of "),
        ("gpt2", lambda config: config | {"n_head": 8}, "another shape"),
        ("gpt2", lambda config: config | {"n_head": 2}, "fewer than"),
    ],
)
def test_checkpoints_that_are_not_of_one_model_are_refused_in_one_line(family, change, message, tmp_path):
    run = Drifting(tmp_path / "run", family)
    run.move(steps=5)
    run.save()
    strip(run.folder, tmp_path / "stripped")
    path = tmp_path / "stripped" / "checkpoint-5" / run_folder.CONFIG
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(BadInput) as refused:
        api.drift(open_run(tmp_path / "stripped"))
    assert "checkpoint-5" in str(refused.value) and "\n" not in str(refused.value)
    assert message in str(refused.value)


def test_a_large_matrix_is_compared_by_a_sample_that_is_the_same_everywhere():
    class Tensor:
        def __init__(self, array):
            self.array, self.read = array, 0

        def get_shape(self):
            return list(self.array.shape)

        def __getitem__(self, rows):
            self.read += self.array[rows].size
            return self.array[rows]

    large = Tensor(np.arange(4096 * 64, dtype=np.float32).reshape(4096, 64))
    first, second = weight_comparison.sampled(large), weight_comparison.sampled(large)
    assert first.size <= weight_comparison.SAMPLE and large.read == 2 * first.size
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) == first.size and first.max() > 0.99 * large.array.max()
    small = Tensor(large.array[:10])
    np.testing.assert_array_equal(weight_comparison.sampled(small), small.array)


def test_an_inferred_lineage_is_one_that_can_be_written_and_read(tmp_path):
    _, found, _ = grown(
        tmp_path, "gpt2", Insert(at=1, index=1, initializer="random"), Insert(at=1, index=0, initializer="random")
    )
    text = inferred_lineage.seen_from(found.lineage.as_of(9), 0).to_json()
    assert Lineage.from_json(text).stack == found.lineage.stack
