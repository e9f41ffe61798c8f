"""A run watched at the keyboard: what is drawn, and how it ends."""

import math
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from pli_analysis.watch import screen
from pli_analysis.watch.frame import Frame, Growth
from pli_analysis.watch.watcher import RunWatcher
from pli_train.checkpointing.lock import Lock
from tests.commands import call, heeds_ctrl_c, refused
from tests.warm import ROOT
from tests.watched import content, printed, sorted_by_step

HOSTILE = "[red]<script>\x1b[31m\u202e"


def test_nothing_that_a_run_says_is_obeyed_by_a_terminal():
    shown = Frame(
        HOSTILE,
        step=1,
        total=3,
        stack=(HOSTILE,),
        norms={HOSTILE: math.inf},
        drift={HOSTILE: math.nan},
        growth=(Growth(1, HOSTILE, 1.0, None),),
        checkpoint=HOSTILE,
        notes=(HOSTILE,),
        losses=np.array([math.nan, 1e308, -1e308, math.inf, 1e308]),
        rate=math.nan,
    )
    text = printed(shown, 200)
    assert "\x1b" not in text and "\u202e" not in text
    assert text.count("[red]<script>�[31m�") == 7


@pytest.mark.parametrize("layers", [1, 12, 13, 48])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_any_number_of_layers_is_drawn_with_the_bottom_below_the_top(layers, width):
    from pli_train.core.lineage import layer_id

    ids = [layer_id(number) for number in range(layers)]
    measured = {id: number / 7 for number, id in enumerate(ids)}
    shown = Frame("run", stack=tuple(ids), norms=measured, drift=measured, born=dict.fromkeys(ids, 5))
    lines = printed(shown, width).splitlines()
    assert all(len(line) <= width for line in lines)
    rows = {
        id: next((n for n, line in enumerate(lines) if f"{position} {id} " in line), None)
        for position, id in enumerate(ids)
    }
    assert None not in rows.values()
    top = ids[-min(layers, screen.ROWS) :]
    assert [rows[id] for id in top] == sorted((rows[id] for id in top), reverse=True)


def test_the_words_of_a_frame_are_its_numbers():
    shown = Frame("run", step=50, total=200, training=True, left=312.0, losses=np.full(30, 2.5), rate=1234.5)
    text = printed(replace(shown, losses=np.append(np.full(30, 9.0), np.full(20, 2.5))))
    assert "50 of 200" in text and "25%" in text and "5 min 12 s left" in text
    assert "1,234 tokens/s" in text and "2.500  " in text
    assert "left" not in printed(replace(shown, training=False))


# --- at the keyboard ------------------------------------------------------------------------------------------------


def test_once_prints_a_frame_and_touches_nothing(mine):
    before = content(mine)
    done = call("pli-analyze", "watch", mine, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    assert "finished" in done.stdout and "12 of 12" in done.stdout and "+c +d" in done.stdout
    assert "\x1b" not in done.stdout
    assert content(mine) == before
    assert call("pli-analyze", "watch", mine).stdout == done.stdout, "a pipe is no terminal to draw on"


def test_misuse_is_one_line(mine, tmp_path):
    refused(call("pli-analyze", "watch", tmp_path / "nowhere"), "no such folder")
    refused(call("pli-analyze", "watch", mine / "checkpoint-12"), "its parent is a run: use that")
    refused(call("pli-analyze", "watch", "--once", "--serve", mine), "use one of them")
    refused(call("pli-analyze", "watch", mine, "--every", "0"), "--every")


def on_terminal(*words):
    """`pli-analyze` on a terminal of its own: (process, what gives its output up to now)."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    command = [sys.executable, "-m", "pli_analysis.cli", *map(str, words)]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
        preexec_fn=heeds_ctrl_c,
    )
    os.close(theirs)
    said = bytearray()

    def read():
        while True:
            try:
                segment = os.read(ours, 65536)
            except OSError:  # nobody has the other side any more
                break
            if not segment:
                break
            said.extend(segment)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()

    def output(ended=False):
        if ended:
            reading.join(20)
            os.close(ours)
        return said.decode(errors="replace")

    return process, output


def restored(said):
    """Whether the terminal has its own screen and its cursor again."""
    return said.rfind("\x1b[?1049l") > said.rfind("\x1b[?1049h") >= 0 and said.rfind("\x1b[?25h") > said.rfind(
        "\x1b[?25l"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_ctrl_c_ends_it_and_gives_the_terminal_back(mine, stop, code):
    shutil.rmtree(mine / "checkpoint-12")
    lock = Lock(mine)  # somebody trains, so that it does not end by itself
    process, output = on_terminal("watch", mine, "--every", "0.1")
    while output().count("12 of 12") < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(stop)
    assert process.wait(20) == code
    assert restored(output(ended=True)) and process.stderr.read() == b""
    lock.release()


def test_it_ends_with_the_run_and_leaves_the_last_frame(mine):
    process, output = on_terminal("watch", mine)
    assert process.wait(60) == 0
    said = output(ended=True)
    assert restored(said) and process.stderr.read() == b""
    assert "finished" in said[said.rfind("\x1b[?1049l") :] and "drift" in said[said.rfind("\x1b[?1049l") :]


def test_a_run_is_watched_from_its_first_moment_to_its_end(config_of, tmp_path):
    from pli_train.training import launch

    run = tmp_path / "run"
    # Only the newest checkpoints stay, so that some vanish while they are looked at.
    config = config_of("gpt2", {"train.steps": 24, "checkpoint.every": 1, "checkpoint.keep": 2})
    trainer = launch.begin(config, run)
    training = threading.Thread(target=trainer.run)
    watched, frames = RunWatcher(run), []
    frames.append(watched.poll())
    training.start()
    while training.is_alive():
        frames.append(watched.poll())
        printed(frames[-1])
        time.sleep(0.02)
    frames.append(sorted_by_step(watched))
    steps = [shown.step for shown in frames]
    assert steps == sorted(steps) and len(set(steps)) > 5
    assert frames[0].checkpoint is None and any(shown.training for shown in frames)
    assert any(shown.left for shown in frames if shown.training)
    last = frames[-1]
    assert (last.finished, last.checkpoint, last.notes) == (True, "checkpoint-24", ())
    assert len(last.stack) == 5 and last.drift.keys() == set(last.stack) and last.drift_at == "checkpoint-24"
    for shown in frames:
        assert shown.losses.tolist() == last.losses[: len(shown.losses)].tolist()
        assert all("drift at" in note or "trying again" in note for note in shown.notes)
