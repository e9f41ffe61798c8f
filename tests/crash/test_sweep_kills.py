"""A study whose workers and coordinator are killed at any moment ends as one that nobody disturbed.

No trial is lost and none is run twice; each result is that of a `pli-train run` with its config, bit for bit.
PLI_KILLS says how many kills (50 if left out), PLI_KILLS_SEED which moments.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from pli_train.core.run_format import study_folder
from tests.crash.studies import check, finished, grid, kill_worker, workers

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("PLI_KILLS", "50"))
SEED = int(os.environ.get("PLI_KILLS_SEED", "0"))
TRIALS = 40


@pytest.fixture(scope="module")
def command(corpus, tmp_path_factory):
    """A grid of 5 variants × 4 seeds, and as many trials of the baseline: 40 trials, four workers."""
    return grid(tmp_path_factory.mktemp("config"), corpus, seeds=4)


def test_four_workers_finish_forty_trials_each_as_by_itself(warm, command, tmp_path):
    study = tmp_path / "study"
    done = warm.start(*command, "-o", study, forks=True)
    assert done.wait() == 0, done.errors
    check(study, TRIALS)


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
            struck["worker"] += kill_worker(study, *draw.choice(sorted(there.items())))
    assert coordinator.wait() == 0, coordinator.errors
    print(f"\n{dict(struck)}", file=sys.stderr)
    assert min(struck["coordinator"], struck["worker"]) >= KILLS // 10
    check(study, TRIALS)


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
    check(study, TRIALS)


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
    check(folder / "study", TRIALS)


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
    check(study, TRIALS)
