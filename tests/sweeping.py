"""Studies of tiny runs for tests: their config, and workers that need no new process."""

import tomli_w

from pli_train.config import loading
from pli_train.core.errors import PliError
from pli_train.core.run_format import run_folder
from pli_train.sweep.worker import FoundWorker, claim
from pli_train.training import launch


def write_config(path, corpus, **sections):
    """Write the config of a run that grows from 1 to 3 layers in 12 steps. Returns its path as text."""
    table = {
        "model": {"family": "gpt2", "config": {"n_embd": 16, "n_head": 2, "n_positions": 32}, "initial_layers": 1},
        "tokenizer": {"vocab_size": 300},
        "data": {"source": str(corpus), "test_share": 0.2},
        "train": {"steps": 12, "block_size": 16, "batch_size": 4, "log_every": 1, "eval_every": 2, "eval_blocks": 4},
        "optim": {"lr": 1e-2},
        "growth": {"schedule": "0.25@1 0.5@1"},
    }
    for name, section in sections.items():
        table[name] = {**table[name], **section}
    path.write_text(tomli_w.dumps(table))
    return str(path)


class Ended:
    """A worker that has ended."""

    def __init__(self, code):
        self._code = code

    def poll(self):
        return self._code

    def signal(self, number):
        raise AssertionError("it has ended")


class InProcess:
    """Does a task in this process, start to end, and keeps the names of all tasks in the order they were started."""

    slots, threads = 1, 1

    def __init__(self):
        self.started = []

    def start(self, task, slot):
        self.started.append(task.name)
        log = claim(task)
        if log is None:
            return FoundWorker(task)
        with log:
            try:
                if (task.run / run_folder.RUN).is_file():
                    launch.resume(loading.of_run(task.run), task.run).run()
                else:
                    launch.begin(loading.load(str(task.config)), task.run).run()
            except PliError as error:
                log.write(f"error: {error}\n".encode())
                return Ended(error.exit_code)
        return Ended(0)
