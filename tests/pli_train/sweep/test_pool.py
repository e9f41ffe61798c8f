"""The pool of workers: what it does with tasks that run, end, fail and are killed, without training anything."""

import signal

import pytest

from pli_train.sweep import pool, worker_ends
from pli_train.sweep.worker import Task
from tests.sweeping import Ended


class Scripted:
    """Starts workers that end with the next code of their task; the task is done with code 0."""

    threads = 1

    def __init__(self, codes, done, slots=2):
        self.codes, self._done, self.slots = codes, done, slots
        self.started = []

    def start(self, task, slot):
        self.started.append((task.name, slot))
        code = self.codes[task.name].pop(0)
        if code == 0:
            self._done.add(task.name)
        return code if hasattr(code, "poll") else Ended(code)


@pytest.fixture
def done(monkeypatch, tmp_path):
    """The names of the tasks that are done."""
    names = set()
    monkeypatch.setattr(pool, "is_done", lambda task: task.name in names)
    monkeypatch.setattr(pool, "POLL", 0)
    (tmp_path / "logs").mkdir()
    return names


def tasks(folder, *names):
    return [Task(folder, name, 1, 5) for name in names]


def test_each_task_is_done_once_and_killed_workers_start_again(done, tmp_path):
    done.add("old")
    launcher = Scripted({"a": [0], "b": [-9, 143, 0], "c": [0]}, done)
    assert pool.Pool(launcher).run(tasks(tmp_path, "old", "a", "b", "c")) == {}
    assert [name for name, _ in launcher.started].count("b") == 3
    assert {name for name, _ in launcher.started} == {"a", "b", "c"} and done == {"old", "a", "b", "c"}


def test_a_failed_task_is_returned_with_the_last_line_of_its_log(done, tmp_path):
    (tmp_path / "logs/a.log").write_text("something\nerror: the loss is nan\n")
    said = []
    launcher = Scripted({"a": [1], "b": [0]}, done)
    assert pool.Pool(launcher, said.append).run(tasks(tmp_path, "a", "b")) == {"a": "the loss is nan"}
    assert said == ["a: failed: the loss is nan"]


def test_a_task_whose_worker_is_killed_again_and_again_fails(done, tmp_path):
    launcher = Scripted({"a": [-9] * worker_ends.DEATHS}, done)
    (error,) = pool.Pool(launcher).run(tasks(tmp_path, "a")).values()
    assert f"killed {worker_ends.DEATHS} times at the same checkpoint (exit code -9)" in error


def test_a_request_to_stop_reaches_the_workers_and_no_further_task_starts(done, tmp_path):
    class Running:
        """Runs until it gets a signal; asks the program to stop when it is first polled."""

        def __init__(self):
            self.polls, self.signals = 0, []

        def poll(self):
            self.polls += 1
            if self.polls == 1:
                signal.raise_signal(signal.SIGTERM)
            return 143 if self.signals else None

        def signal(self, number):
            self.signals.append(number)

    worker, said = Running(), []
    launcher = Scripted({"a": [worker], "b": [0]}, done, slots=1)
    with pytest.raises(worker_ends.Interrupted, match="run the same command to resume"):
        pool.Pool(launcher, said.append).run(tasks(tmp_path, "a", "b"))
    assert [name for name, _ in launcher.started] == ["a"]
    assert worker.signals == [signal.SIGTERM] and said[0].startswith("stopping: ")


def test_a_full_disk_stops_everything(done, tmp_path):
    (tmp_path / "logs/a.log").write_text("error: no space left on device\n")
    with pytest.raises(worker_ends.PliError, match="disk is full"):
        pool.Pool(Scripted({"a": [1]}, done)).run(tasks(tmp_path, "a"))
