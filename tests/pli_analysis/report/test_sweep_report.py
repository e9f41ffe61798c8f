"""What the command and the page of a study say: of searches that were confirmed, pruned or damaged."""

import json
import shutil

import numpy as np
import pytest

from pli_analysis.metrics.sweep.results import results
from pli_analysis.report import page
from pli_analysis.report import sweep as report
from pli_train.core.run_format import study_folder
from tests.commands import call, refused
from tests.sweeping import write_study


def words(folder):
    return "\n".join(report.words(results(folder)))


def figures(folder):
    return {figure.id: figure for section in report.build(results(folder)).sections for figure in section.figures}


def trial(value, **more):
    return {"value": value, "params": {"optim.lr": more.pop("lr", value)}, **more}


# --- sentences ------------------------------------------------------------------------------------------------------


def test_the_headline_of_a_confirmed_study_is_of_confirmation_trials_alone(searched):
    found, lines = results(searched), words(searched)
    again = found.confirmation
    assert f"growth − baseline: {again.difference.value:+.4f} (95 % interval {again.difference.low:+.4f} to" in lines
    assert "paired t, n = 3 seeds)" in lines and "mean over n = 3" in lines
    assert "biased" not in lines


def test_a_study_without_confirmation_is_reported_as_biased(tmp_path):
    rows = [trial(2.0), trial(1.5), {**trial(1.8), "arm": "baseline"}]
    lines = words(write_study(tmp_path / "study", rows))
    assert "in the search: growth 1.5000, baseline 1.8000." in lines
    assert (
        "biased downwards, because the trial was selected by it" in lines
        and "pli-train sweep with --confirm K gives an unbiased" in lines
    )


@pytest.mark.parametrize(
    ("of_growth", "reading"),
    [
        ((1.0, 1.15, 1.2), "; growth has the lower loss."),
        ((3.0, 3.15, 3.2), "; baseline has the lower loss."),
        ((1.9, 2.3, 2.1), "; the interval contains 0, so no difference is established."),
        ((2.0, 2.1, 2.2), "(no interval: 3 pairs that do not differ)."),
        ((2.0,), "(no interval: one pair of runs)."),
    ],
)
def test_a_difference_is_read_from_its_interval(tmp_path, of_growth, reading):
    rows = [trial(1.0), {**trial(2.0), "arm": "baseline"}]
    for seed, (mine, base) in enumerate(zip(of_growth, (2.0, 2.1, 2.2), strict=False)):
        for arm, value in (("growth", mine), ("baseline", base)):
            rows.append({"arm": "confirm", "of_arm": arm, "of_trial": 0, "seed": seed + 1, "value": value})
    assert reading in words(write_study(tmp_path / "study", rows))


def test_the_best_strategies_are_described_with_their_values(tmp_path):
    rows = [
        {"value": 2.0, "params": {"growth.initializer": "random", "optim.lr": 0.01}},
        {"value": 1.5, "params": {"growth.initializer": "clone", "optim.lr": 0.003}},
        {"arm": "baseline", "value": 1.7, "params": {"optim.lr": 0.004}, "changes": {"model.initial_layers": 3}},
    ]
    lines = words(write_study(tmp_path / "study", rows))
    assert (
        "Best growth strategy: growth-0001 (value 1.5000, the lowest of 2 trials) inserts 2 layers in the middle in "
        "2 events from 25 % to 50 % of training; initializer clone; learning rate 0.003.\n"
        "Best baseline: baseline-0000 (value 1.7000, the lowest of 1 trial) has 3 layers from the start; learning rate "
        "0.004."
    ) in lines


def test_pruned_trials_are_described_with_step_share_and_losses(pruned):
    found, lines = results(pruned), words(pruned)
    assert len(found.prunings) == 2
    for each in found.prunings:
        when = f"was pruned at step {each.trial.pruned_at}: its loss at {100 * each.share:.0f} % of its budget was"
        others = f"rank {each.rank} of the 3 trials that have reached it by now"
        assert f"{each.trial.name} {when} {each.loss:.3f}, {others}." in lines
    assert "3 trials (3 growth): 1 complete, 2 pruned." in lines
    assert "The study has no baseline (--no-baseline)." in lines


def test_a_pruned_trial_whose_run_is_gone_keeps_its_step_and_loss(pruned, tmp_path):
    folder = shutil.copytree(pruned, tmp_path / "study", ignore=shutil.ignore_patterns("runs"))
    assert results(folder).prunings[0].loss == results(pruned).prunings[0].loss
    assert "without 2 trials whose run is missing" in words(folder)


