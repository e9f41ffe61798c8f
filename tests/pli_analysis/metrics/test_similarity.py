"""Likeness of representations against slow references, and what the command says of runs."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

from pli_analysis.figures import similarity as figures
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.metrics.similarity import cka
from pli_analysis.metrics.similarity.similarity import similarity
from pli_analysis.report import page
from pli_analysis.report import similarity as likeness
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.commands import call, refused
from tests.conftest import STEPS


@st.composite
def pairs(draw):
    """Two representations of the same samples, of different widths, somewhat alike."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batches, samples = draw(st.integers(1, 3)), draw(st.integers(4, 9))
    first = generator.normal(size=(batches, samples, draw(st.integers(1, 6))))
    second = generator.normal(size=(batches, samples, draw(st.integers(1, 6))))
    second[..., 0] += draw(st.floats(0, 3)) * first[..., 0]
    return first, second


def slow_hsic(x, y):
    """Song et al. 2012, equation 5, as written: a sum over matrices with zero diagonals."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    ones = np.ones(n)
    return (
        np.trace(k @ m)
        + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (ones @ k @ m @ ones)
    ) / (n * (n - 3))


def slower_hsic(x, y):
    """The same as the U-statistic that it is: a mean over all quadruples of different samples."""
    k, m = x @ x.T, y @ y.T
    n = len(x)
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in itertools.permutations(range(n), 4)]
    return np.mean(terms)


@settings(max_examples=50, deadline=None)
@given(pairs())
def test_cka_equals_the_sum_of_slow_estimates_over_batches(case):
    first, second = case
    across, mine, theirs = (
        sum(slow_hsic(a, b) for a, b in zip(*pair, strict=True))
        for pair in ((first, second), (first, first), (second, second))
    )
    if min(mine, theirs) < 1e-6:
        return
    found = cka.cka(cka.u_centered(first), cka.u_centered(second))
    assert found == pytest.approx(across / np.sqrt(mine * theirs), rel=1e-6, abs=1e-8)


@settings(max_examples=20, deadline=None)
@given(pairs())
def test_the_slow_estimate_is_the_mean_over_quadruples(case):
    first, second = (each[0][:6] for each in case)
    assert slow_hsic(first, second) == pytest.approx(slower_hsic(first, second), abs=1e-8)


def biased(x, y):
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


def test_independent_gaussians_are_alike_to_the_biased_measure_and_not_to_this_one():
    generator = np.random.default_rng(0)
    draws = [generator.normal(size=(2, 1, 128, 768)) for _ in range(10)]
    assert np.mean([biased(x[0], y[0]) for x, y in draws]) == pytest.approx(0.86, abs=0.01)
    found = [cka.cka(cka.u_centered(x), cka.u_centered(y)) for x, y in draws]
    assert np.mean(found) == pytest.approx(0, abs=0.02)
    assert min(found) < 0 < max(found)  # never clipped


@settings(max_examples=50, deadline=None)
@given(pairs(), st.sampled_from([0.01, 3.0, 700.0]), st.integers(0, 99))
def test_turning_and_stretching_change_nothing(case, scale, seed):
    first, second = case
    width = second.shape[-1]
    turn = ortho_group.rvs(width, random_state=seed) if width > 1 else -np.eye(1)
    turned = scale * second @ turn
    moved = turned + 5  # neighbors are by cosine, which sees where the origin is; the other two do not
    for prepare, measure, other in (
        (cka.u_centered, cka.cka, moved),
        (cka.unit, cka.procrustes, moved),
        (cka.neighbors, cka.overlap, turned),
    ):
        before, after = (measure(prepare(first), prepare(each)) for each in (second, other))
        assert after == pytest.approx(before, rel=1e-5, abs=1e-6, nan_ok=True)


def test_the_same_is_wholly_alike():
    x = np.random.default_rng(0).normal(size=(3, 20, 8))
    assert cka.cka(cka.u_centered(x), cka.u_centered(x)) == pytest.approx(1)
    assert cka.procrustes(cka.unit(x), cka.unit(x)) == pytest.approx(1)
    assert cka.overlap(cka.neighbors(x), cka.neighbors(x)) == 1


@settings(max_examples=50, deadline=None)
@given(pairs())
def test_procrustes_equals_what_scipy_makes_of_it(case):
    first, second = case
    width = max(first.shape[-1], second.shape[-1])
    x, y = (np.pad(cka.unit(each), ((0, 0), (0, width - each.shape[-1]))) for each in case)
    turn, _ = orthogonal_procrustes(x, y)
    distance = np.linalg.norm(x @ turn - y)
    norms = np.linalg.norm(x) ** 2 + np.linalg.norm(y) ** 2
    assert cka.procrustes(cka.unit(first), cka.unit(second)) == pytest.approx((norms - distance**2) / 2, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(pairs())
def test_neighbors_equal_those_of_scikit_learn(case):
    from sklearn.neighbors import NearestNeighbors

    first, second = case
    k = cka.neighbors_of(first.shape[1])
    shares = []
    for x, y in zip(first, second, strict=True):
        one, two = (NearestNeighbors(n_neighbors=k, metric="cosine").fit(each).kneighbors()[1] for each in (x, y))
        shares += [len(set(a) & set(b)) / k for a, b in zip(one, two, strict=True)]
    if min(first.shape[-1], second.shape[-1]) == 1:
        return  # in one dimension cosines are ±1, and which of equal neighbors comes first is nobody's business
    assert cka.overlap(cka.neighbors(first), cka.neighbors(second)) == pytest.approx(np.mean(shares))


def test_independent_layers_share_as_many_neighbors_as_chance_gives():
    generator = np.random.default_rng(0)
    first, second = (cka.neighbors(generator.normal(size=(40, 64, 16))) for _ in range(2))
    assert cka.overlap(first, second) == pytest.approx(10 / 63, abs=0.02)


def test_what_does_not_vary_has_no_cka():
    flat, other = np.ones((2, 6, 3)), np.random.default_rng(0).normal(size=(2, 6, 3))
    assert np.isnan(cka.cka(cka.u_centered(flat), cka.u_centered(other)))


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "some.py"
    path.write_text("".join(f"def f{n}(a, b{n}):\n    return a * {n * n} + b{n}  # and so on\n" for n in range(80)))
    return path


@pytest.fixture(scope="module")
def sister(config_of, tmp_path_factory):
    """A run of another seed and depth on the same corpus, its tokenizer therefore the same."""
    folder = tmp_path_factory.mktemp("runs") / "sister"
    launch.begin(config_of("gpt2", {"seed": 5, "growth.schedule": "2@1", "train.steps": 4}), folder).run()
    return folder


def test_every_pair_of_a_run_is_reported_once_and_a_layer_is_wholly_like_itself(runs, family, text):
    run = open_run(runs[family])
    table = similarity(run, None, text, blocks=12)
    depth = len(run.lineage.stack)
    assert len(table) == depth * (depth + 1) // 2
    same = table[table["layer_a"] == table["layer_b"]]
    assert np.allclose(same[["cka", "procrustes", "neighbors"]], 1)
    assert table[["procrustes", "neighbors"]].min(axis=None) >= 0
    assert table[["cka", "procrustes", "neighbors"]].max(axis=None) <= 1 + 1e-9
    assert (table["index_a"] <= table["index_b"]).all()
    assert set(table["step_a"]) == {STEPS}


def test_the_table_equals_a_slow_reference(runs, family, text):
    run = open_run(runs[family])
    table = similarity(run, None, text, blocks=8).set_index(["layer_a", "layer_b"])
    tokens, _ = eval_tokens.batch_of(run, text, 8)
    kept = eval_tokens.spread(tokens, 16 * 8)
    outputs = checkpoint_model.outputs_of(run.checkpoints[-1], "layers", tokens, kept)
    locations = sorted(set(np.nonzero(kept.numpy())[1]))
    assert len(locations) == 16
    x, y = (outputs[n].reshape(8, 16, -1).astype(np.float64) for n in (0, 2))
    sums = [
        sum(slow_hsic(a[:, position], b[:, position]) for position in range(16)) for a, b in ((x, y), (x, x), (y, y))
    ]
    stack = run.lineage.stack
    row = table.loc[(stack[0], stack[2])]
    assert row["cka"] == pytest.approx(sums[0] / np.sqrt(sums[1] * sums[2]), rel=1e-5)
    assert (row["sequences"], row["compared_tokens"]) == (8, 128)


def test_over_time_every_layer_begins_wholly_like_itself(runs, family, text):
    run = open_run(runs[family])
    table = similarity(run, None, text, blocks=8, over_time=True)
    first = table.drop_duplicates("layer_a").set_index("layer_a")
    assert first["step_a"].to_dict() == {"a": 0, "b": 3, "c": 6, "d": 6, "e": 9}
    assert np.allclose(first[["cka", "procrustes", "neighbors"]], 1)
    assert (table["layer_a"] == table["layer_b"]).all()
    assert (table[table["step_a"] > table["step_b"]]["cka"] < 1 - 1e-6).all()


def test_two_runs_are_compared_layer_by_layer_and_a_run_with_itself_is_the_same(runs, sister, text):
    run, other = open_run(runs["gpt2"]), open_run(sister)
    table = similarity(run, other, text, blocks=8)
    assert len(table) == len(run.lineage.stack) * len(other.lineage.stack)
    turned = similarity(other, run, text, blocks=8).set_index(["layer_b", "layer_a"])["cka"]
    assert table.set_index(["layer_a", "layer_b"])["cka"].to_dict() == pytest.approx(turned.to_dict())
    alone = similarity(run, None, text, blocks=8).set_index(["layer_a", "layer_b"])["cka"]
    both = similarity(run, run, text, blocks=8).set_index(["layer_a", "layer_b"])["cka"]
    assert both[alone.index].to_dict() == pytest.approx(alone.to_dict())


@pytest.mark.parametrize("measure", figures.NAMES)
def test_figures_draw_the_table(measure, runs, sister, text):
    run = open_run(runs["gpt2"])
    for other in (None, open_run(sister)):
        table = similarity(run, other, text, blocks=8)
        heat = figures.heat_map(table, measure).data[0]
        message = {(f"{row.layer_b} ", f"{row.layer_a} "): getattr(row, measure) for row in table.itertuples()}
        drawn = {(x, y): heat.z[j][i] for i, x in enumerate(heat.x) for j, y in enumerate(heat.y)}
        assert all(drawn[pair] == value for pair, value in message.items())
        assert [name.strip() for name in heat.y] == run.lineage.stack
    table = similarity(run, None, text, blocks=8, over_time=True)
    for curve in figures.curves(table, measure).data:
        assert list(curve.y) == table[table["layer_a"] == curve.name][measure].tolist()


def test_the_verdict_says_what_the_numbers_say(runs, text):
    table = similarity(open_run(runs["gpt2"]), None, text, blocks=8)
    different = table[table["layer_a"] != table["layer_b"]]
    most = different.loc[different["cka"].idxmax()]
    message = likeness.verdict(table, False)
    assert message.startswith(
        f"The most similar layers are {most['layer_a']} and {most['layer_b']}, with a CKA of {most['cka']:.2f}"
    )
    assert message in page.html(likeness.build(table, False))


def test_a_run_has_the_checkpoint_that_is_asked_for(runs, text):
    run = open_run(runs["gpt2"])
    assert set(similarity(run, None, text, 8, at=4)["checkpoint_a"]) == {"checkpoint-4"}
    with pytest.raises(BadInput, match="no checkpoint of step 5; the nearest is of step 4"):
        similarity(run, None, text, 8, at=5)


def test_texts_and_runs_that_do_not_fit_are_refused_in_one_line(runs, text, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("def one(a, b):\n    return a + b  # and so on\n" * 2)
    refused(
        call("pli-analyze", "similarity", runs["gpt2"], "--text", short),
        "and similarity needs at least 4; give a longer text",
    )
    refused(
        call("pli-analyze", "similarity", runs["gpt2"], runs["bert"], "--text", text), "its tokens differ from those of"
    )
    refused(call("pli-analyze", "similarity", runs["gpt2"], "--text", text, "--over-time", "--at", "3"), "no RUN2 and")
    refused(call("pli-analyze", "similarity", runs["gpt2"], runs["bert"]), "its tokens differ from those of")


def test_the_command_writes_table_and_page(runs, text, tmp_path):
    done = call("pli-analyze", "similarity", runs["bert"], "--text", text, "--html", tmp_path / "s.html", "-f", "csv")
    assert done.returncode == 0, done.stderr
    assert len(list(csv.DictReader(done.stdout.splitlines()))) == 15
    assert done.stderr.startswith("The most similar layers are ")
    assert (tmp_path / "s.html").stat().st_size > 1_500_000


def test_runs_with_other_tokenizers_are_refused_with_what_to_do(runs, text, tmp_path):
    own = json.loads((runs["gpt2"] / "tokenizer" / "tokenizer.json").read_text())
    own["normalizer"] = {"type": "Lowercase"}
    other = Path(shutil.copytree(runs["gpt2"], tmp_path / "other"))
    (other / "tokenizer" / "tokenizer.json").write_text(json.dumps(own))
    shouted = tmp_path / "shouted.txt"
    shouted.write_text(text.read_text().upper())
    one, two = open_run(runs["gpt2"]), open_run(other)
    with pytest.raises(BadInput) as error:
        similarity(one, two, shouted, blocks=8)
    assert str(error.value) == (
        f"{other}: its tokens differ from those of {one.path}: {two.tokenizer} and {one.tokenizer} tokenize the text "
        "differently; name one tokenizer for both with --tokenizer"
    )
    named = eval_tokens.Text(shouted, tokenizer=one.tokenizer)
    assert len(similarity(one, two, named, blocks=8))


def test_runs_with_blocks_of_other_lengths_are_reported_so(runs, text, tmp_path):
    other = Path(shutil.copytree(runs["gpt2"], tmp_path / "other"))
    record = json.loads((other / run_folder.RUN).read_text())
    record["config"]["train"]["block_size"] //= 2
    (other / run_folder.RUN).write_text(json.dumps(record))
    with pytest.raises(BadInput, match=r"its block length is 16, not 32; compare runs of one block length$"):
        similarity(open_run(runs["gpt2"]), open_run(other), text, blocks=8)
