"""Studies whose processes are killed: their workers, whether a kill hit, and what must have come of them."""

import functools
import json
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from pli_train.config import loading
from pli_train.core.run_format import run_folder, study_folder
from pli_train.sweep import objective
from pli_train.sweep.worker import is_training
from pli_train.training import launch
from tests.run_files import content
from tests.sweeping import write_config

INITIALIZERS = "growth.initializer=random,clone,clone-noise,identity,average"


def grid(folder, corpus, seeds):
    """The command of a study of 5 variants × so many seeds, and as many trials of the baseline; four workers."""
    toml = write_config(folder / "mini.toml", corpus, growth={"noise": 0.1})
    return ["sweep", toml, "--grid", INITIALIZERS, "--seeds", seeds, "--workers", 4]


def workers(study):
    """Process ids of the workers that hold the lock of their run."""
    found = {}
    for lock in (study / study_folder.RUNS).glob(f"*/{run_folder.LOCK}"):
        if is_training(lock.parent) and (text := lock.read_text().strip()):
            found[lock.parent.name] = int(text)
    return found


def kill_worker(study, name, pid):
    """Kill a worker; whether its run was not finished, so that the kill did hit."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
        time.sleep(0.001)
    run = study / study_folder.RUNS / name
    total = run_folder.read_json(run / run_folder.RUN)["total_steps"] if (run / run_folder.RUN).exists() else -1
    return not (run / f"checkpoint-{total}").exists()


def finished(study):
    """The number of runs of a study that are finished. Its table of trials is some seconds behind."""
    return sum(objective.is_finished(run) for run in (study / study_folder.RUNS).glob("*"))


def check(study, trials):
    """So many trials, none lost, none twice, each equal to a run with its config that nobody killed."""
    rows = study_folder.trials(study)
    assert Counter(row["state"] for row in rows) == {"complete": trials}
    assert Counter((row["arm"], row["number"]) for row in rows).most_common(1)[0][1] == 1
    variants = Counter(json.dumps([row["arm"], row["params"]], sort_keys=True) for row in rows)
    assert len(variants) == trials and set(variants.values()) == {1}
    assert {path.name for path in (study / "runs").iterdir()} == {row["run"] for row in rows}
    for row in rows:
        expected, found = undisturbed((study / "configs" / f"{row['run']}.toml").read_text()), _content(study, row)
        # A worker that is killed after its last checkpoint leaves what it would have removed of earlier ones.
        left = {name for name in found.keys() - expected.keys() if not name.startswith(f"checkpoint-{row['steps']}/")}
        assert {name: value for name, value in found.items() if name not in left} == expected
        last = expected[f"checkpoint-{row['steps']}/state"]
        assert row["value"] == last["log_history"][-1]["eval_loss_full"]


def _content(study, row):
    return content(study / study_folder.RUNS / row["run"])


@functools.cache
def undisturbed(config):
    """What the run of a config writes when nobody kills it. Its trial has the same config in each of these studies."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "run.toml").write_text(config)
        launch.begin(loading.load(str(Path(name) / "run.toml")), Path(name) / "run").run()
        return content(Path(name) / "run")
