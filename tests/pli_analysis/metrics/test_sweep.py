"""The results of a study: against values computed in another way from its files, and from planted effects."""

import json
import math
import shutil
from itertools import product

import numpy as np
import optuna
import pytest
from scipy import stats

from pli_analysis import columns as col
from pli_analysis import sweep
from pli_analysis.metrics.sweep import run_logs, trials
from pli_analysis.metrics.sweep.importance import importance
from pli_analysis.metrics.sweep.strategy import describe
from pli_analysis.scalars import reading
from pli_train.core.errors import BadInput
from pli_train.core.run_format import study_folder
from tests.sweeping import write_study
from tests.thinned import thinned


def importances(folder):
    found = importance(trials.read(folder))
    return dict(found.table.itertuples(index=False)), found


# --- the table of a real study --------------------------------------------------------------------------------------


def test_the_table_has_what_the_study_folder_has(searched):
    rows, table = study_folder.trials(searched), sweep(searched).table
    assert len(table) == len(rows) == 22
    for row, (_, of) in zip(rows, table.iterrows(), strict=True):
        for name in ("arm", "number", "state", "value", "loss", "steps", "flops", "seconds", "seed"):
            assert of[name] == row[name]
        for name, value in row["params"].items():
            assert of[name] == (value if isinstance(value, int | float) else str(value))
        assert set(table.columns) & set(row["params"]) == set(row["params"])
    assert table["of_trial"].notna().sum() == 6 and "error" not in table and "pruned_at" not in table


def test_the_best_and_the_cost_of_each_arm_are_those_of_its_trials(searched):
    rows, arms = study_folder.trials(searched), sweep(searched).arms.set_index("arm")
    assert list(arms.index) == ["growth", "baseline", "confirm"]
    for arm in arms.index:
        mine = [row for row in rows if row["arm"] == arm]
        assert arms["flops"][arm] == sum(row["flops"] for row in mine)
        assert arms["seconds"][arm] == pytest.approx(sum(row["seconds"] for row in mine))
        assert arms["complete"][arm] == arms["trials"][arm] == len(mine)
        if arm != "confirm":
            best = min(mine, key=lambda row: row["value"])
            assert (arms["best_trial"][arm], arms["best_value"][arm]) == (best["number"], best["value"])
    assert np.isnan(arms["best_value"]["confirm"]) and (arms["uncounted"] == 0).all()


def test_the_difference_is_that_of_confirmation_trials_alone(searched):
    rows, found = study_folder.trials(searched), sweep(searched).confirmation
    of = {arm: {row["seed"]: row["value"] for row in rows if row["of_arm"] == arm} for arm in ("growth", "baseline")}
    assert found.seeds == sorted(of["growth"]) == sorted(of["baseline"]) and len(found.seeds) == 3
    growth, baseline = (np.array([of[arm][seed] for seed in found.seeds]) for arm in of)
    expected = stats.ttest_rel(growth, baseline).confidence_interval()
    assert found.difference == pytest.approx(((growth - baseline).mean(), expected.low, expected.high))
    for arm, values in (("growth", growth), ("baseline", baseline)):
        low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
        assert found.of(arm).mean == pytest.approx((values.mean(), low, high))


def test_importance_is_what_optuna_finds_in_the_study_itself(searched):
    """Without logarithms it is Optuna's own number: the study in memory is that of the journal."""
    study = trials.read(searched)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(searched / study_folder.JOURNAL))
    )
    name = study_folder.study_name(study.document["id"], "growth")
    theirs = optuna.load_study(study_name=name, storage=storage)
    ours, found = importances(searched)
    names = sorted(ours)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    expected = evaluator.evaluate(theirs, params=names)
    assert set(names) == {"growth.initializer", "schedule.first", "schedule.position"}
    assert ours == pytest.approx(expected)
    assert found.omitted.keys() == {"growth.noise"} and "of 8 trials" in found.omitted["growth.noise"]


def test_removed_runs_leave_what_the_table_knows(searched_copy):
    before = sweep(searched_copy)
    shutil.rmtree(searched_copy / "runs")
    after = sweep(searched_copy)
    assert after.table.equals(before.table) and after.arms.equals(before.arms)
    assert after.confirmation.difference == before.confirmation.difference


# --- importance of planted effects ----------------------------------------------------------------------------------


