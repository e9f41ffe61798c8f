"""A process that has imported everything and forks a `pli-train` for each line it reads.

A new interpreter needs seconds for imports before it reaches code worth killing. This process imports once: for each
request it forks a child that runs the real command from its first line, with one thread of torch. The parent itself
never trains, so the children inherit no threads and no locks.

Request, one JSON object per line: {"argv": [...], "env": {...}, "stderr": "path", "clock": seconds,
"drift": seconds, "powerless": false}.

Answers, one per line: {"pid": n} at once, and {"code": n} when that child has ended (negative: the signal).
"""

import contextlib
import ctypes
import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path


class Child:
    """A `pli-train` that runs in a fork of the warm process."""

    def __init__(self, server, pid, errors):
        self._server, self.pid, self._errors, self._code = server, pid, errors, None

    def kill(self, number):
        """Send a signal. The warm process reaps children only on `wait`, so no other process can have this id."""
        os.kill(self.pid, number)

    def running(self):
        """Return whether it has not ended yet. A zombie has ended."""
        with contextlib.suppress(OSError, IndexError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def wait(self):
        """Return its exit code, negative when a signal ended it."""
        if self._code is None:
            self._code = self._server.ask({"wait": self.pid})["code"]
        return self._code

    @property
    def errors(self):
        """Its output on stderr."""
        return self._errors.read_text()


class Warm:
    """Client of the warm process."""

    def __init__(self, folder):
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.warm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask({})

    def ask(self, request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, *argv, env=None, clock=0.0, drift=0.0, powerless=False):
        """Start `pli-train argv…` with these environment variables.

        Its clock is off by `clock` seconds, and by `drift` more each time it is read. If `powerless`, file permissions
        apply to it even if it is root.
        """
        self._count += 1
        errors = self._folder / f"stderr-{self._count}"
        request = {"argv": [str(arg) for arg in argv], "env": env or {}, "stderr": str(errors)}
        request |= {"clock": clock, "drift": drift, "powerless": powerless}
        return Child(self, self.ask(request)["pid"], errors)

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def _import_everything():
    from pli_train.core.cli import console

    console.configure()
    import torch
    import torch.utils.tensorboard
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast  # noqa: F401

    from pli_train.training import launch  # noqa: F401

    torch.set_num_threads(1)
    tiny = {"vocab_size": 8, "num_hidden_layers": 1}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_embd=4, n_head=1, n_positions=4, **tiny))
    bert = {"hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 4}
    AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **bert, **tiny))
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


def _be_the_command(request):
    import torch

    from pli_train import cli
    from pli_train.core.run_format import faults

    # After a fork torch creates its thread pool again on first use, and if two threads use it at once this fails
    # ("Invalid thread pool!"): use it here, in the only thread. Only these tests fork torch.
    torch.set_num_threads(1)
    os.environ.update(request["env"])
    errors = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdin.close()
    sys.argv = ["pli-train", *request["argv"]]
    if request["clock"] or request["drift"]:
        true, reads = time.time, itertools.count()
        time.time = lambda: true() + request["clock"] + request["drift"] * next(reads)
    if request["powerless"]:
        drop_capabilities()
    importlib.reload(faults)  # it reads PLI_FAULT at process start
    code = 1
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def drop_capabilities():
    """Drop all capabilities of this process (Linux), so that file permissions apply to root."""
    version_3, this_process = 0x20080522, 0
    header, none = (ctypes.c_uint32 * 2)(version_3, this_process), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(header, none) == 0, os.strerror(ctypes.get_errno())


def serve():
    """Fork a command for each line on stdin."""
    answers = os.fdopen(os.dup(1), "w")
    _import_everything()
    for line in sys.stdin:
        request, answer = json.loads(line), {}
        if "wait" in request:
            answer["code"] = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif "argv" in request:
            answer["pid"] = os.fork()
            if answer["pid"] == 0:
                answers.close()
                _be_the_command(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