def test_a_pruned_trial_of_an_older_study_has_its_step_alone(tmp_path):
    lines = words(write_study(tmp_path / "study", [{"value": 1.0}, {"state": "pruned", "pruned_at": 4}]))
    assert "growth-0001 was pruned at step 4." in lines


def test_failed_trials_are_listed_with_their_errors_and_many_are_counted(tmp_path):
    rows = [{"state": "fail", "error": f"the loss is nan at step {number}"} for number in range(8)]
    lines = words(write_study(tmp_path / "study", rows))
    assert "growth-0004 failed: the loss is nan at step 4." in lines and "step 5" not in lines
    assert "3 more failed trials in the table." in lines
    assert "No trial is complete, so there is no result." in lines


def test_short_times_are_not_zero_and_running_trials_have_no_end(tmp_path):
    times = {"started": "2030-01-01T00:00:00", "finished": "2030-01-01T00:01:01"}
    rows = [
        {"value": 1.0, "flops": 1e9, "seconds": 0.31, **times},
        {"state": "running", "started": times["started"]},
        {"arm": "baseline", "value": 1.0, "flops": 1e9, "seconds": 12.4, **times},
        {"arm": "confirm", "state": "running", "flops": 1e9, "seconds": 1.24, "started": times["started"]},
    ]
    lines = words(write_study(tmp_path / "study", rows))
    assert "growth 1.00e9 FLOPs, 0.31 s of training, 61 s from start to end of the 1 trial that ended, without" in lines
    assert "baseline 1.00e9 FLOPs, 12 s of training, 61 s from start to end of its trials; " in lines
    assert "confirmation 1.00e9 FLOPs, 1.2 s of training." in lines


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_of_a_search_has_all_figures_with_captions(searched):
    found = figures(searched)
    assert list(found) == ["losses", "history", "parallel", "slices", "importance"]
    for figure in found.values():
        assert len(figure.table) and figure.drawing.data
        assert any(word in figure.caption for word in ("Search trials, one seed each", "Confirmation trials: 3 runs"))
    assert "8 complete growth trials" in found["slices"].caption and "8 complete" in found["importance"].caption


def test_two_renders_of_a_study_are_the_same_bytes(searched):
    assert page.html(report.build(results(searched))) == page.html(report.build(results(searched)))


def test_curves_are_means_over_the_confirmation_seeds(searched):
    found = figures(searched)["losses"]
    table = found.table[~found.table["is_event"]]
    assert {name: rows["run"].nunique() for name, rows in table.groupby("group")} == {"growth": 3, "baseline": 3}
    assert set(table["run"]) == {f"confirm-000{number}" for number in range(6)}
    for arm in ("growth", "baseline"):
        (mean,) = [trace for trace in found.drawing.data if trace.name == f"{arm}, mean"]
        rows = table[table["group"] == arm].groupby("flops")["loss"].mean()
        assert list(mean.x) == pytest.approx(rows.index.tolist()) and list(mean.y) == pytest.approx(rows.tolist())


def test_slices_are_at_the_values_of_the_trials(searched):
    figure = figures(searched)["slices"]
    rows = [row for row in study_folder.trials(searched) if row["arm"] == "growth"]
    axes = {figure.drawing.layout[f"xaxis{n or ''}"].title.text: n for n in ("", 2, 3, 4)}
    assert set(axes) == {"growth.initializer", "growth.noise", "schedule.position", "schedule.first"}
    for name, number in axes.items():
        (trace,) = [trace for trace in figure.drawing.data if trace.xaxis == f"x{number}"]
        mine = [row for row in rows if name in row["params"]]
        assert list(trace.y) == [row["value"] for row in mine]
        if name == "growth.noise":
            assert list(trace.x) == pytest.approx([np.log10(row["params"][name]) for row in mine])
        elif name == "schedule.first":
            assert list(trace.x) == pytest.approx([row["params"][name] for row in mine])
        else:
            ticks = figure.drawing.layout[f"xaxis{number}"].ticktext
            assert [ticks[round(x)] for x in trace.x] == [row["params"][name] for row in mine]


def test_parallel_coordinates_lead_each_trial_to_its_value(searched):
    figure = figures(searched)["parallel"]
    values = figure.table["value"].sort_values(ascending=False).to_numpy()
    ends = []
    for trace in figure.drawing.data[:3]:
        x, y = list(trace.x), list(trace.y)
        ends += [x[at] for at in range(len(x)) if y[at] == 0]
        assert x.count(None) == len(x) // 6  # five axes and a gap per trial
    assert ends == pytest.approx((values - values.min()) / np.ptp(values), abs=1e-4)