def planted(folder, value, count=120, log=False):
    """A study of random trials over x, y in [0, 1] and a choice, with a value that is a function of them."""
    random = np.random.default_rng(0)
    low, high = (1e-4, 1e-1) if log else (0.0, 1.0)
    rows = []
    for _ in range(count):
        x, y, kind = random.uniform(), random.uniform(), str(random.choice(["a", "b", "c"]))
        at = low * (high / low) ** x if log else x
        rows.append({"params": {"x": at, "y": y, "kind": kind}, "value": value(x, y, kind)})
    parameters = {
        "x": {"low": low, "high": high, "log": log},
        "y": {"low": 0.0, "high": 1.0, "log": False},
        "kind": {"choices": ["a", "b", "c"]},
    }
    return write_study(folder, rows, parameters)


def additive(x, y, kind):
    return 3 * x + y + {"a": 0.0, "b": 1.0, "c": 2.0}[kind]


@pytest.mark.slow
@pytest.mark.parametrize("log", thinned([False, True]))
def test_importance_is_the_share_of_the_variance_that_a_parameter_explains(tmp_path, log):
    """Of a sum, it is its variance ÷ the sum of variances: 9/12, 1/12 and 2/3, from the definition."""
    found, _ = importances(planted(tmp_path / "study", additive, count=300, log=log))
    variances = {"x": 9 / 12, "y": 1 / 12, "kind": 2 / 3}
    whole = sum(variances.values())
    assert found == pytest.approx({name: part / whole for name, part in variances.items()}, abs=0.06)
    assert list(found) == ["x", "kind", "y"]


def test_an_interaction_is_nobody_s_importance(tmp_path):
    """x · y around 0 has no main effects; an independent computation on a grid says so too."""
    grid = np.linspace(-0.5, 0.5, 101)
    table = np.multiply.outer(grid, grid)
    main = table.mean(axis=1).var() / table.var()
    assert main == pytest.approx(0, abs=1e-12)
    found, _ = importances(planted(tmp_path / "study", lambda x, y, kind: (x - 0.5) * (y - 0.5)))
    assert sum(found.values()) < 0.3


def test_a_few_trials_have_no_importance_and_a_reason(tmp_path):
    found, result = importances(planted(tmp_path / "few", additive, count=7))
    assert found == {} and result.reason == "7 complete trials of the arm growth, and at least 8 are needed"
    _, one = importances(planted(tmp_path / "one", additive, count=1))
    assert one.reason == "1 complete trial of the arm growth, and at least 8 are needed"
    assert importances(planted(tmp_path / "enough", additive, count=8))[0]


def test_a_parameter_that_does_not_vary_or_is_conditional_is_left_out_with_a_reason(tmp_path):
    rows = [
        {"params": {"x": x, "y": y, "one": 1} | ({"noise": x} if y == "b" else {}), "value": x + (y == "b")}
        for x, y in product(range(6), ["a", "b"])
    ]
    found, result = importances(write_study(tmp_path / "study", rows))
    assert set(found) == {"x", "y"}
    assert result.omitted == {
        "one": "has the value 1 in all trials",
        "noise": "only 6 of 12 trials have it",
    }


def test_two_calls_agree(searched):
    assert importances(searched)[0] == importances(searched)[0]


# --- pruned and failed trials ---------------------------------------------------------------------------------------


def test_a_pruned_trial_is_compared_at_its_share_of_the_budget(pruned):
    study = trials.read(pruned)
    found = run_logs.prunings(study)
    assert [each.trial.number for each in found] == [1, 2]
    for each in found:
        losses = []
        for trial in study.trials:
            logged = reading.read(study.run(trial))
            steps, _, values = logged.of("eval/loss")
            later = steps > 0  # equal models: a share of the steps is a share of the FLOPs
            losses.append(float(np.interp(each.share, steps[later] / trial.steps, values[later])))
        assert each.loss == pytest.approx(losses[each.trial.number], rel=1e-6)
        assert each.rivals == 3 and each.rank == 1 + sorted(losses).index(losses[each.trial.number])
        assert each.rank > 1 and each.share in (0.1, 0.3, 0.9)
        assert each.trial.pruned_at >= each.share * each.trial.steps


