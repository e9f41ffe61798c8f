"""Inserted against matched layers: contrasts against slow loops, statistics against enumeration, false positives."""

import itertools
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from transformers import AutoModelForCausalLM

import pli_analysis
from pli_analysis.metrics.comparison.group_difference import holm, max_t
from pli_analysis.metrics.explain import contrasts as of_run
from pli_analysis.metrics.explain import explain, measures
from pli_analysis.report import explain as report
from pli_analysis.report import page
from pli_analysis.runs.opening import open_run
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName
from pli_train.training import launch
from tests.commands import call, refused
from tests.run_files import vouch

BLOCKS = 4
STEPS = 8
GROWN = {"train.steps": STEPS, "train.grad_norms_every": 1, "train.eval_every": STEPS, "checkpoint.every": 2}
AT = {"model.initial_layers": 2, "growth.schedule": [{"at": 4, "index": 1}], "growth.initializer": "clone"}
NEVER = {"model.initial_layers": 3, "growth.schedule": ""}


@pytest.fixture(scope="module")
def seeds(config_of, once):
    """Runs that grew from 2 to 3 layers, and runs of 3 layers: (grown, scratch), three seeds each."""

    def make(folder):
        for name, how in (("grown", AT), ("scratch", NEVER)):
            for seed in range(3):
                config = config_of("gpt2", {**GROWN, **how, "seed": seed})
                launch.begin(config, folder / f"{name}-{seed}").run()

    folder = once("explained", make)
    return tuple([open_run([folder / f"{name}-{seed}"]) for seed in range(3)] for name in ("grown", "scratch"))


@pytest.fixture(scope="module")
def table(seeds):
    return explain.contrasts(*seeds, blocks=BLOCKS)


def row(table, measure, reference, seed=0):
    mine = table[(table["measure"] == measure) & (table["reference"] == reference) & (table["seed"] == seed)]
    assert len(mine) == 1
    return mine.iloc[0]


def skip_of(run, index, step=None):
    measured = pli_analysis.ablation(run, blocks=BLOCKS, at=step)
    [change] = measured[(measured["ablation"] == "skip") & (measured["index"] == index)]["loss_change"]
    return change


def test_each_reference_is_what_a_slow_script_finds(seeds, table):
    (grown, *_), (scratch, *_) = seeds
    new, below, above = (skip_of(grown, index) for index in (1, 0, 2))
    there, *beside = (skip_of(scratch, index) for index in (1, 0, 2))
    then = [skip_of(grown, index, step=CheckpointName(4, after=False)) for index in (0, 1)]  # before the layer came
    assert row(table, "skip", "depth")[["inserted", "matched"]].tolist() == pytest.approx([new, (below + above) / 2])
    assert row(table, "skip", "scratch")["matched"] == pytest.approx(there)
    corrected = (below + above) / 2 + there - sum(beside) / 2
    assert row(table, "skip", "depth-scratch")["matched"] == pytest.approx(corrected)
    assert row(table, "skip", "age")[["inserted", "matched"]].tolist() == pytest.approx([new, np.mean(then)])


def test_the_age_is_that_of_the_inserted_layers_at_the_end(config_of, tmp_path):
    launch.begin(config_of("bert", {**GROWN, **AT, "growth.schedule": [{"at": 6, "index": 1}]}), tmp_path / "run").run()
    run = open_run([tmp_path / "run"])  # the new layer is 2 steps old at the end, as the others were at step 2
    found = row(explain.contrasts([run], blocks=BLOCKS), "skip", "age")
    assert found["inserted"] == pytest.approx(skip_of(run, 1))
    assert found["matched"] == pytest.approx(np.mean([skip_of(run, index, step=2) for index in (0, 1)]))


def test_a_checkpoint_soon_after_an_event_does_not_stand_for_an_age(seeds, tmp_path):
    (run, *_), _ = seeds
    assert of_run.checkpoints_when_young(run) == {4: CheckpointName(4, after=False)}
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4-before")
    assert of_run.checkpoints_when_young(open_run([tmp_path / "run"])) == {}


