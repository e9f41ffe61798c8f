import errno
import fcntl
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pli_train.checkpointing.lock import Lock
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

HOLD = (
    "import sys, time; from pathlib import Path; from pli_train.checkpointing.lock import Lock\n"
    "held = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
)


def is_free(run: Path) -> bool:
    """Whether the system's own call gets the lock."""
    with (run / run_folder.LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_killed_process_lets_go(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        assert not is_free(tmp_path)
        with pytest.raises(BadInput, match=f"process {holder.pid} is training in it"):
            Lock(tmp_path)
        assert (tmp_path / run_folder.LOCK).read_text() == f"{holder.pid}\n"  # whoever was refused left it
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    Lock(tmp_path).release()


def test_a_second_lock_of_one_process_is_refused_until_the_first_is_gone(tmp_path):
    held = Lock(tmp_path)
    with pytest.raises(BadInput, match="is training in it"):
        Lock(tmp_path)
    held.release()
    held = Lock(tmp_path)
    del held
    assert is_free(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_trained_on_without_one(tmp_path, monkeypatch, number):
    def refuse(*message):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    Lock(tmp_path).release()
    Lock(tmp_path).release()
    assert all(stat.S_ISREG(path.stat().st_mode) for path in tmp_path.iterdir())
    assert [path.name for path in tmp_path.iterdir()] in ([], [run_folder.LOCK])
