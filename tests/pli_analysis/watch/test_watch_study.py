"""What a watched study is seen to be: before it has trials, while they run, and when all have ended."""

import json

import pytest

from pli_analysis.watch import study_screen
from pli_analysis.watch.study import StudyWatcher
from pli_train.checkpointing.lock import Lock
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder, study_folder
from tests.commands import call, refused
from tests.sweeping import write_study
from tests.watched import content, printed


def shown(folder):
    return printed(StudyWatcher(folder).poll(), width=80, draw=study_screen.drawn)


def test_a_finished_study_shows_each_arm_and_the_last_that_ended(searched):
    frame, rows = StudyWatcher(searched).poll(), study_folder.trials(searched)
    assert (frame.finished, frame.coordinated, frame.running, frame.notes) == (True, False, (), ())
    for arm in frame.arms:
        mine = [row for row in rows if row["arm"] == arm.arm]
        assert arm.counts == {"complete": len(mine), "pruned": 0, "fail": 0, "running": 0}
        if arm.arm != "confirm":
            best = min(mine, key=lambda row: row["value"])
            assert (arm.best, arm.value) == (best["run"], best["value"])
            assert arm.lowest.tolist()[-1] == best["value"] and len(arm.lowest) == len(mine)
    assert (
        len(frame.ended) == 5
        and [trial.finished for trial in frame.ended] == sorted(row["finished"] for row in rows)[-5:]
    )
    for text in ("study  finished", "growth-000", "confirm-000", f"{frame.arms[0].value:.4f}"):
        assert text in shown(searched)


def test_a_running_trial_is_shown_with_its_step(searched_copy):
    table = json.loads((searched_copy / "trials.json").read_text())
    table["trials"][4] |= {"state": "running", "value": None, "loss": None, "finished": None}
    (searched_copy / "trials.json").write_text(json.dumps(table))
    run = searched_copy / "runs" / "growth-0004"
    locks = Lock(searched_copy, study_folder.LOCK), Lock(run)
    watcher = StudyWatcher(searched_copy)
    frame = watcher.poll()
    assert frame.coordinated and not frame.finished
    (running,) = frame.running
    total = json.loads((run / run_folder.RUN).read_text())["total_steps"]
    assert (running.name, running.training, running.step, running.total) == ("growth-0004", True, total, total)
    text = printed(frame, width=80, draw=study_screen.drawn)
    assert "best so far" in text and "eval losses" in text
    assert "study  running" in text and f"{total} of {total}" in text and f"{running.evals[-1]:.3f}" in text
    locks[1].release()
    ending = watcher.poll()
    assert ending.running[0].state == "ending"
    assert "ending" in printed(ending, width=80, draw=study_screen.drawn)
    locks[0].release()
    frame = watcher.poll()
    assert not frame.coordinated and not frame.finished and not frame.running[0].training
    assert "not training here" in printed(frame, width=80, draw=study_screen.drawn)


def test_a_trial_whose_worker_has_not_started_to_train_is_starting(tmp_path):
    folder = write_study(tmp_path / "study", [{"state": "running", "steps": 9}])
    (folder / "logs").mkdir()
    worker = Lock(folder / "logs", "growth-0000.log")
    assert "starting" in shown(folder)
    worker.release()
    assert "not training here" in shown(folder)


def test_before_the_first_trial_and_without_runs_it_says_so(tmp_path):
    assert "no trials yet" in shown(write_study(tmp_path / "new", []))
    rows = [
        {"state": "running", "steps": 9},
        {"state": "fail", "error": "\x1b[31mnan", "finished": "2030-01-01T00:00:00"},
        {"state": "pruned", "pruned_at": 3, "finished": "2030-01-01T00:00:01"},
    ]
    text = shown(write_study(tmp_path / "study", rows))
    assert "0 of 9" in text and "failed" in text and "at step 3" in text and "\x1b[31m" not in text


def test_a_table_that_cannot_be_read_leaves_the_last_one_with_a_line(searched_copy):
    watcher = StudyWatcher(searched_copy)
    before = watcher.poll()
    (searched_copy / "trials.json").write_text("{")
    after = watcher.poll()
    assert after.arms == before.arms and "cannot be read at the moment" in after.notes[0]
    assert "cannot be read" in printed(after, draw=study_screen.drawn)
    with pytest.raises(BadInput, match="not a study folder"):
        StudyWatcher(searched_copy / "runs")


def test_the_command_prints_a_frame_and_touches_nothing(searched):
    before = content(searched)
    done = call("pli-analyze", "watch", searched, "--once")
    assert (done.returncode, done.stderr) == (0, "") and "study  finished" in done.stdout
    assert content(searched) == before
    refused(call("pli-analyze", "watch", searched, "--serve", "0"), "use `pli-analyze sweep --html`")


def test_the_command_offers_the_studies_of_a_folder_and_the_run_of_a_comparison(tmp_path):
    write_study(tmp_path / "first", [{"value": 1.0}])
    lines = refused(call("pli-analyze", "watch", tmp_path), f"{tmp_path}: holds studies; give {tmp_path}/first")
    assert len(lines) == 1
    write_study(tmp_path / "second", [{"value": 1.0}])
    (tmp_path / "third").mkdir()
    (tmp_path / "third/lag.json").write_text("{}")
    offered = ", ".join(f"{tmp_path}/{name}" for name in ("first", "second", "third/runs/main"))
    refused(call("pli-analyze", "watch", tmp_path), f"{tmp_path}: holds studies; give one of {offered}")
    (tmp_path / "lags").mkdir()
    (tmp_path / "third").rename(tmp_path / "lags/third")
    line = f"lags: holds comparisons of `pli-train lag`; give {tmp_path}/lags/third/runs/main"
    refused(call("pli-analyze", "watch", tmp_path / "lags"), line)
    (tmp_path / "lags/third").rename(tmp_path / "third")
    line = f"third: a comparison of `pli-train lag`: its results are in {tmp_path}/third/candidates.csv, and its run is"
    assert len(refused(call("pli-analyze", "watch", tmp_path / "third"), line)) == 1