def test_gradients_are_logged_norms_over_the_root_of_the_number_of_parameters(seeds, table):
    (run, *_), _ = seeds
    model = AutoModelForCausalLM.from_pretrained(run.checkpoints[-1].path)
    count = sum(parameter.numel() for parameter in model.transformer.h[1].parameters())

    def rms(layer, steps):
        logged = run.scalars.of(f"grad_norm/layer/{layer}")
        norms = dict(zip(logged.steps.tolist(), logged.values.tolist(), strict=True))
        return np.mean([math.log(norms[step] / math.sqrt(count)) for step in steps])

    stack = run.lineage.stack
    found = row(table, "log_grad_rms", "age")
    assert found["inserted"] == pytest.approx(rms(stack[1], range(5, 9)))
    assert found["matched"] == pytest.approx(np.mean([rms(id, range(1, 5)) for id in (stack[0], stack[2])]))
    last = row(table, "log_grad_rms", "depth")
    assert last["inserted"] == pytest.approx(rms(stack[1], [8]))
    assert last["matched"] == pytest.approx(np.mean([rms(id, [8]) for id in (stack[0], stack[2])]))
    assert row(table, "log_grad_rms", "scratch")["inserted"] == last["inserted"]


def test_heads_and_depths_are_those_of_the_other_commands(seeds, table):
    run = seeds[0][1]
    ablated, lens = pli_analysis.ablation(run, blocks=BLOCKS), pli_analysis.lens(run, blocks=BLOCKS)
    of_heads = ablated[(ablated["part_type"] == "head") & (ablated["index"] == 1)]
    assert row(table, "head", "depth", 1)["inserted"] == pytest.approx(of_heads["loss_change"].mean())
    assert row(table, "head_importance", "depth", 1)["inserted"] == pytest.approx(of_heads["head_importance"].mean())
    [decided] = lens[(lens["lens"] == "logit") & (lens["index"] == 1)]["decided"]
    assert row(table, "decided", "depth", 1)["inserted"] == pytest.approx(decided)
    added = pli_analysis.attribution(run, blocks=BLOCKS)
    [share] = added[(added["part_type"] == "layer") & (added["index"] == 1).fillna(False)]["share"]
    assert row(table, "logit_share", "depth", 1)["inserted"] == pytest.approx(share)
    probes = pli_analysis.probe(run, blocks=BLOCKS)
    gains = probes[(probes["index"] == 1).fillna(False)]["gain"]
    assert row(table, "probe_gain", "depth", 1)["inserted"] == pytest.approx(gains.mean())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_layer_that_is_the_identity_is_not_used(family, config_of, tmp_path):
    """Inserted before the last step; the learning rate is nearly 0."""
    wanted = {
        **GROWN,
        **AT,
        "growth.schedule": [{"at": STEPS - 1, "index": 1, "initializer": "identity"}],
        "optim.lr": 1e-9,
    }
    launch.begin(config_of(family, wanted), tmp_path / "run").run()
    found = explain.contrasts([open_run([tmp_path / "run"])], blocks=BLOCKS)
    for measure in ("skip", "ffn", "head", "block_influence", "logit_share"):
        assert row(found, measure, "depth")["inserted"] == pytest.approx(0, abs=1e-5), measure
    assert row(found, "skip", "depth")["matched"] != pytest.approx(0, abs=1e-6)


