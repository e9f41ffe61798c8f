"""Workers of a study that are forks of their coordinator, which has imported everything.

They take the place of `subprocess.Popen` in the local launcher: same files, same environment, a session of their own,
and no other open file.
"""

import contextlib
import os
import signal
import subprocess
import sys
import types

from pli_train import cli
from pli_train.sweep.launchers import local


class ForkedProcess:
    """A `python -m pli_train …` that needs no new interpreter."""

    def __init__(self, command, stdin, stdout, stderr, env, start_new_session):
        assert command[:3] == [sys.executable, "-m", "pli_train"] and stdout is stderr and start_new_session
        self._code = None
        self.pid = os.fork()
        if self.pid == 0:
            _work(command[3:], stdout.fileno(), env)

    def poll(self):
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def _work(words, log, env):
    import torch

    torch.set_num_threads(1)  # see tests/warm.py: its pool of threads does not survive a fork
    code = 1
    try:
        os.setsid()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, 4096)  # the study's lock among them
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.environ.update(env)
        sys.argv = ["pli-train", *words]
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def install():
    """Make the local launcher fork."""
    local.subprocess = types.SimpleNamespace(Popen=ForkedProcess, DEVNULL=subprocess.DEVNULL)