def test_the_table_has_the_step_at_which_the_journal_says_a_trial_was_pruned(pruned):
    from pli_train.sweep.study import PRUNED_AT

    study = trials.read(pruned)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(pruned / study_folder.JOURNAL))
    )
    name = study_folder.study_name(study.document["id"], "growth")
    theirs = [t.user_attrs.get(PRUNED_AT) for t in optuna.load_study(study_name=name, storage=storage).trials]
    table = sweep(pruned).table
    assert [None if value is None else int(value) for value in theirs] == [
        None if value != value else int(value) for value in table["pruned_at"].astype(float)
    ]


def test_the_cost_of_a_trial_that_did_not_complete_is_what_its_run_logged(pruned):
    study, arms = trials.read(pruned), sweep(pruned).arms.iloc[0]
    flops = [float(reading.read(study.run(trial)).of("progress/flops").values[-1]) for trial in study.trials]
    assert arms["flops"] == pytest.approx(sum(flops), rel=1e-6) and arms["uncounted"] == 0


def test_trials_whose_logs_are_gone_are_counted(tmp_path):
    rows = [{"value": 1.0, "flops": 10, "seconds": 2.0}, {"state": "pruned", "pruned_at": 4}, {"state": "fail"}]
    arms = sweep(write_study(tmp_path / "study", rows)).arms.iloc[0]
    assert (arms["flops"], arms["seconds"], arms["uncounted"]) == (10, 2.0, 2)
    assert (arms["complete"], arms["pruned"], arms["failed"], arms["running"]) == (1, 1, 1, 0)


# --- which trial is the best ----------------------------------------------------------------------------------------


def test_over_seeds_the_lowest_mean_is_the_best_and_not_the_lowest_value(tmp_path):
    values = {"a": (1.0, 3.0), "b": (1.8, 1.9), "c": (0.5,)}  # c has not all its seeds yet
    rows = [
        {"params": {"k": k, "seed": s}, "seed": s, "value": v} for k, vs in values.items() for s, v in enumerate(vs)
    ]
    best = trials.best(trials.read(write_study(tmp_path / "study", rows)).trials)
    assert [trial.params["k"] for trial in best] == ["b", "b"] and trials.value_of(best) == pytest.approx(1.85)


def test_copies_of_a_run_are_not_seeds(tmp_path):
    """A search draws the same values twice, and gets the same run twice; the lowest value is that of the other ones."""
    rows = [{"params": {"k": k}, "value": value} for k, value in (("a", 2.0), ("b", 1.0), ("a", 2.0))]
    [best] = trials.best(trials.read(write_study(tmp_path / "study", rows)).trials)
    assert best.params["k"] == "b"


def test_the_best_is_the_one_that_pli_train_names(searched):
    """Both packages choose it by themselves."""
    from pli_train.sweep import summary

    study = trials.read(searched)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(searched / study_folder.JOURNAL))
    )
    for arm in ("growth", "baseline"):
        theirs = optuna.load_study(study_name=study_folder.study_name(study.document["id"], arm), storage=storage)
        ours = [trial.number for trial in trials.best(study.of(arm))]
        assert ours == [trial.number for trial in summary.best(theirs.trials)]


def test_a_confirmation_of_a_trial_that_is_no_longer_the_best_is_marked(tmp_path):
    rows = [
        {"value": 2.0, "params": {"k": 0}},
        {"value": 1.0, "params": {"k": 1}},
        {"arm": "confirm", "of_arm": "growth", "of_trial": 0, "seed": 1, "value": 2.5},
    ]
    found = sweep(write_study(tmp_path / "old", rows)).confirmation
    assert (found.of("growth").number, found.of("growth").is_best, found.difference) == (0, False, None)
    rows.append({"arm": "confirm", "of_arm": "growth", "of_trial": 1, "seed": 1, "value": 1.5})
    found = sweep(write_study(tmp_path / "new", rows)).confirmation
    assert (found.of("growth").number, found.of("growth").is_best, found.of("growth").mean.value) == (1, True, 1.5)


