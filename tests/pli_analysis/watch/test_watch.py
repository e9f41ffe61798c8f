"""What a watched run is seen to be: before it has anything, while it trains, and while files go away."""

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pli_analysis import api
from pli_analysis.metrics.grad_norms import logged
from pli_analysis.runs.opening import open_run
from pli_analysis.scalars.events import Columns
from pli_analysis.scalars.reading import Scalars
from pli_analysis.watch import frame, latest, watcher
from pli_analysis.watch.watcher import RunWatcher, started
from pli_train.checkpointing.lock import Lock
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from tests.conftest import STEPS
from tests.watched import printed, sorted_by_step

# --- what a frame tells ---------------------------------------------------------------------------------------------


def test_a_frame_shows_what_other_readers_show(runs, family):
    run, shown = open_run(runs[family]), sorted_by_step(RunWatcher(runs[family]))
    assert (shown.step, shown.total, shown.finished, shown.training) == (STEPS, STEPS, True, False)
    assert (shown.stack, shown.notes, shown.left) == (tuple(run.lineage.stack), (), None)
    values = run.scalars.values
    message = {tag: [value for _, value in values[tag].values()] for tag in (run_folder.LOSS, run_folder.EVAL_LOSS)}
    assert shown.losses.tolist() == message[run_folder.LOSS] and shown.evals.tolist() == message[run_folder.EVAL_LOSS]
    assert shown.loss == pytest.approx(sum(message[run_folder.LOSS]) / STEPS)
    drift = api.drift(run).query(f"step == {STEPS}")
    assert (shown.drift, shown.drift_at) == (
        dict(zip(drift["part"], drift["relative_l2"], strict=True)),
        "checkpoint-12",
    )
    norms = logged.logged(run.scalars, run.lineage).query("part_type == 'layer'").groupby("part")["grad_norm"].last()
    assert shown.norms == norms.to_dict() and set(norms.index) == set(shown.stack)
    assert [growth.step for growth in shown.growth] == [3, 6, 9]
    for growth in shown.growth:
        assert growth.before == values[run_folder.EVAL_LOSS][growth.step][1]
        assert growth.after == values[run_folder.EVAL_LOSS_AFTER_EVENT][growth.step][1]
    assert [growth.label for growth in shown.growth] == ["+b", "+c +d", "+e"]


def test_before_the_first_checkpoint_it_says_so(runs, family, tmp_path):
    young = tmp_path / "young"
    young.mkdir()
    shutil.copy(runs[family] / run_folder.RUN, young)
    watched = RunWatcher(young)
    shown = sorted_by_step(watched)
    assert (shown.step, shown.total, shown.stack, shown.checkpoint, shown.notes) == (0, STEPS, (), None, ())
    assert "none complete yet" in printed(shown) and "none logged yet" in printed(shown)
    shutil.copytree(runs[family], young, dirs_exist_ok=True)
    assert sorted_by_step(watched).checkpoint == "checkpoint-12", "what appears is seen by whoever looked before"


def test_a_run_without_scalars_shows_what_its_checkpoints_hold(runs, family, tmp_path):
    mute = Path(shutil.copytree(runs[family], tmp_path / "run"))
    for path in mute.glob(run_folder.SCALARS):
        path.unlink()
    shown, whole = sorted_by_step(RunWatcher(mute)), sorted_by_step(RunWatcher(runs[family]))
    assert shown.evals.tolist() == pytest.approx(whole.evals.tolist())
    assert shown.drift == whole.drift and not shown.norms
    assert {growth.after for growth in shown.growth} == {None}
    assert "→ ?" in printed(shown)


@pytest.mark.parametrize("total", ["soon", None, -1, True, 10**300])
def test_a_record_without_a_number_of_steps_is_no_end(small_run, tmp_path, total):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    record = run_folder.read_json(run / run_folder.RUN) | {"total_steps": total}
    (run / run_folder.RUN).write_text(json.dumps(record))
    shown = sorted_by_step(RunWatcher(run))
    assert shown.total is None and not shown.finished
    assert "step        12" in printed(shown)


def test_time_left_is_the_pace_of_this_process():
    steps = np.arange(1, 11)
    walls = np.where(steps <= 5, steps * 7.0, 1000.0 + steps * 2.0)  # resumed after step 5, and slower before it
    scalars = Scalars({run_folder.LOSS: Columns(steps, walls, steps * 1.0)})
    assert frame.seconds_left(scalars, 100, since=1000.0, now=walls[-1]) == pytest.approx(90 * 2.0)
    assert frame.seconds_left(scalars, 100, since=1000.0, now=walls[-1] + 30) == pytest.approx(150.0)
    assert frame.seconds_left(scalars, 10, since=1000.0, now=walls[-1] + 30) == 0.0
    assert frame.seconds_left(scalars, 100, since=walls[-1], now=walls[-1]) is None
    assert frame.seconds_left(Scalars(), 100, since=0.0, now=0.0) is None
    odd = Scalars({run_folder.LOSS: Columns(steps, np.where(steps < 10, walls, math.inf), walls)})
    assert frame.seconds_left(odd, 100, since=0.0, now=0.0) is None


# --- files that come and go -----------------------------------------------------------------------------------------


