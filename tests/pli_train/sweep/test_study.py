"""Studies from their first trial to their last, in one process: what they run, store, resume and refuse."""

import json
import threading
from collections import Counter

import numpy as np
import optuna
import pytest
from scipy import stats

from pli_train.config import loading
from pli_train.core.errors import BadInput, PliError
from pli_train.core.run_format import run_folder, study_folder
from pli_train.sweep import space_reading, summary
from pli_train.sweep.changes import base_config
from pli_train.sweep.study import Settings, Study
from pli_train.sweep.worker import Task, claim
from pli_train.training import launch
from tests.run_files import content
from tests.sweeping import Ended, InProcess


@pytest.fixture(scope="module")
def grid(mini, tmp_path_factory):
    """A finished study of two variants and two seeds, with its baseline."""
    from pli_train.commands import sweep

    found = space_reading.from_grid(mini, ["growth.initializer=random,clone"], 2)
    folder, launcher, said = tmp_path_factory.mktemp("grid") / "study", InProcess(), []
    sweep.sweep(sweep.settings_of(found, "flops", None, None, "none", 0, True), folder, 0, launcher, say=said.append)
    return folder, launcher, said


def test_a_grid_runs_every_variant_with_every_seed_and_as_many_of_the_baseline(grid):
    rows = study_folder.trials(grid[0])
    assert Counter((row["arm"], row["state"]) for row in rows) == {
        ("growth", "complete"): 4,
        ("baseline", "complete"): 4,
    }
    growth = [row for row in rows if row["arm"] == "growth"]
    assert {(row["seed"], row["params"]["growth.initializer"]) for row in growth} == {
        (seed, name) for seed in (0, 1) for name in ("random", "clone")
    }
    assert {row["seed"] for row in rows if row["arm"] == "baseline"} == {0, 1}


def test_each_result_is_that_of_a_run_with_the_trials_config(grid, tmp_path):
    folder = grid[0]
    for row in study_folder.trials(folder)[3:5]:  # one of each arm
        config = loading.load(str(folder / "configs" / f"{row['run']}.toml"))
        launch.begin(config, tmp_path / row["run"]).run()
        assert content(folder / "runs" / row["run"]) == content(tmp_path / row["run"])
        last = tmp_path / row["run"] / f"checkpoint-{row['steps']}" / run_folder.TRAINER_STATE
        assert row["value"] == json.loads(last.read_text())["log_history"][-1]["eval_loss_full"]


def test_all_trials_have_the_flops_of_the_baseline_but_for_part_of_a_step(grid):
    folder = grid[0]
    budget = study_folder.read(folder)["budget"]
    for row in study_folder.trials(folder):
        assert row["flops"] == row["planned_flops"] <= budget
        assert row["planned_flops"] > budget * (1 - 1.5 / row["steps"])


def test_both_arms_take_turns(grid):
    started = [name.rpartition("-")[0] for name in grid[1].started]
    assert all(abs(started[:n].count("growth") - started[:n].count("baseline")) <= 1 for n in range(len(started)))


def test_copies_of_a_run_are_not_seeds():
    space = {"k": optuna.distributions.CategoricalDistribution(["a", "b"])}
    made = [
        optuna.trial.create_trial(params={"k": k}, distributions=space, value=value)
        for k, value in (("a", 2.0), ("b", 1.0), ("a", 2.0))
    ]
    assert [trial.params["k"] for trial in summary.best(made)] == ["b"]


def test_the_best_of_each_arm_is_a_mean_over_its_seeds(grid):
    folder, _, said = grid
    rows = study_folder.trials(folder)
    means = {}
    for row in rows:
        means.setdefault((row["arm"], str(row["params"].get("growth.initializer", row["params"].get("optim.lr")))), [])
        means[row["arm"], str(row["params"].get("growth.initializer", row["params"].get("optim.lr")))].append(
            row["value"]
        )
    best = {arm: min(sum(v) / 2 for (a, _), v in means.items() if a == arm) for arm in ("growth", "baseline")}
    for arm, value in best.items():
        assert any(line.startswith(f"best {arm}: {value:.4f} over 2 seeds") for line in said)


