"""Trials that fall behind are stopped, by what their own event files say, and nothing else is."""

import json
import signal

import pytest

from pli_train.core.run_format import study_folder
from pli_train.sweep import coordinator, objective, pruning, space_reading
from tests.sweeping import Training


@pytest.mark.parametrize("kind", ["halving", "none"])
def test_a_trial_that_falls_behind_is_stopped(sweep_of, mini, monkeypatch, kind):
    monkeypatch.setattr(coordinator, "PRUNE_EVERY", 0.0)
    found = space_reading.from_grid(
        mini, ["optim.lr=1e-2,1e-7,2e-7"], 1, ["growth.schedule=''", "model.initial_layers=2"]
    )
    launcher = Training()
    folder, _, said = sweep_of(found, launcher=launcher, pruner=kind)
    rows = study_folder.trials(folder)
    if kind == "none":
        assert [row["state"] for row in rows] == ["complete"] * 3 and launcher.signals == []
        return
    assert [row["state"] for row in rows] == ["complete", "pruned", "pruned"]
    assert launcher.signals == [("growth-0001", signal.SIGTERM), ("growth-0002", signal.SIGTERM)]
    assert [row["value"] is None for row in rows] == [False, True, True]
    assert any(line.startswith("growth-0001: pruned") for line in said)


def test_growth_is_not_pruned_for_what_an_event_does_to_the_loss(sweep_of, mini, monkeypatch):
    """The second trial is as bad, but all its evaluations before the end lie in windows of events."""
    monkeypatch.setattr(coordinator, "PRUNE_EVERY", 0.0)
    monkeypatch.setattr("pli_train.sweep.objective.evaluations", before_the_end)
    found = space_reading.from_grid(mini, ["optim.lr=1e-2,1e-7"], 1, ["growth.schedule='1@1 5@1'", "train.steps=10"])
    launcher = Training()
    folder, _, _ = sweep_of(found, launcher=launcher, pruner="halving", goal="tokens")
    assert [row["state"] for row in study_folder.trials(folder)] == ["complete", "complete"]
    assert launcher.signals == []


@pytest.mark.slow
def test_confirmation_trials_are_not_pruned(sweep_of, mini, monkeypatch):
    monkeypatch.setattr(coordinator, "PRUNE_EVERY", 0.0)
    found = space_reading.from_grid(mini, ["optim.lr=1e-2,1e-7"], 1, ["growth.schedule=''", "model.initial_layers=2"])
    folder, _, _ = sweep_of(found, launcher=Training(), pruner="halving", confirm=4)
    assert [row["state"] for row in study_folder.trials(folder) if row["arm"] == "confirm"] == ["complete"] * 4


def test_trials_are_compared_at_the_same_share_of_the_budget(tmp_path, mini, monkeypatch):
    """A window hides what is left of a rung in one of two runs; both have the loss 9 − percent / 10."""
    windows = {"all": [], "some": [(25, 55)]}
    monkeypatch.setattr(objective, "evaluations", lambda run: [(step, 9 - step / 10) for step in range(0, 96, 5)])
    monkeypatch.setattr(objective, "scalars", lambda run, tag: [(step, 7.0 * step) for step in range(1, 96)])
    monkeypatch.setattr(objective, "recovery_windows", lambda run, config: windows[run.name])
    found = {name: pruning.reports(tmp_path / name, None, total=700) for name in windows}
    assert [(rung, step) for rung, _, step in found["all"]] == [(10, 10), (30, 30), (90, 90)]
    assert [(rung, step) for rung, _, step in found["some"]] == [(10, 10), (30, 60), (90, 90)]
    for reports in found.values():
        assert [loss for _, loss, _ in reports] == pytest.approx([8, 6, 0])


def test_a_rung_before_the_first_evaluation_takes_its_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(objective, "evaluations", lambda run: [(0, 9.0), (20, 5.0), (40, 4.0)])
    monkeypatch.setattr(objective, "scalars", lambda run, tag: [(step, 1.0 * step) for step in range(1, 41)])
    monkeypatch.setattr(objective, "recovery_windows", lambda run, config: [])
    assert pruning.reports(tmp_path, None, total=100) == [(10, 5.0, 20), (30, 4.5, 40)]


def test_a_trial_that_has_ended_is_not_pruned(sweep_of, mini, monkeypatch):
    """Its worker is still there, and its last checkpoint too."""

    class Ending(Training):
        def start(self, task, slot):
            super().start(task, slot)
            if task.name == "growth-0001":
                self._aside.rename(self._last)
            return self

        def poll(self):
            if self._aside.exists():
                return super().poll()
            self._polls += 1
            return 0 if self._polls >= 3 else None

    monkeypatch.setattr(coordinator, "PRUNE_EVERY", 0.0)
    found = space_reading.from_grid(mini, ["optim.lr=1e-2,1e-7"], 1, ["growth.schedule=''", "model.initial_layers=2"])
    launcher = Ending()
    folder, _, _ = sweep_of(found, launcher=launcher, pruner="halving")
    assert [row["state"] for row in study_folder.trials(folder)] == ["complete", "complete"]
    assert launcher.signals == []


def test_the_table_has_the_losses_that_the_pruner_compared(sweep_of, mini, monkeypatch):
    monkeypatch.setattr(coordinator, "PRUNE_EVERY", 0.0)
    found = space_reading.from_grid(mini, ["optim.lr=1e-2,1e-7"], 1, ["growth.schedule=''", "model.initial_layers=2"])
    best, pruned = study_folder.trials(sweep_of(found, launcher=Training(), pruner="halving")[0])
    assert list(best["rungs"]) == ["10", "30", "90"] and pruned["rungs"]
    assert all(loss > best["rungs"][rung] for rung, loss in pruned["rungs"].items())


def before_the_end(run):
    """The evaluations of a run at steps 2 to 8, as its history tells them."""
    state = json.loads((run / "aside" / "trainer_state.json").read_text())
    return [(entry["step"], entry["eval_loss"]) for entry in state["log_history"] if 0 < entry["step"] < 10
            and "eval_loss" in entry]  # fmt: skip