def test_a_checkpoint_that_vanishes_once_it_was_found_whole_costs_one_refresh(mine, monkeypatch):
    whole, gone = run_folder.flaw, []

    def found_then_gone(path, *rest):
        flaw = whole(path, *rest)
        if not gone and path.name == "checkpoint-12":
            gone.append(path)
            shutil.rmtree(path)
        return flaw

    monkeypatch.setattr(run_folder, "flaw", found_then_gone)
    watched = RunWatcher(mine)
    assert sorted_by_step(watched).stack
    shown = sorted_by_step(watched)
    assert (shown.checkpoint, shown.drift_at, shown.notes) == ("checkpoint-10", "checkpoint-10", ())
    assert shown.step == 12, "scalars are there still"


def test_one_that_vanishes_between_listing_and_reading_is_no_checkpoint(mine, monkeypatch):
    listed = run_folder.checkpoints

    def listed_then_gone(run):
        found = listed(run)
        shutil.rmtree(found[-1][1])
        return found

    monkeypatch.setattr(run_folder, "checkpoints", listed_then_gone)
    names = [RunWatcher(mine, lambda path, watch: {}).poll().checkpoint for _ in range(3)]
    assert names == ["checkpoint-10", "checkpoint-9", "checkpoint-9-before"]


def test_what_cannot_be_read_stands_as_it_was_with_a_line(mine):
    watched = RunWatcher(mine)
    before = sorted_by_step(watched)
    (mine / run_folder.LINEAGE).write_text("{")
    during = watched.poll()
    assert (during.stack, during.step) == (before.stack, before.step)
    (note,) = during.notes
    assert note.startswith("lineage: cannot be read at the moment, trying again") and "\n" not in note
    shutil.rmtree(mine)
    lost = watched.poll()
    assert lost.stack == before.stack and len(lost.notes) >= 2
    assert printed(lost)


def test_drift_that_fails_is_tried_again_and_not_for_ever(mine):
    tries = []

    def fails(path, watch):
        tries.append(path)
        if len(tries) < 2:
            raise BadInput("gone\nand more")
        return {"a": 0.5}

    watched = RunWatcher(mine, fails)
    assert sorted_by_step(watched).notes == ("drift at checkpoint-12: gone",)
    watched.wait()
    assert watched.poll().drift == {"a": 0.5} and watched.poll().notes == ()

    def never(path, watch):
        tries.append(path)
        raise RuntimeError

    tries.clear()
    watched = RunWatcher(mine, never)
    for _ in range(9):
        sorted_by_step(watched)
    assert len(tries) == latest.TRIES
    assert "is not measured yet" in printed(watched.poll())


def test_drift_is_measured_once_a_checkpoint_and_nobody_waits_for_it(mine):
    going, tries = threading.Event(), []

    def slow(path, watch):
        tries.append(path)
        going.wait(20)
        return {"a": 0.5}

    watched = RunWatcher(mine, slow)
    assert [watched.poll().drift for _ in range(3)] == [{}, {}, {}]
    going.set()
    watched.wait()
    assert watched.poll().drift == {"a": 0.5}
    shutil.rmtree(mine / "checkpoint-12")
    assert watched.poll().drift_at == "checkpoint-12", "what is known stands until the other is"
    watched.wait()
    assert (watched.poll().drift_at, len(tries)) == ("checkpoint-10", 2)


def test_closing_ends_a_measurement_in_its_middle(mine, monkeypatch):
    monkeypatch.setenv("PLI_CACHE", str(mine / "cache"))
    scans, stopped = [], threading.Event()

    def counted(path, watch):
        def scan(done, total):
            scans.append(done)
            if done == 1:
                stopped.wait(20)
            watch(done, total)

        return latest.drifts(path, scan)

    watched = RunWatcher(mine, counted)
    watched.poll()
    while 1 not in scans:
        time.sleep(0.01)
    watched.drift.ending.set()
    stopped.set()
    watched.close()
    assert max(scans) == 1
    assert watched.poll().drift == {}


def test_drift_at_the_newest_reads_births_and_the_newest_only(mine):
    names = [str(checkpoint.name) for checkpoint in latest.Births(mine).checkpoints]
    assert names == ["checkpoint-0", "checkpoint-3", "checkpoint-6", "checkpoint-9", "checkpoint-12"]
    expected = api.drift(open_run(mine)).query("step == 12")
    assert latest.drifts(mine) == dict(zip(expected["part"], expected["relative_l2"], strict=True))


# --- locks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [True, False])
def test_who_trains_is_reported_without_a_lock(small_run, tmp_path, monkeypatch, kernel):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    if not kernel:
        monkeypatch.setattr(watcher, "LOCKS", tmp_path / "nowhere")
    (run / run_folder.LOCK).unlink()
    assert started(run) is None
    watched, before = RunWatcher(run), time.time()
    lock = Lock(run)
    assert started(run) == pytest.approx(before, abs=5)
    assert watched.poll().training and not watched.poll().finished
    lock.release()
    Lock(run).release()  # whoever looks on holds nothing
    if kernel:
        assert started(run) is None and watched.poll().finished
    else:  # a process that is no more
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        (run / run_folder.LOCK).write_text(f"{ended.pid}\n")
        assert started(run) is None
    for nonsense in ("", "x", "-1", "9" * 40):
        (run / run_folder.LOCK).write_text(nonsense)
        assert started(run) is None or nonsense == "-1"
    (run / run_folder.LOCK).unlink()
    os.mkfifo(run / run_folder.LOCK)
    assert started(run) is None
