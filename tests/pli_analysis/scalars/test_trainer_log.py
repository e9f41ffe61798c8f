"""What Trainer logged, told by its states and its event files: which of the two counts, and what is left behind."""

import json
import math

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from pli_analysis.metrics import loss as loss_metric
from pli_analysis.runs import paths
from pli_analysis.scalars import trainer_log
from pli_train.core.run_format import run_folder
from pli_train.training.tensorboard import ScalarWriter
from tests.commands import call, refused


@pytest.fixture
def clock(monkeypatch):
    """Time that only goes on when it is told to."""
    now = [1_700_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    return now


def logged(path):
    """What the only run at a path logged."""
    ((_, found),) = paths.logged(path)
    return found


def state(folder, step, history, **more):
    """A checkpoint as far as logs go."""
    (folder / f"checkpoint-{step}").mkdir(parents=True)
    message = {"global_step": step, "log_history": history, "num_input_tokens_seen": 0} | more
    (folder / f"checkpoint-{step}" / run_folder.TRAINER_STATE).write_text(json.dumps(message))


def start(folder, clock, name, points):
    """What one start of Trainer leaves in `runs`: tag → {step: value}. A second goes by with each step."""
    clock[0] += 100
    with SummaryWriter(str(folder / "runs" / name)) as writer:
        for tag, values in points.items():
            for step, value in values.items():
                writer.add_scalar(tag, value, step, walltime=clock[0] + step)
    clock[0] += 100


def losses(values):
    return [{"loss": value, "learning_rate": 1e-3, "epoch": step / 10, "step": step} for step, value in values.items()]


def points(scalars, tag):
    of = scalars.of(tag)
    return dict(zip(of.steps.tolist(), of.values.tolist(), strict=True))


ALIVE = {10: 5.25, 20: 4.75, 30: 4.625}
DEAD = {10: 5.25, 20: 4.75, 30: 4.0, 40: 3.5}


def test_the_newest_state_wins_over_what_a_killed_training_logged_behind_its_checkpoint(tmp_path, clock):
    start(tmp_path, clock, "one", {"train/loss": DEAD, "own/thing": {20: 1, 29: 2, 30: 3, 40: 4}})
    start(tmp_path, clock, "two", {"train/loss": {30: 4.625}, "own/thing": {30: 9}})
    state(tmp_path, 20, losses({10: 5.25, 20: 4.75}))
    state(tmp_path, 34, losses(ALIVE))
    found = logged(tmp_path)
    assert points(found, "train/loss") == ALIVE
    assert points(found, "own/thing") == {20: 1, 29: 2, 30: 9}  # nothing says that 29 is of the dead branch
    assert points(found, run_folder.LR) == dict.fromkeys(ALIVE, 1e-3)
    assert found.of("train/loss").wall_times.tolist() == [1_700_000_110, 1_700_000_120, 1_700_000_330]


def test_a_restart_that_one_of_our_files_records_is_known_to_the_step(tmp_path, clock):
    start(tmp_path, clock, "one", {"own/thing": {20: 1, 29: 2, 40: 4}})
    scalars = ScalarWriter(tmp_path, from_step=21)
    scalars.add(22, {"grad_norm/total": 1.0})
    scalars.close()
    assert points(trainer_log.read(tmp_path, []), "own/thing") == {20: 1}


def test_a_training_begun_anew_leaves_all_of_the_one_before_behind(tmp_path, clock):
    start(tmp_path, clock, "one", {"train/loss": DEAD, "own/thing": {5: 1}})
    start(tmp_path, clock, "two", {"train/loss": {10: 5.5}})
    state(tmp_path, 10, losses({10: 5.5}))
    found = logged(tmp_path)
    assert points(found, "train/loss") == {10: 5.5} and "own/thing" not in found.columns


def test_an_evaluation_by_itself_begins_nothing(tmp_path, clock):
    start(tmp_path, clock, "one", {"train/loss": DEAD, "own/thing": {5: 1}})
    start(tmp_path, clock, "two", {"eval/loss": {0: 3.0}})
    found = trainer_log.read(tmp_path, [])
    assert points(found, "train/loss") == DEAD and points(found, "own/thing") == {5: 1}


def test_what_came_after_the_newest_state_is_in_the_event_files(tmp_path, clock):
    start(tmp_path, clock, "one", {"train/loss": DEAD})
    state(tmp_path, 20, losses({10: 5.125, 20: 4.75}))
    assert points(logged(tmp_path), "train/loss") == {10: 5.125, 20: 4.75, 30: 4.0, 40: 3.5}


def test_the_state_beside_the_checkpoints_goes_on_where_they_end_or_is_another_training_s(tmp_path):
    state(tmp_path, 20, losses({10: math.nan, 20: 4.75}))
    own = tmp_path / run_folder.TRAINER_STATE
    own.write_text(json.dumps({"global_step": 30, "log_history": losses({10: math.nan, 20: 4.75, 30: 4.5})}))
    assert list(points(logged(tmp_path), "train/loss")) == [10, 20, 30]
    own.write_text(json.dumps({"global_step": 30, "log_history": losses({10: 9.0, 20: 8.0, 30: 7.0})}))
    assert list(points(logged(tmp_path), "train/loss").values())[1:] == [4.75]


def test_a_state_that_is_of_another_step_than_its_folder_is_ignored(tmp_path):
    state(tmp_path, 10, losses({10: 5.0}))
    state(tmp_path, 20, losses({10: 9.0, 500: 8.0}), global_step=500)
    assert points(logged(tmp_path), "train/loss") == {10: 5.0}


def test_checkpoints_of_two_trainings_in_one_folder_are_reported():
    """Trainer leaves what an earlier training in its folder saved, higher steps included."""
    stale, new = losses({10: 9.0, 20: 8.0}), losses({10: 5.0})
    message = {"checkpoint-10": {"log_history": new}, "checkpoint-20": {"log_history": stale}}
    assert "checkpoint-20 and checkpoint-10 are from different trainings" in trainer_log.broken(message)
    message["checkpoint-20"] = {"log_history": new + losses({20: 4.0})}
    assert trainer_log.broken(message) is None and trainer_log.broken({"a": {}, "b": {"log_history": new}}) is None


@pytest.mark.parametrize("history", [None, "none", {"loss": 1}, 3])
def test_a_state_without_a_history_leaves_the_word_to_event_files(history, tmp_path, clock):
    start(tmp_path, clock, "one", {"train/loss": DEAD})
    state(tmp_path, 40, history)
    assert points(logged(tmp_path), "train/loss") == DEAD


def test_odd_entries_are_read_as_far_as_they_make_sense(tmp_path):
    history = [
        {"loss": 5.0, "step": 10},
        {"loss": 4.0, "step": 10},  # the later one of a step
        {"loss": math.inf, "step": 20},
        {"loss": 10**400, "step": 30},
        {"loss": "3.0", "step": 40},
        {"loss": True, "step": 50},
        {"eval_loss": 2.0, "epoch": 1.0},
        {"loss": 1.0, "step": 2**60},
        {"loss": 1.0, "step": 1.5},
        None,
    ]
    state(tmp_path, 60, history)
    found = logged(tmp_path)
    assert points(found, "train/loss") == {10: 4.0, 20: math.inf, 30: math.inf}
    assert found.damaged == ["trainer_state.json: 4 entries of its log_history that have no step"]


@pytest.mark.parametrize(("counted", "known"), [([0, 0], False), ([100, 200], True)])
def test_tokens_that_nobody_counted_are_missing_and_no_axis(counted, known, tmp_path):
    history = losses({10: 5.0, 20: 4.0})
    for entry, tokens in zip(history, counted, strict=True):
        entry["num_input_tokens_seen"] = tokens
    state(tmp_path / "out", 20, history)
    table = loss_metric.loss(logged(tmp_path / "out"))
    asked = call("pli-analyze", "compare", tmp_path / "out", "--by", "tokens")
    if known:
        assert table["tokens"].tolist() == [100, 200] and asked.returncode == 0
    else:
        assert table["tokens"].isna().all()
        refused(asked, "--by tokens: out did not log tokens; use --by step")


def test_a_state_by_itself_is_enough_for_scalars_and_compare(tmp_path):
    state(tmp_path / "out", 30, losses(ALIVE))
    path = tmp_path / "out" / "checkpoint-30" / run_folder.TRAINER_STATE
    message = call("pli-analyze", "scalars", path, "--tags", "train/loss", "--format", "csv").stdout.splitlines()
    assert [line.split(",")[:3] for line in message[1:]] == [
        ["checkpoint-30", "train/loss", str(step)] for step in ALIVE
    ]
    assert [float(line.split(",")[4]) for line in message[1:]] == list(ALIVE.values())
    assert call("pli-analyze", "compare", path, tmp_path / "out").returncode == 0


def test_numbers_are_those_of_the_state_and_not_of_32_bits(tmp_path, clock):
    start(tmp_path, clock, "one", {"train/loss": {10: 0.1, 20: 0.3}})
    state(tmp_path, 20, losses({10: 0.1, 20: 0.2}))
    of = logged(tmp_path).of("train/loss")
    assert of.values.tolist() == [0.1, 0.2]
    assert np.isfinite(of.wall_times).tolist() == [True, False]  # of what does not agree there is no time
