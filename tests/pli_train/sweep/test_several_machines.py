"""A study whose trials are in a database, run by several machines that share its folder."""

import shutil
import threading
import time
from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.engine import Engine

from pli_train.commands import sweep
from pli_train.core.errors import BadInput
from pli_train.core.run_format import study_folder
from pli_train.sweep import arms, database, space_reading, study
from pli_train.sweep.changes import base_config
from pli_train.sweep.confirmation import confirmation
from tests.sweeping import InProcess


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/trials.db"


@pytest.fixture
def on(monkeypatch):
    """Be a machine of this name."""
    return lambda name: monkeypatch.setattr(study.platform, "node", lambda: name)


@pytest.fixture(scope="module")
def grid(mini):
    return space_reading.from_grid(mini, ["growth.initializer=random,clone"], 1)


@pytest.fixture(scope="module", autouse=True)
def _no_syncing():
    """SQLite waits for the disk at each change; no power fails here."""

    def configure(connection, _):
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", configure)
    yield
    event.remove(Engine, "connect", configure)


@pytest.fixture(scope="module")
def finished(grid, tmp_path_factory):
    """The folder of a finished study of two trials, with its database beside it. Tests use copies."""
    folder, url = (made := tmp_path_factory.mktemp("finished")) / "study", f"sqlite:///{made}/trials.db"
    settings = study.Settings(grid, sampler="grid", baseline=False)
    sweep.sweep(settings, folder, 2, launcher := InProcess(), storage=url)
    assert launcher.started == ["growth-0000", "growth-0001"]
    return made


@pytest.fixture
def opened(finished, grid, url, tmp_path):
    """The finished study, opened as its coordinator does. It is closed after the test, or by it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    settings = study.Settings(grid, sampler="grid", baseline=False)
    opened = study.Study.open(tmp_path / "study", settings, base_config(grid).model_dump(mode="json"), url=url)
    yield opened
    opened.close()


class Lost(InProcess):
    """Its machine is lost when its first worker starts."""

    def start(self, task, slot):
        raise RuntimeError("lost")


def test_a_study_in_a_database_runs_and_goes_on(opened, sweep_of, grid, url):
    opened.close()
    assert not (opened.folder / study_folder.JOURNAL).exists()
    assert Counter(row["state"] for row in study_folder.trials(opened.folder)) == {"complete": 2}
    _, launcher, _ = sweep_of(grid, storage=url)
    assert launcher.started == []


def test_a_database_is_named_each_time_and_a_journal_stays_one(opened, sweep_of, grid, url, tmp_path):
    opened.close()
    with pytest.raises(BadInput, match=r"its trials are in sqlite:.*trials\.db; see --storage"):
        sweep_of(grid)
    with pytest.raises(RuntimeError, match="lost"):
        sweep_of(grid, tmp_path / "other", launcher=Lost())
    with pytest.raises(BadInput, match=r"its trials are in journal\.log; see --storage"):
        sweep_of(grid, tmp_path / "other", storage=url)


@pytest.mark.slow
def test_a_trial_of_a_lost_machine_is_taken_over_by_another_and_not_asked_for_again(
    sweep_of, grid, url, on, monkeypatch
):
    monkeypatch.setattr(database, "HEARTBEAT", 1)
    on("a")
    with pytest.raises(RuntimeError, match="lost"):
        sweep_of(grid, storage=url, launcher=Lost())
    on("b")
    began = time.monotonic()
    folder, launcher, _ = sweep_of(grid, storage=url)
    assert time.monotonic() - began > 2, "the machine was given time to be heard of"
    rows = study_folder.trials(folder)
    assert Counter(row["state"] for row in rows) == {"complete": 2}
    assert launcher.started == ["growth-0001", "growth-0000"]


def test_a_trial_of_the_same_machine_is_taken_over_at_once(sweep_of, grid, url, on):
    on("a")
    with pytest.raises(RuntimeError, match="lost"):
        sweep_of(grid, storage=url, launcher=Lost())
    _, launcher, _ = sweep_of(grid, storage=url)
    assert launcher.started == ["growth-0000", "growth-0001"]


def test_a_trial_that_another_machine_runs_is_left_to_it(sweep_of, grid, url, on, monkeypatch):
    """The second machine runs what is left, and waits for the first, which tells its result itself."""
    monkeypatch.setattr(database, "HEARTBEAT", 30)
    monkeypatch.setattr("pli_train.sweep.coordinator.WAIT", 0.05)
    on("a")
    with pytest.raises(RuntimeError, match="lost"):
        sweep_of(grid, storage=url, launcher=Lost())
    on("b")
    launcher, done = InProcess(), []
    second = threading.Thread(target=lambda: done.append(sweep_of(grid, storage=url, launcher=launcher)))
    second.start()
    storage = database.open_storage(url)
    (name,) = [found.study_name for found in storage.get_all_studies()]
    found = optuna.load_study(study_name=name, storage=storage)
    while sum(trial.state == TrialState.COMPLETE for trial in found.get_trials()) < 1:
        time.sleep(0.05)
    time.sleep(0.3)
    assert second.is_alive() and launcher.started == ["growth-0001"]
    found.tell(0, 1.5)
    second.join(timeout=30)
    assert not second.is_alive()
    assert launcher.started == ["growth-0001"]
    assert study_folder.trials(done[0][0])[0]["value"] == 1.5


def test_of_two_machines_that_ask_for_the_last_trial_the_later_one_drops_its(opened, sweep_of, grid, url):
    late = opened.ask("growth")  # as the last of two was missing when this machine counted
    assert opened.is_surplus("growth", late, 2)
    assert not opened.is_surplus("growth", opened.trials("growth")[1], 2)
    opened.close()
    folder, launcher, _ = sweep_of(grid, storage=url)
    assert launcher.started == []
    assert [row["number"] for row in study_folder.trials(folder)] == [0, 1]


def test_a_trial_too_many_of_a_machine_that_was_lost_before_it_dropped_it_is_not_run(opened, sweep_of, grid, url):
    opened.ask("growth")
    opened.close()
    folder, launcher, _ = sweep_of(grid, storage=url)
    assert launcher.started == []
    assert [row["number"] for row in study_folder.trials(folder)] == [0, 1]


def test_machines_that_confirm_at_once_take_different_seeds(opened, grid):
    again = confirmation(opened, arms.spaces(opened.settings, base_config(grid)), 3)
    asked = [opened.ask("confirm") for _ in range(3)]  # by three machines, before any of them has planned its own
    offsets = [again.propose(opened, trial).attributes["offset"] for trial in reversed(asked)]
    assert sorted(offsets) == [seed for _, _, seed in again.wanted]
