"""The two commands as people use them: called, and held to one line where they refuse."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading

from tests.warm import PACKAGES, ROOT, warm


def call(program, *words, cwd=None, env=None, text=True):
    """Run a command in a fork of the warm process, its output in pipes; what it printed, and its exit code."""
    code, *printed = _printed([os.pipe() for _ in range(2)], program, *words, cwd=cwd, env=env)
    stdout, stderr = (message.decode() if text else message for message in printed)
    return subprocess.CompletedProcess([program, *words], code, stdout, stderr)


def at_a_terminal(program, *words, **environment):
    """(code, what stdout, what stderr got) of a command whose stdout and stderr are a terminal each, bars at once."""
    environment = {"TERM": "xterm-256color", "COLUMNS": "100", **environment}
    code, *printed = _printed([pty.openpty() for _ in range(2)], program, *words, env=environment, at_once=True)
    return code, *(message.decode() for message in printed)


def _printed(pairs, program, *words, **how):
    """Run a command in a fork, with streams of which we have one end each: its code, and what came out of them."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    theirs = [nothing, *(end for _, end in pairs)]
    child = warm().start(program, *words, streams=theirs, **how)
    for end in theirs:
        os.close(end)
    said = [bytearray(), bytearray()]
    readers = [threading.Thread(target=_read, args=pair) for pair in zip((end for end, _ in pairs), said, strict=True)]
    for reader in readers:
        reader.start()
    code = child.wait()
    for reader, (ours, _) in zip(readers, pairs, strict=True):
        reader.join()
        os.close(ours)
    return code, *map(bytes, said)


def _read(end, into):
    with contextlib.suppress(OSError):  # a terminal says so when nobody has the other side any more
        while segment := os.read(end, 65536):
            into.extend(segment)


def fresh(program, *words, env=None, **settings):
    """Run a command in an interpreter of its own, its output in bytes: for what hangs on how a process begins."""
    command = [sys.executable, "-m", f"{PACKAGES[program]}.cli", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
    return subprocess.run(command, capture_output=True, env=environment, **settings)


def heeds_ctrl_c():
    """To be called in a new process: tests that run in the background of a shell hand on that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def refused(done, message):
    """One clear line on stderr, exit 2, nothing on stdout."""
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()