def test_a_finished_study_starts_nothing_and_says_the_same(grid, mini):
    from pli_train.commands import sweep

    folder, _, before = grid
    said, launcher = [], InProcess()
    found = space_reading.from_grid(mini, ["growth.initializer=random,clone"], 2)
    sweep.sweep(sweep.settings_of(found, "flops", None, None, "none", 0, True), folder, 0, launcher, say=said.append)
    assert launcher.started == []
    assert said == before[-2:]


# --- a search -------------------------------------------------------------------------------------------------------

SEARCH = {"space": {"optim.lr": {"low": 1e-3, "high": 1e-1, "log": True}, "growth.initializer": ["random", "clone"]}}


def test_a_search_gives_both_arms_as_many_trials(sweep_of, mini):
    found = space_reading.from_table({"base": mini, **SEARCH}, "mine.toml")
    folder, _, _ = sweep_of(found, trials=2, baseline=True)
    rows = study_folder.trials(folder)
    assert Counter(row["arm"] for row in rows) == {"growth": 2, "baseline": 2}
    rates = [row["params"]["optim.lr"] for row in rows]
    assert len(set(rates)) == 4 and all(1e-3 <= rate <= 1e-1 for rate in rates)
    assert all(set(row["params"]) == {"optim.lr"} for row in rows if row["arm"] == "baseline")


@pytest.mark.slow
def test_a_search_that_is_extended_draws_what_a_longer_one_would_have(sweep_of, mini, tmp_path):
    found = space_reading.from_table({"base": mini, **SEARCH}, "mine.toml")
    whole, _, _ = sweep_of(found, tmp_path / "whole", trials=2, sampler="random")
    parts, first, _ = sweep_of(found, tmp_path / "parts", trials=1, sampler="random")
    _, second, _ = sweep_of(found, parts, trials=2, sampler="random")
    assert [row["params"] for row in study_folder.trials(parts)] == [
        row["params"] for row in study_folder.trials(whole)
    ]
    assert first.started + second.started == ["growth-0000", "growth-0001"]


def test_no_baseline_leaves_it_out(sweep_of):
    folder, _, said = sweep_of()
    assert {row["arm"] for row in study_folder.trials(folder)} == {"growth"}
    assert not any("baseline" in line for line in said)


# --- confirmation ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_of_each_arm_is_run_again_with_seeds_that_the_search_has_not_used(sweep_of, mini):
    found = space_reading.from_grid(mini, ["growth.initializer=random,clone"], 1)
    folder, _, _ = sweep_of(found, baseline=True)
    searched = study_folder.trials(folder)
    folder, launcher, said = sweep_of(found, baseline=True, confirm=2)
    rows = study_folder.trials(folder)
    assert launcher.started == [f"confirm-000{n}" for n in range(4)]
    assert [row for row in rows if row["arm"] != "confirm"] == searched
    again = [row for row in rows if row["arm"] == "confirm"]
    best = {
        arm: min((r for r in searched if r["arm"] == arm), key=lambda r: r["value"]) for arm in ("growth", "baseline")
    }
    assert {(row["of_arm"], row["of_trial"], row["seed"]) for row in again} == {
        (arm, best[arm]["number"], seed) for arm in best for seed in (1, 2)
    }
    for row in again:
        expected = {**best[row["of_arm"]]["changes"], "seed": row["seed"]}
        assert {key: value for key, value in row["changes"].items() if key != "train.steps"} == {
            key: value for key, value in expected.items() if key != "train.steps"
        }
    values = {arm: np.array([row["value"] for row in again if row["of_arm"] == arm]) for arm in best}
    for arm in best:
        assert f"confirmed {arm}: {values[arm].mean():.4f} over 2 fresh seeds" in said
    difference = stats.ttest_rel(values["growth"], values["baseline"]).confidence_interval()
    mean = (values["growth"] - values["baseline"]).mean()
    line = f"growth - baseline: {mean:+.4f} (95 % interval {difference.low:+.4f} to {difference.high:+.4f}, paired t"
    assert said[-1].startswith(line)
    _, later, same = sweep_of(found, baseline=True, confirm=2)
    assert later.started == [] and same[-1] == said[-1]


# --- what goes wrong ------------------------------------------------------------------------------------------------


