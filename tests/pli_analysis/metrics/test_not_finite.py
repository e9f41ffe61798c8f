"""Weights with numbers that are not finite: such parts are named and left out, and all others are as without them."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pli_analysis import api
from pli_analysis.metrics.disturbance import disturbance
from pli_analysis.metrics.drift import drift as drift_metric
from pli_analysis.metrics.grad_norms import recomputed
from pli_analysis.metrics.maps import embedding
from pli_analysis.metrics.maps.gram import gram, squared_distances
from pli_analysis.metrics.similarity import similarity
from pli_analysis.report import content, page
from pli_analysis.report import similarity as similarity_report
from pli_analysis.runs.opening import open_run
from pli_train.core.run_format import run_folder
from tests import families
from tests.odd import STEPS, changed, saved, spoilt
from tests.trainers import tokenizer

DOWN, NORM, QUERY = (
    f"model.layers.1.{name}.weight" for name in ("mlp.down_proj", "input_layernorm", "self_attn.q_proj")
)
LISTED = "weights that are not finite are left out: b.mlp.down_proj.weight at checkpoint-2"
MEASURES = ["relative_l2", "cosine_distance", "rms_change", "path_length"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Five checkpoints of a Llama that reads letters. Not to be written to."""
    folder = saved(tmp_path_factory.mktemp("plain") / "out", steps=(1, 2, 3, 4, 5), vocab_size=len(tokenizer()))
    for checkpoint in folder.iterdir():
        tokenizer().save_pretrained(checkpoint)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the stack grows, and who was there keeps its name. " * 80)
    return path


@pytest.fixture(params=[float("nan"), float("inf")], ids=["nan", "inf"])
def odd(request, plain, tmp_path):
    """One number of layer b is not finite at checkpoint 2."""
    return changed(plain, tmp_path / "odd", spoilt(DOWN, request.param), only=(2,))


@pytest.mark.filterwarnings("error")
def test_drift_of_everything_else_is_that_of_sound_weights(odd, plain):
    sound, found = (api.drift(open_run(folder), "all", gauge=True, spectral=True) for folder in (plain, odd))
    assert list(found["part"]) == list(sound["part"]) and list(found["step"]) == list(sound["step"])
    of_it = found["part"].isin(["b", "b.ffn", "b.mlp.down_proj.weight"])
    there = of_it & (found["step"] == 2)
    assert there.sum() == 3 and found.loc[
        there, [*MEASURES, "relative_update_rate", "relative_spectral_norm"]
    ].isna().all(axis=None)
    assert not found.loc[there, "is_absolute"].any()
    # Which way it took past that checkpoint is not known either; all else is.
    known = [name for name in found.columns if name not in ("path_length", "path_efficiency", "relative_update_rate")]
    pd.testing.assert_frame_equal(found.loc[~there, known], sound.loc[~there, known])
    pd.testing.assert_frame_equal(found[~of_it], sound[~of_it])
    assert found.loc[of_it & (found["step"] >= 2), "path_length"].isna().all()
    assert drift_metric.unknown(open_run(odd)) == [LISTED] and drift_metric.unknown(open_run(plain)) == []


def test_a_birth_that_is_not_finite_leaves_no_distance_from_it(plain, tmp_path):
    run = open_run(changed(plain, tmp_path / "odd", spoilt(QUERY), only=(1,)))
    table = api.drift(run, "all", gauge=True).set_index("part")
    assert table.loc[["b", "b.h0"], "relative_l2"].isna().all() and table.loc["b.h0", "qk_distance"].isna().all()
    assert table.loc[["a", "b.ffn", "b.h1", "b.norms"], "relative_l2"].notna().all()
    assert table.loc["b.h1", ["qk_distance", "ov_distance"]].notna().all(axis=None)


def by_hand(points, folder):
    """Distances between layers at checkpoints, of all their weights in a row."""
    vectors = []
    for part, step in points:
        state = load_file(folder / f"checkpoint-{step}" / run_folder.WEIGHTS)
        names = sorted(name for name in state if name.startswith(f"model.layers.{'ab'.index(part)}."))
        vectors.append(torch.cat([state[name].double().flatten() for name in names]))
    return torch.cdist(torch.stack(vectors), torch.stack(vectors)).numpy()


