"""Results of runs, against the numbers in their own files and NumPy's."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.sweep import objective, pruning
from tests.conftest import STEPS


@pytest.fixture
def history(runs, family):
    return json.loads((runs[family] / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]


def test_the_loss_is_that_of_all_held_out_text(runs, family, history):
    full = [entry["eval_loss_full"] for entry in history if "eval_loss_full" in entry]
    found = objective.result(runs[family])
    for goal in ("flops", "tokens"):
        assert objective.value(found, goal, None, runs[family]) == full[-1]


def test_the_area_is_the_mean_loss_over_flops(runs, family, history):
    points = [(entry["flops"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    flops, losses = map(np.array, zip(*points, strict=True))
    expected = np.trapezoid(losses, flops) / (flops[-1] - flops[0])
    assert objective.value(objective.result(runs[family]), "area", None, runs[family]) == pytest.approx(expected)


def test_the_loss_at_a_number_of_seconds_lies_between_two_evaluations(runs, family, history):
    events = EventAccumulator(str(runs[family]))
    events.Reload()
    clock = {event.step: event.value for event in events.Scalars(run_folder.SECONDS)} | {0: 0.0}
    points = [(clock[entry["step"]], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    seconds, losses = zip(*points, strict=True)
    found = objective.result(runs[family])
    budget = (seconds[1] + seconds[2]) / 2
    expected = np.interp(budget, seconds, losses)
    assert objective.value(found, "seconds", budget, runs[family]) == pytest.approx(expected, rel=1e-5)
    assert objective.value(found, "seconds", 1e9, runs[family]) == found.loss


def test_a_run_that_is_not_finished_has_no_result(small_run):
    assert not objective.is_finished(small_run)
    with pytest.raises(BadInput, match="is not finished"):
        objective.result(small_run)


def test_a_pruner_sees_no_evaluation_within_the_window_after_an_event(runs, config_of, history):
    """Events are at steps 3, 6 and 9, evaluations at 4, 8, 12 and at the events: a window is two of them long."""
    config = config_of("gpt2", {"train.eval_every": 1})
    events = [event["step"] for event in json.loads((runs["gpt2"] / "lineage.json").read_text())["events"]]
    assert objective.recovery_windows(runs["gpt2"], config) == [(step, step + 2) for step in events]
    flops = {entry["step"]: entry["flops"] for entry in history if "eval_loss" in entry}
    total = max(flops.values())
    last = dict(objective.evaluations(runs["gpt2"]))[12]
    seen = pruning.reports(runs["gpt2"], config, total)
    assert [(rung, step) for rung, _, step in seen] == [(10, 12), (30, 12), (90, 12)]
    assert [loss for _, loss, _ in seen] == pytest.approx([last] * 3)
    rewarmed = config_of("gpt2", {"growth.learning_rate": "rewarm", "growth.rewarm_steps": 5})
    assert objective.recovery_windows(runs["gpt2"], rewarmed)[0] == (3, 3 + 8)
    assert pruning.reports(runs["gpt2"], rewarmed, total) == []


def test_a_run_without_events_hides_nothing_but_its_start(runs, config_of, tmp_path):
    for path in runs["gpt2"].glob(run_folder.SCALARS):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    flops = dict(objective.scalars(tmp_path, run_folder.FLOPS))
    evaluated = {step: loss for step, loss in objective.evaluations(tmp_path) if step}
    shares = [50 * flops[step] / flops[12] for step in evaluated]
    seen = pruning.reports(tmp_path, config_of("gpt2"), 2 * flops[12])
    assert [rung for rung, *_ in seen] == [10, 30]
    for rung, loss, step in seen:
        assert loss == pytest.approx(np.interp(rung, shares, list(evaluated.values())))
        assert step == next(at for at, share in zip(evaluated, shares, strict=True) if share >= rung)