class Dies(InProcess):
    """Ends workers with these codes, one after the other, before it lets them work."""

    def __init__(self, *codes):
        super().__init__()
        self._codes = list(codes)

    def start(self, task, slot):
        if self._codes:
            self.started.append(task.name)
            return Ended(self._codes.pop(0))
        return super().start(task, slot)


def test_a_worker_that_was_killed_or_asked_to_stop_is_started_again(sweep_of):
    folder, launcher, _ = sweep_of(launcher=Dies(-9, -15, 130, 143))
    assert launcher.started[:5] == [launcher.started[0]] * 5
    assert {row["state"] for row in study_folder.trials(folder)} == {"complete"}


def test_a_worker_that_is_always_killed_fails_its_trial_and_no_other(sweep_of):
    folder, _, said = sweep_of(launcher=Dies(*[-9] * 20))
    rows = study_folder.trials(folder)
    assert Counter(row["state"] for row in rows) == {"fail": 1, "complete": 1}
    error = "its worker was killed 20 times at the same checkpoint (exit code -9); out of memory?"
    assert [row["error"] for row in rows if row["state"] == "fail"] == [error]
    assert any(error in line for line in said)


def test_a_trial_that_diverges_fails_with_the_last_line_of_its_log(sweep_of, mini):
    found = space_reading.from_grid(mini, ["optim.lr=1e-3,1e30"], 1)
    folder, _, _ = sweep_of(found)
    good, bad = study_folder.trials(folder)
    assert (good["state"], bad["state"]) == ("complete", "fail")
    assert bad["error"].startswith("the loss is nan at step") and good["error"] is None


def test_a_space_whose_every_trial_fails_is_given_up_with_one_clear_line(sweep_of, mini, tmp_path):
    found = space_reading.from_grid(mini, ["optim.lr=1e30,2e30,3e30,4e30,5e30"], 1)
    with pytest.raises(
        PliError, match=r"all 3 trials of the arm growth failed, \d of them with: the loss is nan at step"
    ):
        sweep_of(found)
    assert [row["state"] for row in study_folder.trials(tmp_path / "study")] == ["fail"] * 3  # none is still running


class Fills(InProcess):
    """Its second worker finds the disk full."""

    def start(self, task, slot):
        if len(self.started) == 1:
            self.started.append(task.name)
            task.log.write_text(f"error: {task.run}/x: not written (no space left on device); free 1 MB")
            return Ended(1)
        return super().start(task, slot)


def test_a_full_disk_stops_the_study_and_fails_no_trial(sweep_of, tmp_path):
    launcher = Fills()
    with pytest.raises(PliError, match="disk is full; free space, then run the same command to resume"):
        sweep_of(launcher=launcher)
    folder, later, _ = sweep_of()
    assert later.started[0] == launcher.started[1]
    assert {row["state"] for row in study_folder.trials(folder)} == {"complete"}
    assert sorted([*launcher.started, *later.started[1:]]) == sorted(row["run"] for row in study_folder.trials(folder))


def test_trials_that_were_asked_for_and_not_planned_are_planned_by_the_next_coordinator(sweep_of, mini, tmp_path):
    """As a coordinator leaves them that is killed right after it asked."""
    found = space_reading.from_grid(mini, ["growth.initializer=random,clone"], 1)
    settings = Settings(found, sampler="grid", baseline=False)
    study = Study.open(tmp_path / "study", settings, base_config(found).model_dump(mode="json"))
    study.arm("growth").ask()
    study.close()
    folder, _, _ = sweep_of(found)
    rows = study_folder.trials(folder)
    assert {row["state"] for row in rows} == {"complete"} and len(rows) == 2
    growth = [row["params"]["growth.initializer"] for row in rows if row["arm"] == "growth"]
    assert sorted(growth) == ["clone", "random"]


def test_a_trial_without_a_plan_waits_for_the_worker_that_has_its_log(sweep_of, mini, tmp_path):
    """As a torn journal leaves it: the plan is lost, and the worker that it was made for still trains."""
    found = space_reading.from_grid(mini, ["growth.initializer=random,clone"], 1)
    study = Study.open(
        tmp_path / "study", Settings(found, sampler="grid", baseline=False), base_config(found).model_dump(mode="json")
    )
    study.arm("growth").ask()
    study.close()
    task = Task(tmp_path / "study", "growth-0000", 1)
    held = claim(task)
    assert claim(task) is None
    threading.Timer(1.0, held.close).start()
    folder, launcher, _ = sweep_of(found)
    assert held.closed and sorted(launcher.started) == ["growth-0000", "growth-0001"]
    assert [row["state"] for row in study_folder.trials(folder)] == ["complete", "complete"]