def test_a_planted_layer_that_matters_is_found(seeds, tmp_path):
    """The inserted layer's output projections are large and random in all runs: its output hides its input."""
    planted = []
    for number, run in enumerate(seeds[0]):
        folder = tmp_path / f"run-{number}"
        shutil.copytree(run.path, folder)
        checkpoint = folder / run.checkpoints[-1].path.name
        weights = load_file(checkpoint / run_folder.WEIGHTS)
        for name in weights:
            if name.startswith("transformer.h.1.") and ("attn.c_proj" in name or "mlp.c_proj" in name):
                weights[name] = 1e3 * torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(number))
        save_file(weights, checkpoint / run_folder.WEIGHTS, {"format": "pt"})
        vouch(checkpoint / run_folder.WEIGHTS)
        planted.append(open_run([folder]))
    found = explain.summary(explain.contrasts(planted, blocks=BLOCKS))
    skip = found[(found["measure"] == "block_influence") & (found["reference"] == "depth")].iloc[0]
    assert skip["inserted"] > 0.8 and skip["difference"] > 0.1
    assert skip["cliffs_delta"] == 1 == skip["cliffs_delta_high"]


@pytest.mark.parametrize(
    ("values", "inserted", "expected"),
    [
        ([5, 1, 2, 9], [True, False, False, True], [1, 2]),
        ([1, 0, 0, 4], [False, True, True, False], [2, 3]),
        ([1, np.nan, 7, 3], [False, False, True, False], [2 + 1 / 3]),
    ],
)
def test_neighbors_are_interpolated_and_continued(values, inserted, expected):
    assert of_run.beside(np.array(values, float), np.array(inserted)).tolist() == pytest.approx(expected)


def made(inserted, matched, measure="skip", reference="depth"):
    """A table of contrasts."""
    rows = [
        (f"run-{seed}", seed, measure, reference, one, other, one - other)
        for seed, (one, other) in enumerate(zip(inserted, matched, strict=True))
    ]
    return pd.DataFrame(rows, columns=explain.CONTRASTS)


def test_statistics_are_those_of_an_enumeration():
    chance = np.random.default_rng(0)
    inserted, matched = chance.normal(size=7), chance.normal(0.8, size=7)
    [found] = explain.summary(made(inserted, matched)).itertuples()
    changes = inserted - matched
    means = [abs(np.mean(signs * changes)) for signs in itertools.product((-1, 1), repeat=7)]
    assert found.p == pytest.approx(np.mean(np.array(means) >= abs(changes.mean()) - 1e-12))
    assert found.min_p == 2 / 2**7 and found.p_adjusted == pytest.approx(found.p)  # one test: nothing to adjust for
    interval = stats.ttest_1samp(changes, 0).confidence_interval()
    assert (found.difference_low, found.difference_high) == pytest.approx(tuple(interval))
    greater = sum(a > b for a, b in zip(inserted, matched, strict=True))
    assert found.cliffs_delta == pytest.approx((2 * greater - 7) / 7)
    low, high = stats.beta.ppf([0.025, 0.975], [greater, greater + 1], [8 - greater, 7 - greater])
    assert (found.cliffs_delta_low, found.cliffs_delta_high) == pytest.approx((2 * low - 1, 2 * high - 1))


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [-0.8, 0, 0.8])
@pytest.mark.parametrize("runs", [3, 6, 10])
def test_the_interval_of_cliffs_delta_covers(runs, correlation):
    chance, covered = np.random.default_rng(1), []
    covariance = [[1, correlation], [correlation, 1]]
    true = 2 * stats.norm.cdf(0.7 / math.sqrt(2 - 2 * correlation)) - 1
    for _ in range(300):
        first, second = chance.multivariate_normal([0.7, 0], covariance, size=runs).T
        low, high = explain.cliffs_delta(first, second)[1:]
        covered.append(low <= true <= high)
    assert np.mean(covered) >= 0.93


def test_holm_is_that_of_the_definition():
    p = np.array([0.01, 0.3, math.nan, 0.02, 0.02])
    expected = [0.04, 0.3, math.nan, 0.06, 0.06]
    assert np.allclose(holm(p), expected, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.009, 0.02])
