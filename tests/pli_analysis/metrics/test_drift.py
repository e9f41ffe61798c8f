import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file

from pli_analysis.metrics.drift.displacement import Moments
from pli_analysis.metrics.drift.drift import LEVELS, drift
from pli_analysis.runs.opening import open_run
from pli_train.checkpointing import checkpoint
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.growth.operators.insert import Insert
from pli_train.models import build
from pli_train.optim import optimizer
from pli_train.optim.config import OptimConfig
from tests.conftest import STEPS

weights = arrays(np.float32, st.integers(1, 40), elements=st.floats(-100, 100, width=32)).filter(
    lambda a: abs(a).max() > 1e-3
)


def moments(now, birth):
    """Of one part."""
    a, b = now.astype(np.float64), birth.astype(np.float64)
    return Moments(*np.array([[a @ a], [b @ b], [(a - b) @ (a - b)], [0.0], [np.nan], [np.nan], [a.size]]))


@given(weights)
def test_nothing_moved_is_zero(birth):
    assert moments(birth, birth).relative_l2() == (0, False)
    assert moments(birth, birth).cosine_distance() == 0


@given(weights, st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_stretching_by_c_moves_by_c_minus_1_and_does_not_turn(birth, c):
    sums = moments(birth * np.float32(c), birth)
    assert sums.relative_l2()[0] == pytest.approx(abs(c - 1))
    assert sums.cosine_distance() == pytest.approx(0, abs=1e-12)


@given(weights)
def test_turning_round_is_a_cosine_of_two(birth):
    assert moments(-birth, birth).cosine_distance() == pytest.approx(2)


@given(weights)
def test_small_turns_keep_their_digits(birth):
    """The textbook formula in float64 loses a turn of 1e-9; 1 − cos is half its square, 5e-19."""
    other = np.roll(birth, 1).astype(np.float64) + 1
    birth = birth.astype(np.float64)
    other -= birth * (other @ birth) / (birth @ birth)
    if np.linalg.norm(other) < 1e-3 * np.linalg.norm(birth):
        return
    turned = birth + 1e-6 * other * np.linalg.norm(birth) / np.linalg.norm(other)
    assert moments(turned, birth).cosine_distance() == pytest.approx(5e-13, rel=1e-3)


def test_a_birth_at_zero_is_measured_absolutely():
    assert moments(np.array([3.0, 4.0]), np.zeros(2)).relative_l2() == (5, True)
    assert np.isnan(moments(np.ones(2), np.zeros(2)).cosine_distance())


def test_every_level_equals_a_slow_reference(runs, family):
    """Whole models loaded by transformers, layers found by counting through the lineage, parts cut by hand."""
    run = open_run(runs[family])
    tables = {of: drift(run, of).set_index(["checkpoint", "part"]) for of in LEVELS}
    born = {}
    for found in run.checkpoints:
        stack = build.stack_of(*build.load_checkpoint(found.path))
        for index, id in enumerate(found.lineage.stack):
            now = {name: p.detach().double().numpy() for name, p in stack[index].named_parameters()}
            birth = born.setdefault(id, now)
            expected = {f"layer {id}": (list(now.values()), list(birth.values()))}
            for part in ("h0", "h1", "ffn", "norms", "attention"):
                cut = CUTS[family]
                expected[f"{part} {id}.{part}"] = tuple(
                    [segment for name, array in side.items() for segment in cut(name, array, part)]
                    for side in (now, birth)
                )
            for key, (mine, theirs) in expected.items():
                level, part = key.split()
                row = tables["head" if level in ("h0", "h1") else level].loc[(str(found.name), part)]
                a, b = (np.concatenate([segment.ravel() for segment in side]) for side in (mine, theirs))
                norm = np.linalg.norm(b)
                assert bool(row["is_absolute"]) == (norm == 0)
                assert row["relative_l2"] == pytest.approx(np.linalg.norm(a - b) / (norm or 1), rel=1e-9, abs=1e-12)
                assert row["index"] == index
                if norm:
                    assert row["cosine_distance"] == pytest.approx(1 - a @ b / np.linalg.norm(a) / norm, abs=1e-9)


def _cut_bert(name, array, part):
    half = slice(0, 16) if part == "h0" else slice(16, 32)
    if part in ("h0", "h1"):
        if "attention.self" in name:
            return [array[half]]
        return [array[:, half]] if name == "attention.output.dense.weight" else []
    belongs = {
        "attention": name == "attention.output.dense.bias",
        "norms": "LayerNorm" in name,
        "ffn": name.startswith(("intermediate", "output.dense")),
    }
    return [array] if belongs[part] else []


def _cut_gpt2(name, array, part):
    half = slice(0, 16) if part == "h0" else slice(16, 32)
    if part in ("h0", "h1"):
        if name.startswith("attn.c_attn"):
            return [third[..., half] for third in np.split(array, 3, axis=-1)]
        return [array[half]] if name == "attn.c_proj.weight" else []
    belongs = {"attention": name == "attn.c_proj.bias", "norms": name.startswith("ln_"), "ffn": name.startswith("mlp")}
    return [array] if belongs[part] else []


CUTS = {"bert": _cut_bert, "gpt2": _cut_gpt2}


def test_squares_over_all_parts_sum_to_the_layers(runs, family):
    run = open_run(runs[family])
    norms = _norms_of_births(run)
    whole = drift(run).query("step == @STEPS").set_index("part")
    squares = dict.fromkeys(whole.index, 0.0)
    for of in LEVELS[1:]:
        for row in drift(run, of).query("step == @STEPS").itertuples():
            squares[row.layer] += (row.relative_l2 * (1 if row.is_absolute else norms[row.part])) ** 2
    for id, square in squares.items():
        assert square == pytest.approx((whole.loc[id, "relative_l2"] * norms[id]) ** 2, rel=1e-9)


def _norms_of_births(run):
    norms = {}
    for found in run.checkpoints:
        for id in found.lineage.stack:
            if id in norms:
                continue
            squares = {}
            for name, array in found.layer(id):
                squares[id] = squares.get(id, 0) + np.square(array, dtype=np.float64).sum()
                for part, values in found.anatomy.split(name, array, found.anatomy.sizes(found.config)):
                    key = f"{id}.{part}"
                    squares[key] = squares.get(key, 0) + np.square(values, dtype=np.float64).sum()
            norms |= {key: square**0.5 for key, square in squares.items()}
    return norms


def test_an_insertion_at_the_bottom_moves_nobodys_drift(run_folder_of, family):
    """Clone with zero noise at index 0 of a trained stack, no step taken: all indices move and no drift does."""
    source = run_folder_of / f"checkpoint-{STEPS}"
    restored = checkpoint.read(source)
    before = drift(open_run(run_folder_of)).query("step == @STEPS").set_index("part")
    lineage = copy.deepcopy(restored.lineage)
    insert = Insert(at=STEPS, index=0, initializer="clone-noise", noise=0.0)
    insert.grow(restored.model, restored.anatomy, lineage, seed=0)
    insert.record(lineage, step=STEPS)
    newborn = lineage.stack[0]
    source.rename(run_folder_of / f"checkpoint-{STEPS}-before")
    name = run_folder.CheckpointName(STEPS)
    adam = optimizer.build(restored.model, OptimConfig())
    checkpoint.write(run_folder_of, name, restored.model, restored.anatomy, adam, lineage, restored.trainer_state)
    after = drift(open_run(run_folder_of)).query("checkpoint == @name.__str__()").set_index("part")
    assert list(after.index) == [newborn, *before.index]
    assert after.loc[newborn, ["relative_l2", "cosine_distance", "age"]].tolist() == [0, 0, 0]
    older = after.drop(newborn)
    assert (older["index"] == before["index"] + 1).all()
    for column in ("relative_l2", "cosine_distance", "age", "is_absolute"):
        assert older[column].equals(before[column])
    assert (before["relative_l2"] > 0).all()


def test_age_counts_from_birth_and_newborns_start_at_zero(runs, family):
    table = drift(open_run(runs[family]))
    first = table.drop_duplicates("part", keep="first").set_index("part")
    assert (first[["age", "relative_l2", "cosine_distance"]] == 0).all(axis=None)
    assert first["step"].to_dict() == {"a": 0, "b": 3, "c": 6, "d": 6, "e": 9}
    assert (table["step"] - table["age"] == table["part"].map(first["step"])).all()


def test_sharded_weights_read_the_same(runs, family, run_folder_of):
    expected = drift(open_run(runs[family]))
    for _, path in run_folder.checkpoints(run_folder_of):
        _shard(path)
    assert drift(open_run(run_folder_of)).equals(expected)


def _shard(folder):
    tensors = load_file(folder / run_folder.WEIGHTS)
    (folder / run_folder.WEIGHTS).unlink()
    names = sorted(tensors)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / run_folder.WEIGHTS_INDEX).write_text(json.dumps(index))
    _remanifest(folder)


