"""Studies of tiny runs for tests: their config, and workers that need no new process."""

import json
from collections import Counter

import tomli_w

from pli_train.config import loading
from pli_train.core.errors import PliError
from pli_train.core.run_format import run_folder, study_folder
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
                    launch.resume(loading.of_run(task.run), task.run).run(task.until)
                else:
                    launch.begin(loading.load(str(task.config)), task.run).run(task.until)
            except PliError as error:
                log.write(f"error: {error}\n".encode())
                return Ended(error.exit_code)
        return Ended(0)


class Training(InProcess):
    """A run that seems to be in training at its first polls: its last checkpoint is not there yet."""

    def __init__(self):
        super().__init__()
        self.signals = []

    def start(self, task, slot):
        super().start(task, slot)
        total = json.loads((task.run / "run.json").read_text())["total_steps"]
        self._last, self._aside = task.run / f"checkpoint-{total}", task.run / "aside"
        self._last.rename(self._aside)
        self._polls, self._asked = 0, False
        return self

    def poll(self):
        self._polls += 1
        if self._asked:
            return 130
        if self._polls < 3:
            return None
        self._aside.rename(self._last)
        return 0

    def signal(self, number):
        self.signals.append((self.started[-1], number))
        self._asked = True


def study_of(source, folder, trials=2, launcher=None, confirm=0, goal="flops", **settings):
    """Run a study in this process and return its folder. `source` is a space, or the table of one."""
    from pli_train.commands import sweep
    from pli_train.sweep import space_reading

    found = space_reading.from_table(source, "mine.toml") if isinstance(source, dict) else source
    options = {"sampler": None, "pruner": "none", "seed": 0, "baseline": True, **settings}
    made = sweep.settings_of(found, goal, None, *options.values())
    sweep.sweep(made, folder, trials, launcher or InProcess(), confirm)
    return folder


def write_study(folder, rows, parameters=None, **settings):
    """Write a study folder without runs: `rows` are fields of trials, by default of complete growth trials."""
    space = {"set": {}, "schedule": {}, "parameters": parameters or {}, "baseline": {}, "seeds": 0}
    base = {"growth": {"schedule": "0.25@1 0.5@1", "initializer": "clone"}, "model": {"initial_layers": 1}}
    settings = {"space": space, "base": base, "objective": "flops", "budget": None, "baseline": True, **settings}
    document = {"format": study_folder.FORMAT, "version": 1, "name": folder.name, "budget": 1e9, "settings": settings}
    folder.mkdir()
    (folder / study_folder.STUDY).write_text(json.dumps(document))
    numbers = Counter()
    table = []
    for row in rows:
        full = {"arm": "growth", "state": "complete", "seed": 0, "params": {}, "changes": {}, **row}
        table.append({**dict.fromkeys(study_folder.FIELDS), "number": numbers[full["arm"]], **full})
        numbers[full["arm"]] += 1
    trials = {"format": study_folder.TRIALS_FORMAT, "version": 1, "trials": table}
    (folder / study_folder.TRIALS).write_text(json.dumps(trials))
    return folder
