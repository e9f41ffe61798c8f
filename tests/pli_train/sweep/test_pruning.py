"""Trials that fall behind are stopped, by what their own event files say, and nothing else is."""

import json
import signal

import pytest

from pli_train.core.run_format import study_folder
from pli_train.sweep import coordinator, space_reading
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


def test_confirmation_trials_are_not_pruned(sweep_of, mini, monkeypatch):
    monkeypatch.setattr(coordinator, "PRUNE_EVERY", 0.0)
    found = space_reading.from_grid(mini, ["optim.lr=1e-2,1e-7"], 1, ["growth.schedule=''", "model.initial_layers=2"])
    folder, _, _ = sweep_of(found, launcher=Training(), pruner="halving", confirm=4)
    assert [row["state"] for row in study_folder.trials(folder) if row["arm"] == "confirm"] == ["complete"] * 4


def before_the_end(run):
    """The evaluations of a run at steps 2 to 8, as its history tells them."""
    state = json.loads((run / "aside" / "trainer_state.json").read_text())
    return [(entry["step"], entry["eval_loss"]) for entry in state["log_history"] if 0 < entry["step"] < 10
            and "eval_loss" in entry]  # fmt: skip