@pytest.mark.filterwarnings("error")
def test_a_map_has_every_other_point_where_distances_put_it(odd, plain):
    found = embedding.embed(open_run(odd))
    drawn = found.table[found.table["walk"] == "run"]
    points = list(zip(drawn["part"], drawn["step"], strict=True))
    assert len(points) == 9 and ("b", 2) not in points
    assert found.notes == ["points that are not finite are left out: b at checkpoint-2"]
    distances = by_hand(points, plain)
    values = found.components.values
    mine = np.linalg.norm(values[:, None] - values[None], axis=2)
    np.testing.assert_allclose(mine, distances, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("space", ["updates", "function"])
def test_other_spaces_leave_out_points_derived_from_it(space, odd, text):
    found = embedding.embed(open_run(odd), space=space, text=text if space == "function" else None)
    drawn = found.table[found.table["walk"] == "run"]
    kept = [step for part, step in zip(drawn["part"], drawn["step"], strict=True) if part == "b"]
    assert kept == {"updates": [4, 5], "function": [1, 3, 4, 5]}[space]
    assert np.isfinite(drawn[["x", "y"]].to_numpy()).all() and len(found.notes) == 1


def test_paths_since_a_birth_that_is_not_known_are_not_drawn(plain, tmp_path):
    run = open_run(changed(plain, tmp_path / "odd", spoilt(DOWN), only=(1,)))
    assert set(embedding.embed(run, since_birth=True).table["part"]) == {"a"}
    assert set(embedding.embed(run).table["part"]) == {"a", "b"}


def test_distances_past_vectors_that_are_not_finite_are_exact():
    random = np.random.default_rng(0)
    sources = [None, 0, 1, None, 3, 2, 5, 1]
    vectors = random.normal(size=(8, 60))
    for number, source in enumerate(sources):
        vectors[number] = vectors[number] if source is None else vectors[source] + 1e-6 * vectors[number]
    odd = vectors.copy()
    odd[1, 7], odd[3, 30], odd[5, 59] = np.nan, np.inf, 1e300

    class Columns:
        count, width = odd.shape

        def blocks(self):
            return (odd[:, start : start + 20].copy() for start in range(0, 60, 20))

    with np.errstate(all="ignore"):
        found = gram(Columns(), sources)
    assert found.finite.tolist() == [True, False, True, False, True, False, False, True]
    kept = np.flatnonzero(found.finite)
    mine = squared_distances(found.steps, sources)[np.ix_(kept, kept)]
    true = np.square(vectors[kept, None] - vectors[None, kept]).sum(axis=2)
    np.testing.assert_allclose(mine, true, rtol=1e-6)


def test_too_few_points_are_one_line(plain, tmp_path):
    run = open_run(changed(plain, tmp_path / "odd", lambda t: {n: each * np.nan for n, each in t.items()}, only=(2, 4)))
    with pytest.raises(
        embedding.BadInput, match=r"a map needs at least two finite points \(points that are not finite"
    ):
        embedding.embed(run, space="updates")


def test_likeness_is_empty_where_outputs_are_not_finite(odd, plain, text):
    over = similarity.similarity(open_run(odd), None, text, over_time=True)
    sound = similarity.similarity(open_run(plain), None, text, over_time=True)
    there = (over["layer_a"] == "b") & (over["step_a"] == 2)
    assert over.loc[there, ["cka", "procrustes", "neighbors"]].isna().all(axis=None)
    columns = ["layer_a", "step_a", "cka", "procrustes", "neighbors"]
    pd.testing.assert_frame_equal(over.loc[~there, columns], sound.loc[~there, columns])
    assert similarity.unknown(over) == ["outputs that are not finite are left out: b at checkpoint-2"]
    assert similarity.unknown(sound) == []
    between = similarity.similarity(open_run(odd), None, text, at=2)
    assert between["cka"].notna().tolist() == [True, False, False]
    assert similarity.unknown(between) == similarity.unknown(over)
    for table, whether in ((over, True), (between, False)):
        message = similarity_report.verdict(table, whether)
        assert "nan" not in message and message
        assert "nan" not in similarity_report.build(table, whether).sections[0].figures[0].caption


def test_the_first_state_alone_is_blamed_where_it_is_the_one(plain, text, tmp_path):
    run = open_run(changed(plain, tmp_path / "odd", spoilt(DOWN), only=(1,)))
    table = similarity.similarity(run, None, text, over_time=True)
    assert table.loc[table["layer_a"] == "b", "cka"].isna().all()
    assert similarity.unknown(table) == ["outputs that are not finite are left out: b at checkpoint-1"]
    two = similarity.similarity(open_run(run.checkpoints[0].path), open_run(plain), text)
    assert similarity.unknown(two) == ["outputs that are not finite are left out: b at checkpoint-1"]


def test_gradients_are_empty_where_they_are_not_finite(odd, plain, text):
    found, sound = (recomputed.recomputed(open_run(folder), text) for folder in (odd, plain))
    there = found["step"] == 2
    assert found.loc[there, "grad_norm"].isna().all()
    pd.testing.assert_frame_equal(found[~there], sound[~there])
    assert recomputed.unknown(found) == ["gradients that are not finite are left out: at checkpoint-2"]
    assert recomputed.unknown(sound) == []


def test_disturbance_reports_weights_that_make_no_loss(plain, text, tmp_path):
    """Layer b gets a copy above it at step 3; the state right after is not finite."""
    folder = Path(shutil.copytree(plain, tmp_path / "grown"))
    (folder / "checkpoint-3").rename(folder / "checkpoint-3-before")
    for step in (3, 4, 5):
        model = AutoModelForCausalLM.from_pretrained(
            folder / ("checkpoint-3-before" if step == 3 else f"checkpoint-{step}")
        )
        model.model.layers.append(copy.deepcopy(model.model.layers[1]))
        model.config.num_hidden_layers = 3
        model.save_pretrained(folder / f"checkpoint-{step}")
    tokenizer().save_pretrained(folder / "checkpoint-3")
    sound = disturbance.disturbance(open_run(folder), text=text, blocks=4)
    assert sound.events["loss_change"].notna().all() and not any("finite" in note for note in sound.notes)
    found = disturbance.disturbance(
        open_run(changed(folder, tmp_path / "odd", spoilt(DOWN), only=(3,))), text=text, blocks=4
    )
    assert found.events["loss_change"].isna().tolist() == [True]
    assert any(
        note.endswith("the loss of the weights right before or after step 3 is not finite") for note in found.notes
    )


@pytest.mark.parametrize("where", [(2,), (5,), (1,), (1, 2, 3, 4, 5)])
def test_a_report_draws_the_rest_and_says_what_it_leaves_out(where, plain, tmp_path):
    run = open_run(changed(plain, tmp_path / "odd", spoilt(DOWN), only=where))
    message = content.build(run)
    words = " ".join(word for section in message.sections for word in (*section.words, section.headline or ""))
    assert "Weights that are not finite are left out: b.mlp.down_proj.weight at checkpoint-" in words
    captions = [figure.caption for section in message.sections for figure in section.figures]
    assert not any(" nan" in caption.lower() for caption in (words, *captions))
    page.write(message, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_all_weights_lost_at_one_checkpoint_end_nothing(plain, tmp_path):
    run = open_run(changed(plain, tmp_path / "odd", lambda t: {n: each * np.nan for n, each in t.items()}, only=(2,)))
    assert str(run.lineage) == "a b"
    table = api.drift(run)
    assert table["relative_l2"].isna().tolist() == [False, False, True, True, *[False] * 6]
    assert content.build(run)


def test_the_fixtures_are_what_they_seem(plain):
    """Whoever reads these tests: the stack has two layers, and the model is finite."""
    assert families.LAYERS == 2 and set(STEPS) < set(range(1, 6))
    assert all(
        torch.isfinite(tensor).all() for tensor in load_file(plain / "checkpoint-5" / run_folder.WEIGHTS).values()
    )
