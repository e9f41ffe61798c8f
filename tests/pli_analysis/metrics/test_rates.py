"""Learning rates of a run, held against what its optimizer was given at each step."""

import numpy as np
import pytest

from pli_analysis.metrics.disturbance.layer_speeds import LayerSpeeds, log_ratios
from pli_analysis.metrics.drift.drift import drift
from pli_analysis.metrics.drift.rates import Logged, ScheduledRates, rates_of
from pli_analysis.runs.opening import open_run
from pli_analysis.runs.run import Run
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.training import launch

STEPS = 60
GROWTH = [
    {"at": 16, "operator": "insert", "index": 1, "learning_rate": "rewarm-new", "rewarm_steps": 9},
    {"at": 28, "operator": "insert", "index": 0, "learning_rate": "rewarm", "rewarm_steps": 6, "freeze_steps": 3},
    {"at": 44, "operator": "insert", "index": 2, "learning_rate": "rewind"},
]


@pytest.fixture(scope="module")
def logs(config_of, tmp_path_factory):
    """One run, logged at every step, every 10, every 50: log_every → Run."""
    runs = {}
    for every in (1, 10, 50):
        changes = {
            "train.steps": STEPS,
            "train.log_every": every,
            "checkpoint.every": 4,
            "optim.warmup_ratio": 0.2,
            "optim.schedule": "cosine",
            "growth.schedule": GROWTH,
            "model.initial_layers": 2,
        }
        folder = tmp_path_factory.mktemp("rates") / str(every)
        launch.begin(config_of("gpt2", changes), folder).run()
        runs[every] = open_run(folder)
    return runs


@pytest.mark.slow
def test_the_sum_over_a_stretch_is_that_of_the_trainers_own_rates(logs):
    """The trainer logs each layer's rate at every step, from its optimizer."""
    trained = logs[1].scalars
    for every, run in logs.items():
        rates = rates_of(run)
        for id in run.lineage.layers:
            logged = trained.of(run_folder.LR_OF_LAYER + id)
            for start, end in ((16, 28), (28, 44), (30, 31), (44, 60), *([(0, 12), (5, 60)] if id in "ab" else [])):
                within = (logged.steps > start) & (logged.steps <= end)
                if within.sum() == end - start:
                    expected = logged.values[within].astype(float).sum()
                    assert rates.between(id, start, end) == pytest.approx(expected, rel=1e-5, abs=1e-12), (every, id)


def test_the_rate_of_a_step_is_the_trainers(logs):
    logged = logs[1].scalars.of(run_folder.LR)
    assert [rates_of(logs[50]).at(step) for step in range(STEPS)] == pytest.approx(logged.values.tolist(), rel=1e-5)


def test_speed_and_excess_do_not_depend_on_what_was_logged(logs):
    tables = [drift(run)["relative_update_rate"].to_numpy(dtype=float) for run in logs.values()]
    assert np.isfinite(tables[0]).sum() > 20
    excess = [log_ratios(mover.speeds(12, 16), mover.speeds(8, 12)) for mover in map(LayerSpeeds, logs.values())]
    for speeds, movement in zip(tables[1:], excess[1:], strict=True):
        np.testing.assert_array_equal(speeds, tables[0])
        assert movement == excess[0]


def test_a_phase_ends_where_the_schedule_turns(logs):
    rates = rates_of(logs[50])
    assert rates.phase(0, 12) == "warm-up" and rates.phase(12, 16) == "cosine"
    assert rates.phase(8, 16) is None
    assert rates.phase(28, 31) == "re-warm-up with frozen layers" and rates.phase(31, 33) == "re-warm-up"
    assert rates.phase(33, 44) == "cosine" and rates.phase(44, 60) == "cosine after step 44"
    assert rates.phase(40, 48) is None and rates.phase(40, 48, event=44) == "cosine"


def test_wsd_has_three_phases(logs):
    class Optim:
        lr, lr_end, schedule, warmup_ratio, decay_ratio = 1.0, 0.0, "wsd", 0.1, 0.2

    rates = ScheduledRates(Optim(), 100, logs[1].lineage.as_of(0))
    assert [rates.phase(step, step + 1) for step in (9, 10, 79, 80)] == ["warm-up", "stable", "stable", "decay"]


def test_without_a_config_the_logged_rate_says_whether_it_rises_or_falls(logs):
    rates = Logged(logs[1].scalars)
    assert rates.phase(2, 12) == "rising" and rates.phase(13, 16) == "falling"
    assert rates.phase(8, 16) is None and rates.phase(40, 48) is None and rates.phase(50, 70) is None


@pytest.mark.parametrize("broken", [{"lr": "fast"}, {"warmup_ratio": float("nan")}, {"schedule": "stairs"}])
def test_a_config_that_no_run_has_is_reported(logs, broken):
    run = Run(logs[1].path)
    run.record["config"]["optim"] |= broken
    with pytest.raises(BadInput, match=f"run.json: optim.{next(iter(broken))} is"):
        rates_of(run)
