"""A study whose workers and coordinator are killed at any moment ends as one that nobody disturbed.

No trial is lost and none is run twice; each result is that of a `pli-train run` with its config, bit for bit.
PLI_KILLS says how many kills (50 if left out), PLI_KILLS_SEED which moments.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pli_train.config import loading
from pli_train.core.run_format import run_folder, study_folder
from pli_train.sweep.worker import is_training
from pli_train.training import launch
from tests.run_files import content
from tests.sweeping import write_config

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("PLI_KILLS", "50"))
SEED = int(os.environ.get("PLI_KILLS_SEED", "0"))
VARIANTS = "growth.initializer=random,clone,clone-noise,identity,average"
TRIALS = 40


@pytest.fixture(scope="module")
def command(corpus, tmp_path_factory):
    """A grid of 5 variants × 4 seeds, and as many trials of the baseline: 40 trials, four workers."""
    toml = write_config(tmp_path_factory.mktemp("config") / "mini.toml", corpus, growth={"noise": 0.1})
    return ["sweep", toml, "--grid", VARIANTS, "--seeds", 4, "--workers", 4]


def workers(study):
    """Process ids of the workers that hold the lock of their run."""
    found = {}
    for lock in (study / study_folder.RUNS).glob(f"*/{run_folder.LOCK}"):
        if is_training(lock.parent) and (text := lock.read_text().strip()):
            found[lock.parent.name] = int(text)
    return found


def check(study, tmp_path):
    """Forty trials, none lost, none twice, each equal to a run with its config that nobody killed."""
    rows = study_folder.trials(study)
    assert Counter(row["state"] for row in rows) == {"complete": TRIALS}
    assert Counter((row["arm"], row["number"]) for row in rows).most_common(1)[0][1] == 1
    variants = Counter(json.dumps([row["arm"], row["params"]], sort_keys=True) for row in rows)
    assert len(variants) == TRIALS and set(variants.values()) == {1}
    assert {path.name for path in (study / "runs").iterdir()} == {row["run"] for row in rows}
    for row in rows:
        undisturbed = tmp_path / "undisturbed" / row["run"]
        launch.begin(loading.load(str(study / "configs" / f"{row['run']}.toml")), undisturbed).run()
        expected, found = content(undisturbed), content(study / "runs" / row["run"])
        # A worker that is killed after its last checkpoint leaves what it would have removed of earlier ones.
        left = {name for name in found.keys() - expected.keys() if not name.startswith(f"checkpoint-{row['steps']}/")}
        assert {name: value for name, value in found.items() if name not in left} == expected
        last = expected[f"checkpoint-{row['steps']}/state"]
        assert row["value"] == last["log_history"][-1]["eval_loss_full"]


def test_four_workers_finish_forty_trials_each_as_by_itself(warm, command, tmp_path):
    study = tmp_path / "study"
    done = warm.start(*command, "-o", study, forks=True)
    assert done.wait() == 0, done.errors
    check(study, tmp_path)


def test_a_study_killed_at_random_moments_ends_as_the_undisturbed_one(warm, command, tmp_path):
    """Each kill is of the coordinator or of a worker, by lot, and counts only if it was what ended the process."""
    study, draw, struck = tmp_path / "study", random.Random(SEED), Counter()
    coordinator = warm.start(*command, "-o", study, forks=True)
    while struck.total() < KILLS:
        time.sleep(draw.uniform(0.0, 0.6))
        if not coordinator.running():
            assert coordinator.wait() == 0, coordinator.errors
            pytest.fail(f"the study was over after {struck.total()} kills")
        if draw.random() < 0.3:
            coordinator.kill(signal.SIGKILL)
            struck["coordinator"] += coordinator.wait() == -signal.SIGKILL
            coordinator = warm.start(*command, "-o", study, forks=True)
        elif there := workers(study):
            name, pid = draw.choice(sorted(there.items()))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            struck["worker"] += ended(study / study_folder.RUNS / name, pid)
    assert coordinator.wait() == 0, coordinator.errors
    print(f"\n{dict(struck)}", file=sys.stderr)
    assert min(struck["coordinator"], struck["worker"]) >= KILLS // 10
    check(study, tmp_path)


def ended(run, pid):
    """Wait until a process that was killed is gone; whether its run was not finished, so that the kill did hit."""
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
        time.sleep(0.001)
    total = run_folder.read_json(run / run_folder.RUN)["total_steps"] if (run / run_folder.RUN).exists() else -1
    return not (run / f"checkpoint-{total}").exists()


def test_ctrl_c_stops_workers_at_a_checkpoint_and_the_same_command_goes_on(warm, command, tmp_path):
    study = tmp_path / "study"
    for _ in range(3):
        coordinator = warm.start(*command, "-o", study, forks=True)
        before = finished(study)
        while finished(study) < before + 5 or not workers(study):
            assert coordinator.running(), coordinator.errors
            time.sleep(0.01)
        coordinator.kill(signal.SIGINT)
        assert coordinator.wait() == 130, coordinator.errors
        assert "run the same command to resume" in coordinator.errors
        assert "Traceback" not in coordinator.errors
        assert workers(study) == {}
    coordinator = warm.start(*command, "-o", study, forks=True)
    assert coordinator.wait() == 0, coordinator.errors
    check(study, tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB that a test can make larger: `small_disk(megabytes)`."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")

    def grow(megabytes):
        subprocess.run(["mount", "-o", f"remount,size={megabytes}m", folder], check=True)

    yield folder, grow
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_stops_the_study_with_one_line_and_it_goes_on_once_there_is_room(
    warm, command, tmp_path, small_disk
):
    folder, grow = small_disk
    for size in (3, 6, 12):
        grow(size)
        coordinator = warm.start(*command, "-o", folder / "study", forks=True)
        assert coordinator.wait() == 1, coordinator.errors
        last = coordinator.errors.splitlines()[-1]
        assert last.startswith("error: ") and ("disk is full" in last or "no space left" in last), coordinator.errors
        assert "failed" not in coordinator.errors and "Traceback" not in coordinator.errors
        assert not workers(folder / "study")
    grow(1000)
    coordinator = warm.start(*command, "-o", folder / "study", forks=True)
    assert coordinator.wait() == 0, coordinator.errors
    check(folder / "study", tmp_path)


def finished(study):
    if not (study / study_folder.TRIALS).exists():
        return 0
    return sum(row["state"] == "complete" for row in study_folder.trials(study))


def test_a_torn_journal_is_repaired_and_loses_no_finished_trial(warm, command, tmp_path):
    """The coordinator is killed, and the journal's last line is cut at a random byte, five times."""
    study, draw = tmp_path / "study", random.Random(SEED)
    journal = study / study_folder.JOURNAL
    for cut in range(1, 6):
        coordinator = warm.start(*command, "-o", study, forks=True)
        before = finished(study)
        while finished(study) < before + 3:
            assert coordinator.running(), coordinator.errors
            time.sleep(0.01)
        coordinator.kill(signal.SIGKILL)
        coordinator.wait()
        content = journal.read_bytes()
        last = len(content.splitlines(keepends=True)[-1])
        os.truncate(journal, len(content) - draw.randrange(1, last))
        assert len(list(study.glob("journal.log.cut-*"))) == cut - 1
    coordinator = warm.start(*command, "-o", study, forks=True)
    assert coordinator.wait() == 0, coordinator.errors
    assert "removed an incomplete line" in coordinator.errors
    assert len(list(study.glob("journal.log.cut-*"))) == 5
    check(study, tmp_path)