def test_two_studies_do_not_share_a_folder(sweep_of, mini, tmp_path):
    sweep_of()
    with pytest.raises(
        BadInput, match=r"study: contains another study: it differs in --objective; choose another folder"
    ):
        sweep_of(goal="tokens")
    with pytest.raises(BadInput, match=r"another study: it differs in optim\.lr, growth\.initializer, --sampler-seed;"):
        sweep_of(space_reading.from_grid(mini, ["optim.lr=1e-3"], 1), seed=1)
    grid = ["growth.initializer=random,clone"]
    with pytest.raises(BadInput, match=r"another study: it differs in train\.steps;"):
        sweep_of(space_reading.from_grid(mini, grid, 1, ["train.steps=13"]))
    with pytest.raises(BadInput, match=r"another study: it differs in seeds, growth\.initializer, --no-baseline;"):
        sweep_of(space_reading.from_grid(mini, ["growth.initializer=random"], 2), baseline=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.md").write_text("mine")
    with pytest.raises(BadInput, match="mine: already exists and is not a study; choose another folder with --out"):
        sweep_of(folder=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.md"]


def test_a_study_has_one_coordinator(sweep_of, mini, tmp_path):
    class Second(InProcess):
        def start(self, task, slot):
            with pytest.raises(BadInput, match=r"study: process \d+ runs the study in it"):
                sweep_of()
            return super().start(task, slot)

    sweep_of(launcher=Second())


def test_a_space_that_cannot_be_used_leaves_no_folder_behind(sweep_of, mini, tmp_path):
    with pytest.raises(BadInput, match=r"unknown key; did you mean 'growth\.initializer'"):
        sweep_of(space_reading.from_grid(mini, ["growth.initialisr=random"], 1))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "seconds"}, "--objective seconds: needs --budget SECONDS"),
        ({"budget": -1.0}, "--budget -1: must be above 0"),
        ({"sampler": "tpe"}, "--sampler tpe: a grid runs all its points"),
        ({"budget": 5.0}, "a budget of 5 FLOPs is used up before step 1"),
    ],
)
def test_options_that_do_not_fit_are_one_clear_line(sweep_of, options, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        sweep_of(**options)
    assert not (tmp_path / "study").exists()


# --- readers --------------------------------------------------------------------------------------------------------


def test_reading_a_study_needs_neither_torch_nor_optuna(grid):
    import subprocess
    import sys

    code = (
        "import sys\nfrom pathlib import Path\nfrom pli_train.core.run_format import study_folder\n"
        f"print(len(study_folder.trials(Path({str(grid[0])!r}))))\n"
        "assert not {'torch', 'optuna', 'pydantic', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "8"


def test_optuna_reads_the_study_by_itself(grid):
    """As Optuna's dashboard does."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(grid[0] / study_folder.JOURNAL)))
    names = optuna.get_all_study_names(storage)
    assert sorted(name.rpartition("/")[2] for name in names) == ["baseline", "growth"]
    rows = study_folder.trials(grid[0])
    for name in names:
        study = optuna.load_study(study_name=name, storage=storage)
        ours = [row["value"] for row in rows if row["arm"] == name.rpartition("/")[2]]
        assert [trial.value for trial in study.trials] == ours


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "pli-run", "version": 1}', "not a file of a study"),
        ('{"format": "pli-study", "version": 99}', "has version 99; this release reads up to 1"),
        ("{", "not readable as JSON"),
    ],
)
def test_a_folder_that_is_not_a_study_is_an_error(tmp_path, text, message):
    with pytest.raises(BadInput, match=r"not a study folder: no study\.json"):
        study_folder.read(tmp_path)
    (tmp_path / study_folder.STUDY).write_text(text)
    with pytest.raises(BadInput, match=message):
        study_folder.read(tmp_path)