def test_equivalence_is_stated_for_differences_within_the_margin_only(shift):
    chance = np.random.default_rng(2)
    found = [
        explain.summary(made(shift + chance.normal(0, 0.004, size=8), np.zeros(8)))["p_equivalence"].iloc[0] < 0.05
        for _ in range(100)
    ]
    margin = measures.SKIP.margin
    assert (np.mean(found) > 0.9) if shift == 0 else (np.mean(found) < 0.3 if shift < margin else not any(found))


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "low", "high"), [(5, 0, 0), (6, 0.01, 0.06), (8, 0.02, 0.08), (10, 0.02, 0.09)])
def test_the_primary_test_rejects_as_often_as_it_says_when_there_is_no_difference(runs, low, high):
    """Differences of a heavy-tailed distribution around 0; with five runs, p cannot be below 0.05."""
    chance = np.random.default_rng(runs)
    rejected = []
    for _ in range(300):
        table = made(stats.t.rvs(3, size=runs, random_state=chance), np.zeros(runs), *explain.PRIMARY)
        rejected.append(explain.summary(table)["p"].iloc[0] < 0.05)
    assert low <= np.mean(rejected) <= high


def test_adjusted_p_is_the_share_of_signs_with_a_larger_t_in_any_test():
    differences = np.random.default_rng(5).normal(0.5, size=(6, 4))
    differences[2, 1] = math.nan

    def sizes(signs):
        columns = [(signs * column)[np.isfinite(column)] for column in differences.T]
        return [abs(stats.ttest_1samp(column, 0).statistic) for column in columns]

    observed = sizes(np.ones(6))
    largest = [max(sizes(np.array(signs))) for signs in itertools.product((-1, 1), repeat=6)]
    expected = [np.mean([most >= own - 1e-9 for most in largest]) for own in observed]
    assert max_t(differences).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("runs", [6, 8, 14])
def test_the_family_of_the_other_tests_is_controlled(runs):
    """Thirty correlated tests of heavy-tailed differences around 0."""
    chance, rejected = np.random.default_rng(runs), []
    for _ in range(400 if runs < 10 else 100):
        common = chance.standard_t(3, size=(runs, 1))
        rejected.append((max_t(common + chance.standard_t(3, size=(runs, 30))) < 0.05).any())
    assert 0.01 <= np.mean(rejected) <= 0.09


def test_the_primary_test_is_not_adjusted(table):
    found = explain.summary(table)
    is_primary = (found["measure"] == explain.PRIMARY[0]) & (found["reference"] == explain.PRIMARY[1])
    assert is_primary.sum() == 1
    assert (found[is_primary]["p_adjusted"] == found[is_primary]["p"]).all()
    assert (found[~is_primary]["p_adjusted"] >= found[~is_primary]["p"]).all()


def test_words_and_page(table, tmp_path):
    tests = explain.summary(table)
    words = report.verdict(tests)
    assert (
        "n = 3 runs" in words and "With 3 runs the smallest possible p is 0.25, so no test can be significant" in words
    )
    alone = table[table["seed"] == 0]
    assert report.verdict(explain.summary(alone)).endswith("One run: these are descriptions, not tests.")
    page.write(report.build(table, tests), tmp_path / "page.html")
    assert "Inserted layers" in (tmp_path / "page.html").read_text()


def test_words_name_what_is_significant_after_adjustment():
    chance = np.random.default_rng(4)
    same = made(chance.normal(size=12), chance.normal(size=12), "ffn", "depth")
    words = report.verdict(explain.summary(pd.concat([made(5 + chance.normal(size=12), np.zeros(12)), same])))
    assert "1 of 2 other differences are significant" in words and "loss change without the layer" in words
    assert "There is no primary test" in words


def test_without_a_tokenizer_there_are_no_probes(seeds, tmp_path):
    shutil.copytree(seeds[0][0].path, tmp_path / "run")
    run = open_run([tmp_path / "run"])
    shutil.rmtree(run.tokenizer)
    found = explain.contrasts([run], blocks=2)
    assert "probe_gain" not in set(found["measure"]) and "logit_share" in set(found["measure"])