def _remanifest(folder):
    paths = [path for path in folder.iterdir() if path.name != run_folder.MANIFEST]
    manifest = {"files": {path.name: {"bytes": path.stat().st_size} for path in paths}}
    (folder / run_folder.MANIFEST).write_text(json.dumps(manifest))


def test_half_precision_weights_are_read_exactly(run_folder_of, family):
    """bfloat16 has no numpy type of its own; its values are float32 values all the same."""
    exact = {}
    for name, path in run_folder.checkpoints(run_folder_of):
        tensors = {key: tensor.bfloat16() for key, tensor in load_file(path / run_folder.WEIGHTS).items()}
        exact[str(name)] = {key: tensor.float().numpy() for key, tensor in tensors.items()}
        save_file(tensors, path / run_folder.WEIGHTS)
        _remanifest(path)
    run = open_run(run_folder_of)
    for found in run.checkpoints:
        for id in found.lineage.stack:
            for inner, array in found.layer(id):
                full = found.names_of_layers[id][inner]
                assert np.array_equal(array.astype(np.float64), exact[str(found.name)][full])
    assert (drift(run)["relative_l2"] >= 0).all()


def test_birth_weights_that_are_gone_are_named(run_folder_of):
    (run_folder_of / "checkpoint-6" / run_folder.MANIFEST).unlink()
    with pytest.raises(BadInput, match="birth weights of layer d are missing: they are of step 6"):
        drift(open_run(run_folder_of))


def test_a_weight_map_that_points_outside_is_refused(run_folder_of):
    _shard(run_folder_of / "checkpoint-0")
    index = run_folder_of / "checkpoint-0" / run_folder.WEIGHTS_INDEX
    for outside in ("../checkpoint-2/model.safetensors", "/etc/passwd", 7):
        index.write_text(json.dumps({"weight_map": {"x": outside}}))
        _remanifest(index.parent)
        run = open_run(run_folder_of)
        assert "not a file of this folder" in run.damaged[0] and run.checkpoints[0].step > 0
        with pytest.raises(BadInput, match="birth weights of layer a are missing"):
            drift(run)


def test_another_level_is_refused_by_name(runs):
    with pytest.raises(BadInput, match="use one of layer, head, ffn, norms, attention"):
        drift(open_run(runs["bert"]), "toe")
