"""The journal: read while it is written, repaired where it is torn, whole where a disk is full."""

import errno
import json
import os
import warnings

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pli_train.core.errors import BadInput, PliError
from pli_train.sweep import journal


@pytest.fixture
def path(tmp_path):
    """A journal with three trials, written by our backend."""
    path = tmp_path / "journal.log"
    study = optuna.create_study(study_name="s", storage=JournalStorage(journal.Journal(path)))
    for number in range(3):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        study.tell(trial, float(number))
    return path


def values(path):
    """The values of all trials, as Optuna's own backend reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))
    return [trial.value for trial in study.trials]


def ours(path):
    study = optuna.load_study(study_name="s", storage=JournalStorage(journal.Journal(path)))
    return [trial.value for trial in study.trials]


def test_optunas_own_backend_reads_what_ours_writes(path):
    assert values(path) == ours(path) == [0.0, 1.0, 2.0]


def test_a_torn_last_line_is_passed_over_by_readers_and_cut_off_by_repair(path):
    whole, said = path.read_bytes(), []
    last = len(whole.splitlines(keepends=True)[-1])
    for kept in range(1, last):
        path.write_bytes(whole[: len(whole) - last + kept])
        assert ours(path) == [0.0, 1.0, None]
    journal.repair(path, said.append)
    assert path.read_bytes() == whole[: len(whole) - last]
    assert path.with_name("journal.log.cut-1").read_bytes() == whole[len(whole) - last : -1]
    assert len(said) == 1 and "kept in journal.log.cut-1" in said[0]
    assert values(path) == [0.0, 1.0, None]


def test_a_whole_journal_is_not_touched(path, tmp_path):
    before = path.stat()
    journal.repair(path)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert list(tmp_path.iterdir()) == [path]
    journal.repair(tmp_path / "none.log")


def test_an_entry_appended_to_a_torn_line_is_kept(path):
    """As another writer leaves it that appends without looking."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[0][:10] + lines[-1])
    journal.repair(path)
    assert path.read_bytes() == b"".join(lines)
    assert path.with_name("journal.log.cut-1").read_bytes() == lines[0][:10] + b"\n"


def test_damage_in_the_middle_is_one_clear_line(path):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"\0" * 20 + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(BadInput, match=r"journal\.log: line 3 is damaged"):
        journal.repair(path)
    with pytest.raises(BadInput, match=r"journal\.log: line 3 is damaged"):
        ours(path)
    assert path.read_bytes() == b"".join(lines)


def test_a_write_that_finds_no_room_leaves_the_journal_as_it_was(path, monkeypatch):
    """The disk takes half of an entry; the next writer finds whole lines only."""
    before, fsync = path.read_bytes(), os.fsync

    def full(descriptor):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 5)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    study = optuna.load_study(study_name="s", storage=JournalStorage(journal.Journal(path)))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PliError, match=r"not written \(no space left on device\); fix this, then run the same"):
        study.ask()
    monkeypatch.setattr(os, "fsync", fsync)
    assert path.read_bytes() == before
    study.ask()
    assert values(path) == [0.0, 1.0, 2.0, None]


def test_a_reader_sees_what_was_appended_since(path):
    study = optuna.load_study(study_name="s", storage=JournalStorage(journal.Journal(path)))
    assert len(study.trials) == 3
    other = optuna.load_study(study_name="s", storage=JournalStorage(journal.Journal(path)))
    other.tell(other.ask(), 7.0)
    assert study.trials[-1].value == 7.0
    assert all(json.loads(line) for line in path.read_text().splitlines())