def test_a_pair_needs_both_of_its_runs(tmp_path):
    again = [("growth", 1, 1.0), ("growth", 2, 1.2), ("growth", 3, 1.5), ("baseline", 1, 2.0), ("baseline", 3, 2.1)]
    rows = [{"value": 1.0}, {"arm": "baseline", "value": 2.0}]
    rows += [{"arm": "confirm", "of_arm": arm, "of_trial": 0, "seed": s, "value": v} for arm, s, v in again]
    rows.append({"arm": "confirm", "of_arm": "baseline", "of_trial": 0, "seed": 2, "state": "fail", "error": "nan"})
    found = sweep(write_study(tmp_path / "study", rows)).confirmation
    assert found.seeds == [1, 3] and found.difference.value == pytest.approx((-1.0 - 0.6) / 2)
    assert (found.of("baseline").planned, len(found.of("baseline").trials)) == (3, 2)


def test_the_lowest_value_so_far_falls_in_the_order_of_trials(searched):
    table = trials.history(trials.read(searched))
    for arm, rows in table.groupby(col.ARM):
        assert rows[col.BEST_VALUE].tolist() == np.minimum.accumulate(rows[col.VALUE].to_numpy()).tolist(), arm


# --- strategies in words --------------------------------------------------------------------------------------------


def test_what_a_rule_made_is_described_as_the_rule(searched):
    study = trials.read(searched)
    words = {"start": "at the bottom", "end": "on top"}
    for trial in study.of("growth"):
        described = describe(study, trial)
        assert described.startswith(f"inserts 2 layers {words[trial.params['schedule.position']]} in 2 events from ")
        assert f"from {100 * float(trial.changes['growth.schedule'].split('@')[0]):.3g} %" in described


@pytest.mark.parametrize(
    ("schedule", "described"),
    [
        ("0.25@1 0.5@1", "inserts 2 layers in the middle in 2 events from 25 % to 50 % of training"),
        ("0.25@1 0.5@2", "inserts 2 layers on top in 2 events from 25 % to 50 % of training"),
        ("0.1@0 0.1@0 0.1@0", "inserts 3 layers at the bottom in one event at 10 % of training"),
        ("40@1 80@0", "inserts 2 layers at indices 1, 0 in 2 events from step 40 to 80"),
        ("60@1", "inserts 1 layer in the middle in one event at step 60"),
        ("g-stack", "grows by the schedule g-stack"),
        ("", "does not grow"),
    ],
)
def test_a_schedule_is_described_by_what_it_inserts(tmp_path, schedule, described):
    study = trials.read(write_study(tmp_path / "s", [{"value": 1.0, "changes": {"growth.schedule": schedule}}]))
    assert describe(study, study.trials[0]) == described


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": "grow"}, "row 1: arm is 'grow'"),
        ({"number": -1}, "row 1: number is -1"),
        ({"state": "done"}, "row 1: state is 'done'"),
        ({"value": None}, "row 1: value is None"),
        ({"value": "1.0"}, "row 1: value is '1.0'"),
        ({"value": math.nan}, "row 1: value is nan"),
        ({"params": [1]}, "row 1: params is [1]"),
        ({"params": {"x": [1]}}, "row 1: params is {'x': [1]}"),
        ({"pruned_at": "x"}, "row 1: pruned_at is 'x'"),
        ({"rungs": {"10": "x"}}, "row 1: rungs is {'10': 'x'}"),
        ({"rungs": {"ten": 1.0}}, "row 1: rungs is {'ten': 1.0}"),
    ],
)
def test_a_damaged_table_is_one_line(tmp_path, change, message):
    folder = write_study(tmp_path / "study", [{"value": 1.0, **change}])
    with pytest.raises(BadInput) as found:
        sweep(folder)
    assert message in str(found.value) and str(folder / "trials.json") in str(found.value)
    assert len(found.value.mistakes) == 1


def test_a_trial_that_is_listed_twice_is_refused(tmp_path):
    with pytest.raises(BadInput, match="lists growth-0003 twice"):
        sweep(write_study(tmp_path / "study", [{"value": 1.0, "number": 3}] * 2))


def test_settings_that_are_missing_take_nothing_else_away(tmp_path):
    folder = planted(tmp_path / "study", additive, count=40)
    document = json.loads((folder / "study.json").read_text())
    whole = importances(folder)[0]
    del document["settings"], document["name"]
    (folder / "study.json").write_text(json.dumps(document))
    assert importances(folder)[0] == pytest.approx(whole, abs=0.1)
    assert trials.read(folder).name == "study" and len(sweep(folder).table) == 40