def test_nothing_that_a_study_says_becomes_markup(tmp_path):
    hostile = "<script>alert(1)</script>"
    parameters = {"x": {"choices": [hostile, "b"]}, hostile: {"low": 0, "high": 9}}
    rows = [{"value": n + 1.0, "params": {"x": hostile if n % 2 else "b", hostile: n}} for n in range(9)]
    rows.append({"state": "fail", "error": hostile})
    folder = write_study(tmp_path / "study", rows, parameters)
    document = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**document, "name": hostile, "command": [hostile]}))
    assert hostile not in page.html(report.build(results(folder)))


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        ("2026-11-30T16:11:05.168314+00:00", "2026-11-30 16:11 UTC"),
        ("2026-11-30T16:11:05+02:00", "2026-11-30 14:11 UTC"),
        ("yesterday", "yesterday"),
    ],
)
def test_a_page_has_the_time_of_its_study_and_no_backticks(tmp_path, created, shown):
    folder = write_study(tmp_path / "study", [trial(2.0), trial(1.5)])
    document = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**document, "created": created}))
    made = report.build(results(folder))
    assert ("Created", shown) in made.sections[0].facts
    html = page.html(made)
    for sentence in (*report.words(results(folder)), *(text for _, text in report.METHOD + report.IMPORTANCE_METHOD)):
        assert "`" not in sentence
    assert "pli-train sweep with --confirm K gives an unbiased one" in html


def test_a_page_without_runs_says_which_curves_are_missing(searched_copy):
    shutil.rmtree(searched_copy / "runs")
    found = figures(searched_copy)
    assert list(found) == ["history", "parallel", "slices", "importance"]
    lines = [line for section in report.build(results(searched_copy)).sections for line in section.words]
    assert any(line.startswith("Without confirm-0000, confirm-0002") for line in lines)


@pytest.mark.parametrize("rows", [[{"state": "fail", "error": "nan"}] * 2, [{"state": "running"}], [{"value": 1.0}]])
def test_a_study_with_few_or_no_results_has_a_page(tmp_path, rows):
    assert "<h1>Study study</h1>" in page.html(report.build(results(write_study(tmp_path / "study", rows))))


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_trials_arms_or_importance(searched, tmp_path):
    done = call("pli-analyze", "sweep", searched, "-f", "json")
    assert done.returncode == 0 and done.stderr == words(searched) + "\n"
    rows = json.loads(done.stdout)
    assert [row["value"] for row in rows] == [row["value"] for row in study_folder.trials(searched)]
    arms = json.loads(call("pli-analyze", "sweep", searched, "--arms", "-f", "json").stdout)
    assert [row["trials"] for row in arms] == [8, 8, 6]
    done = call("pli-analyze", "sweep", searched, "--importance", "-o", tmp_path / "i.csv", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "i.csv").read_text().startswith("parameter,importance\n")


def test_the_page_is_written_into_the_study_or_where_it_is_wanted(searched_copy, tmp_path):
    done = call("pli-analyze", "sweep", searched_copy, "--html", "-o", tmp_path / "t.parquet")
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == str(searched_copy / "report.html")
    assert "Study study" in (searched_copy / "report.html").read_text()
    done = call("pli-analyze", "sweep", searched_copy, "--html", tmp_path / "other.html", "-f", "md")
    assert done.returncode == 0 and (tmp_path / "other.html").exists()
    assert done.stdout.startswith("| arm ")


def test_bad_input_gets_one_line(searched_copy, tmp_path):
    sweep = ("pli-analyze", "sweep")
    assert len(refused(call(*sweep, tmp_path / "none"), "none: no such folder")) == 1
    assert len(refused(call(*sweep, searched_copy / "runs" / "growth-0000"), "not a study folder")) == 1
    (tmp_path / "lag").mkdir()
    (tmp_path / "lag/lag.json").write_text("{}")
    line = f"lag: a comparison of `pli-train lag`: its results are in {tmp_path}/lag/candidates.csv, and its run is"
    assert len(refused(call(*sweep, tmp_path / "lag"), line)) == 1
    assert len(refused(call(*sweep, write_study(tmp_path / "new", [])), "has no trials yet")) == 1
    refused(call(*sweep, searched_copy, "--arms", "--importance"), "--importance and --arms: cannot be combined")
    refused(call(*sweep, searched_copy, "-o", searched_copy / "trials.json"), "is part of what is read")
    refused(call(*sweep, searched_copy, "--html", "x.txt", "-o", "x.txt"), "is also the file of -o")
    (searched_copy / "trials.json").write_text('{"format": "pli-trials", "version": 1, "trials": [')
    assert len(refused(call(*sweep, searched_copy), "trials.json: not readable as JSON")) == 1