def test_words_name_three_differences_at_most():
    names = [("skip", "age"), ("skip", "depth"), ("ffn", "age"), ("ffn", "depth"), ("head", "age")]
    tables = [made(5 + np.arange(8) / 10, np.zeros(8), *which) for which in names]
    words = report.verdict(explain.summary(pd.concat(tables)))
    assert (
        "5 of 5 other differences are significant" in words and words.count(" against ") == 3 and "and 2 more" in words
    )


def test_the_command_prints_what_the_function_returns(seeds, table, tmp_path):
    (one, *_), (scratch, *_) = seeds
    wanted = [one.path, "--scratch", scratch.path, "--blocks", BLOCKS, "--runs", "-o", tmp_path / "t.csv"]
    done = call("pli-analyze", "explain", *wanted)
    assert done.returncode == 0 and "One run: these are descriptions" in done.stderr
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), table[table["seed"] == 0], check_dtype=False)


def test_the_age_of_pretrained_layers_is_not_known(seeds, config_of, tmp_path):
    _, (scratch, *_) = seeds
    wanted = {"model": {"name_or_path": str(scratch.path), "weights": "pretrained"}, **GROWN}
    config = config_of("gpt2", wanted | {"growth.schedule": [{"at": 4, "index": 1}]})
    launch.begin(config, tmp_path / "run").run()
    found = explain.contrasts([open_run([tmp_path / "run"])], blocks=BLOCKS)
    assert set(found["reference"]) == {"depth"}
    assert report.verdict(explain.summary(found)).startswith("There is no primary test")


def test_adjusted_p_is_never_below_p():
    chance = np.random.default_rng(6)
    tables = [made(chance.normal(size=6), np.zeros(6), *which) for which in (("skip", "depth"), ("ffn", "depth"))]
    found = explain.summary(pd.concat(tables))
    assert (found["p_adjusted"] >= found["p"] - 1e-12).all() and (found["p_adjusted"] >= found["min_p"]).all()


def test_a_primary_test_known_in_fewer_runs_says_so():
    table = pd.concat([made([1.0], [0.0], *explain.PRIMARY), made([1.0, 2.0], [0.0, 0.0])])
    assert "(known in 1 of 2 runs)" in report.verdict(explain.summary(table))


def test_runs_of_one_name_stay_two_runs(seeds, tmp_path):
    (one, two, _), _ = seeds
    for number, run in enumerate((one, two)):
        shutil.copytree(run.path, tmp_path / str(number) / "same")
    same = [open_run([tmp_path / str(number) / "same"]) for number in range(2)]
    found = explain.summary(explain.contrasts(same, blocks=BLOCKS))
    assert set(found["runs"]) == {2} and found["p_adjusted"].notna().all()


def test_what_cannot_be_compared_is_one_clear_line(seeds, config_of, tmp_path):
    (one, two, _), (scratch, *_) = seeds
    explained = ("pli-analyze", "explain")
    refused(call(*explained, scratch.path), "no growth event inserted a layer; explain needs inserted layers")
    refused(call(*explained, one.path, one.path), "has the same seed as")
    refused(call(*explained, two.path, "--scratch", scratch.path), "no run of --scratch has its seed (1)")
    (tmp_path / "empty").mkdir()
    refused(call(*explained, tmp_path / "empty"), "holds no run with checkpoints")
    launch.begin(config_of("gpt2", {**GROWN, **NEVER, "model.initial_layers": 2}), tmp_path / "two").run()
    refused(call(*explained, one.path, "--scratch", tmp_path / "two"), "has 2 layers at its end")
    refused(call(*explained, one.path, "--scratch", one.path), "--scratch is for runs that did not grow")
    refused(call(*explained, one.path, "-o", one.path / run_folder.LINEAGE), "is part of what is read")
