"""Two machines run a study on PostgreSQL, and machines, coordinators, workers and the database die at any moment.

A machine is a coordinator with a name of its own. No trial is lost and none is run twice; each result is that of a
`pli-train run` with its config, bit for bit. By default twenty trials and ten kills (ten trials where nothing or only a
machine dies); PLI_KILLS=50 makes it forty trials and fifty kills, PLI_KILLS_SEED says which moments.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pli_train.core.run_format import study_folder
from tests.crash.studies import check, grid, kill_worker, workers

pytestmark = pytest.mark.crash

FEW, MANY = (40, 40) if "PLI_KILLS" in os.environ else (10, 20)
"""Numbers of trials."""
KILLS = int(os.environ.get("PLI_KILLS", "10"))
SEED = int(os.environ.get("PLI_KILLS_SEED", "0"))
CONSTANTS = {"pli_train.sweep.database.HEARTBEAT": 1, "pli_train.sweep.coordinator.WAIT": 0.2}


class Machine:
    """A coordinator in a process of its own, and the workers that it starts."""

    def __init__(self, warm, command, study, name):
        self.name, self._study = name, study
        self._begin = lambda: warm.start(*command, "-o", study, forks=True, machine=name, constants=CONSTANTS)
        self.coordinator = self._begin()

    def kill_coordinator(self):
        """Kill the coordinator alone; whether that was what ended it."""
        self.coordinator.kill(signal.SIGKILL)
        return self.coordinator.wait() == -signal.SIGKILL

    def restart(self):
        self.coordinator = self._begin()

    def workers(self):
        """Run → process id of the workers that this coordinator started."""
        return {name: pid for name, pid in workers(self._study).items() if parent(pid) == self.coordinator.pid}

    def keep_running(self):
        """Start the coordinator again if it began while the database was down, as a person would."""
        if not self.coordinator.running() and "cannot be reached" in self.coordinator.errors:
            self.restart()

    def lose(self):
        """Kill the coordinator and its workers; the number of kills that hit."""
        there = self.workers()
        return self.kill_coordinator() + sum(kill_worker(self._study, *worker) for worker in there.items())


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


@pytest.fixture
def study(tmp_path):
    return tmp_path / "study"


@pytest.fixture
def begin(warm, corpus, postgres, tmp_path, study):
    """Start a machine: `begin("a", 10)`. All of them run the same study of so many trials."""
    url = postgres.url()

    def start(name, trials):
        return Machine(warm, [*grid(tmp_path, corpus, trials // 10), "--storage", url], study, name)

    return start


def test_two_machines_finish_all_trials_each_as_by_itself(begin, study):
    """They start at the same moment, on a database without tables."""
    machines = [begin(name, FEW) for name in "ab"]
    for machine in machines:
        assert machine.coordinator.wait() == 0, machine.coordinator.errors
        assert "Traceback" not in machine.coordinator.errors
    check(study, FEW)
    said = [{line.split(":")[0] for line in machine.coordinator.errors.splitlines()} for machine in machines]
    own = [{row["run"] for row in study_folder.trials(study)} & lines for lines in said]
    assert all(own), "both did a part"


def test_a_study_whose_machines_workers_and_database_die_ends_as_the_undisturbed_one(begin, study, postgres):
    """Machine b dies for good half-way. Before and after, kills are of coordinators and workers, by lot; the database
    is restarted twice. A kill counts only if it was what ended the process."""
    draw, struck = random.Random(SEED), Counter()
    machines, restarts = [begin("a", MANY), begin("b", MANY)], [KILLS // 3, 2 * KILLS // 3]
    while struck.total() < KILLS:
        time.sleep(draw.uniform(0.0, 0.6))
        while not (there := workers(study)):  # each kill is while a trial runs
            for machine in machines:
                machine.keep_running()
                assert machine.coordinator.running(), f"over after {struck}: {machine.coordinator.errors}"
            time.sleep(0.01)
        if restarts and struck.total() >= restarts[0]:
            restarts.pop(0)
            postgres.stop()
            time.sleep(draw.uniform(0.0, 1.0))
            postgres.start()
        elif len(machines) == 2 and struck.total() >= KILLS // 2:
            struck["machine"] += machines.pop().lose()
        elif draw.random() < 0.3:
            machine = draw.choice(machines)
            struck["coordinator"] += machine.kill_coordinator()
            machine.restart()
        else:
            struck["worker"] += kill_worker(study, *draw.choice(sorted(there.items())))
    machines[0].keep_running()
    assert machines[0].coordinator.wait() == 0, machines[0].coordinator.errors
    assert "Traceback" not in machines[0].coordinator.errors
    print(f"\n{dict(struck)}", file=sys.stderr)
    assert min(struck["coordinator"], struck["worker"]) >= KILLS // 10 and struck["machine"] >= 1
    check(study, MANY)


def test_trials_of_a_machine_that_is_lost_are_finished_by_the_other(begin, study):
    first, second = begin("a", FEW), begin("b", FEW)
    while not (left := first.workers()):
        assert first.coordinator.running(), first.coordinator.errors
        time.sleep(0.01)
    assert first.lose() > 1
    assert second.coordinator.wait() == 0, second.coordinator.errors
    check(study, FEW)
    assert left.keys() <= {line.split(":")[0] for line in second.coordinator.errors.splitlines()}
