"""The database of a study: what it says where it cannot be used, and a study that outlasts a restart of it."""

import sys
import threading
from collections import Counter

import pytest

from pli_train.core.errors import BadInput, PliError
from pli_train.core.run_format import study_folder
from pli_train.sweep import coordinator, database
from tests.postgres import GUARDED, PASSWORD
from tests.sweeping import InProcess


def refused(url):
    with pytest.raises(BadInput) as error:
        database.open_storage(url)
    (line,) = error.value.mistakes
    assert "\n" not in line
    return line


def test_a_password_is_not_shown():
    assert database.without_password("postgresql+psycopg://me:secret@host/db") == "postgresql+psycopg://me:***@host/db"
    assert refused("nonsense").startswith("--storage nonsense: not a database URL")
    assert refused("postgresql+psycopg//me:secret@host/db").startswith("--storage postgresql+psycopg//me:***@host/db: ")


def test_a_database_out_of_reach_is_one_clear_line(tmp_path):
    line = refused(f"sqlite:///{tmp_path}/no/such/folder/db")
    assert line.startswith("--storage sqlite:") and "cannot be reached (unable to open database file)" in line


def test_a_missing_driver_is_one_clear_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    line = refused("postgresql+psycopg://me:secret@127.0.0.1:1/none")
    assert line.startswith("--storage postgresql+psycopg://me:***@127.0.0.1:1/none: ")
    assert line.endswith("pip install 'pli[postgres]', and begin the URL with postgresql+psycopg://")


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def test_no_server_and_no_such_database_are_one_clear_line(postgres):
    absent = postgres.url(database="absent")
    assert 'database "absent" does not exist' in refused(absent)
    line = refused(absent.replace(f":{postgres.port}/", ":1/"))
    assert "cannot be reached (connection failed: connection to server" in line and "Connection refused" in line


def test_a_wrong_password_is_one_clear_line_without_it(postgres):
    postgres.guard()
    line = refused(postgres.url(f"{GUARDED}:wrong-one"))
    assert f"{GUARDED}:***@" in line and "wrong-one" not in line
    assert f'password authentication failed for user "{GUARDED}"' in line


class Separate(InProcess):
    """Its workers have a command line of their own, as processes have."""

    def start(self, task, slot):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", task.command())
            return super().start(task, slot)


def test_no_file_of_a_study_has_the_password(sweep_of, postgres, monkeypatch):
    postgres.guard()
    url = postgres.url(f"{GUARDED}:{PASSWORD}")
    monkeypatch.setattr(sys, "argv", ["pli-train", "sweep", "tiny", f"--storage={url}"])
    folder, _, said = sweep_of(storage=url, launcher=Separate())
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
    assert not any(PASSWORD in line for line in said)
    assert study_folder.read(folder)["command"][-1].startswith(f"--storage=postgresql+psycopg://{GUARDED}:***@")


def test_machines_that_create_the_tables_at_once_all_open_the_database(postgres):
    url, start = postgres.url(), threading.Barrier(6)
    opened = []

    def open_it():
        start.wait()
        opened.append(database.open_storage(url))

    machines = [threading.Thread(target=open_it) for _ in range(start.parties)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join()
    assert len(opened) == start.parties
    assert opened[0].get_all_studies() == []


class Outage(InProcess):
    """The database stops while its first worker trains."""

    def __init__(self, postgres):
        super().__init__()
        self._postgres = postgres

    def start(self, task, slot):
        if not self.started:
            self._postgres.stop()
        return super().start(task, slot)


@pytest.mark.slow
def test_a_study_goes_on_after_the_database_was_restarted(sweep_of, postgres, monkeypatch):
    monkeypatch.setattr(coordinator, "WAIT", 0.05)
    launcher, failed = Outage(postgres), "the database failed ("

    def start_again(line):
        if line.startswith(failed):
            postgres.start()

    folder, _, said = sweep_of(storage=postgres.url(), launcher=launcher, on_line=start_again)
    assert launcher.started == ["growth-0000", "growth-0001"], "no trial is run twice"
    assert Counter(row["state"] for row in study_folder.trials(folder)) == {"complete": 2}
    assert sum(line.startswith(failed) for line in said) == said.count("the database works again") == 1


@pytest.mark.slow
def test_a_database_that_stays_down_stops_the_study_with_one_line_and_it_can_be_resumed(
    sweep_of, postgres, monkeypatch
):
    monkeypatch.setattr(coordinator, "WAIT", 0.05)
    monkeypatch.setattr(coordinator, "OUTAGE", 0.2)
    url = postgres.url()
    first = Outage(postgres)
    try:
        with pytest.raises(PliError, match=r"^the database of the study failed \(.*\); when it is up, run the same"):
            sweep_of(storage=url, launcher=first)
    finally:
        postgres.start()
    folder, second, _ = sweep_of(storage=url)
    assert first.started + second.started == ["growth-0000", "growth-0001"], "the first was finished meanwhile"
    assert Counter(row["state"] for row in study_folder.trials(folder)) == {"complete": 2}
