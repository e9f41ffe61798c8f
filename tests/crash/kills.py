"""Kill a command again and again, at moments drawn with a seed, and tell what it left."""

import json
import signal
import time

from pli_train.core.run_format import run_folder
from tests.run_files import content

START_UP, STEP = 0.5, 0.15
"""About how many seconds a forked command takes to its first step, and for a step with its checkpoint."""


def progress(folder):
    """How many checkpoints there are."""
    return len(run_folder.checkpoints(folder)) if folder.exists() else 0


def command(toml, folder):
    """What a person would type: run what is not there yet, resume what is."""
    return ("resume", folder) if (folder / run_folder.RUN).exists() else ("run", toml, "-o", folder)


def content_and_record(run):
    """Everything of a run but its clocks and the command that began it."""
    record = json.loads((run / run_folder.RUN).read_text())
    return content(run) | {key: record[key] for key in ("config", "corpus", "seed", "total_steps", "versions")}


def kill_now_and_then(start, moments, folder, draw, start_up=START_UP):
    """Start, kill at each moment (a number of checkpoints), start again. Returns the progress at each kill."""
    killed_at = []
    for moment in moments:
        there = progress(folder)
        child = start()
        while child.running() and progress(folder) < moment:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, start_up if there >= moment else STEP))
        child.kill(signal.SIGKILL)
        if child.wait() == -signal.SIGKILL:
            killed_at.append(progress(folder))
        else:
            assert child.wait() == 0, child.errors
    return killed_at
