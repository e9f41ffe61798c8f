"""A process that has imported everything and forks a command, `pli-train` or `pli-analyze`, for each request.

A fresh interpreter spends seconds on imports before it does anything worth a test. This one spends them once: on each
request it forks a child that runs the real command from its first line on, with its own environment, folder and
streams. The parent itself never trains, so that the children inherit no thread and no
lock.

What hangs on the interpreter's own beginning needs a fresh one: locales, PYTHON… variables, OpenMP, what is imported.

Requests and answers are JSON, one a packet on a Unix socket: {"program": "pli-train", "words": [...], "env": {...},
"cwd": "path", "clock": seconds, "drift": seconds, "powerless": false, "at_once": false, "forks": false,
"machine": "name", "constants": {"module.NAME": value}}, with the three streams beside it, gets {"pid": n} at once;
{"wait": n} gets {"code": n} when that child has ended (negative: the signal).
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import itertools
import json
import os
import pkgutil
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {"pli-train": "pli_train", "pli-analyze": "pli_analysis"}
LIBRARIES = ("pandas", "plotly.graph_objects", "plotly.io", "scipy.optimize", "scipy.stats", "sklearn.manifold")
LIBRARIES += ("einops", "google_crc32c", "ml_dtypes", "pyarrow.parquet", "rich.live", "jinja2")
"""What commands import when they need it."""
LONGEST = 2**17
"""Bytes of a request; the environment is most of it."""


class Child:
    """A command that runs in a fork of the warm process."""

    def __init__(self, server, pid):
        self._server, self.pid, self._code = server, pid, None

    def kill(self, number):
        """Send a signal. The warm process reaps only on `wait`, so the id cannot have gone to somebody else."""
        os.kill(self.pid, number)

    def running(self):
        """Whether it has not ended yet: a zombie has."""
        with contextlib.suppress(OSError, IndexError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def wait(self):
        """Its exit code, negative when a signal ended it."""
        if self._code is None:
            self._code = self._server.ask({"wait": self.pid})["code"]
        return self._code


class Warm:
    """The warm process, from outside. It imports everything with these variables in its environment."""

    def __init__(self, **variables):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
            environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()])

    def ask(self, request, streams=()):
        socket.send_fds(self._socket, [json.dumps(request).encode()], streams)
        return json.loads(self._socket.recv(LONGEST))

    def start(self, program, *words, streams, cwd=None, env=None, **how):
        """Begin `program words…` with these file descriptors for stdin, stdout and stderr, and more variables in `env`.

        How else: its clock is `clock` seconds off, and `drift` more each time it is looked at. When `powerless`,
        permission bits bind it even if it is root. When `at_once`, its bars are drawn without the usual patience.
        When it `forks`, the workers of a study are forks of it. Its computer has the name `machine`, and `constants`
        replaces values in modules: {"pli_train.sweep.database.HEARTBEAT": 1}.
        """
        request = {"program": program, "words": [str(word) for word in words], "cwd": str(cwd or Path.cwd())}
        request |= {"env": os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}), **how}
        return Child(self, self.ask(request, streams)["pid"])


@functools.cache
def warm():
    """The warm process of this one. It ends with it, as the socket is closed then."""
    return Warm()


def _import_everything():
    from pli_train.core.cli import console

    console.configure()
    for name in PACKAGES.values():
        for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)
    import plotly.graph_objects as go
    import torch
    import torch.utils.tensorboard
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast  # noqa: F401

    torch.set_num_threads(1)
    tiny = {"vocab_size": 8, "num_hidden_layers": 1}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_embd=4, n_head=1, n_positions=4, **tiny))
    bert = {"hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 4}
    AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **bert, **tiny))
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    drawn = {"line": {"width": 1}, "marker": {"size": 1}, "hoverlabel": {"namelength": -1}}
    go.Figure([go.Scatter(x=[0.0], **drawn), go.Heatmap(z=[[0.0]]), go.Bar(x=[0.0])]).to_json()


def _be_the_command(request, streams):
    import torch

    from pli_train.core.cli import console
    from pli_train.core.run_format import faults

    # torch makes its pool of threads anew after a fork, when it is first asked for one, and two threads that ask at
    # once trip over each other ("Invalid thread pool!"): ask here, while there is one. Only these tests fork torch.
    torch.set_num_threads(1)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    added = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in added if path not in ("", *sys.path)]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (_stream(number) for number in range(3))
    sys.argv = [request["program"], *request["words"]]
    if request.get("clock") or request.get("drift"):
        true, reads = time.time, itertools.count()
        time.time = lambda: true() + request.get("clock", 0) + request.get("drift", 0) * next(reads)
    if request.get("powerless"):
        drop_capabilities()
    if request.get("at_once"):
        console.PATIENCE = 0
    if request.get("machine"):
        platform.node = lambda: request["machine"]
    for name, value in request.get("constants", {}).items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    if request.get("forks"):
        from tests import forked

        forked.install()
    faults.inject(os.environ.get("PLI_FAULT", ""))  # which it reads at process start
    code = 1
    try:
        importlib.import_module(f"{PACKAGES[request['program']]}.cli").main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        end_process(code)


def end_process(code):
    """End as an interpreter does, but for taking down all that was imported, which takes longer than most commands."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stream(number):
    """stdin, stdout or stderr as a new interpreter would open it."""
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0] or "utf-8"
    buffering = 1 if number == 2 or os.isatty(number) else -1
    return open(number, "w" if number else "r", buffering, encoding, closefd=False)


def drop_capabilities():
    """Linux: root without capabilities is a user like others, to whom its own files' permission bits apply."""
    version_3, this_process = 0x20080522, 0
    header, none = (ctypes.c_uint32 * 2)(version_3, this_process), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(header, none) == 0, os.strerror(ctypes.get_errno())


def serve(channel):
    """Answer requests until the other side is closed."""
    _import_everything()
    gc.freeze()  # so that children do not copy the memory of all that is loaded
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    while True:
        message, streams, _, _ = socket.recv_fds(channel, LONGEST, 3)
        if not message:
            return
        request, answer = json.loads(message), {}
        if "wait" in request:
            answer["code"] = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer["pid"] = os.fork()
            if answer["pid"] == 0:
                channel.close()
                _be_the_command(request, streams)
            for stream in streams:
                os.close(stream)
        channel.send(json.dumps(answer).encode())


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
