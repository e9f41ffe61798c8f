"""Fixtures of runs to kill: every kind of growth, trained in two seconds, and the same runs uninterrupted."""

import json
import os
from pathlib import Path

import pytest

from tests.growing import EVERYTHING, WIDE
from tests.warm import warm as warm_process

KILLED_FAMILIES = ("bert", "gpt2")
CHECKPOINTS = {"bert": {"every": 1, "full_last": 100}, "gpt2": {"every": 1}}
"""BERT keeps all optimizer states, to compare them at each step; GPT-2 removes old ones while it is killed."""


class Training:
    """A `pli-train` that has nothing left to import, with its stderr in a file."""

    def __init__(self, child, log):
        self.kill, self.running, self.wait, self.pid, self._log = child.kill, child.running, child.wait, child.pid, log

    @property
    def errors(self):
        """What it said on stderr."""
        return self._log.read_text()


class Trainings:
    """Begins them, as `tests.warm` does."""

    def __init__(self, folder):
        self._folder, self._count = folder, 0

    def start(self, *words, **how):
        self._count += 1
        log = self._folder / f"stderr-{self._count}"
        with Path(os.devnull).open("r+b") as nothing, log.open("wb") as file:
            streams = [nothing.fileno(), nothing.fileno(), file.fileno()]
            return Training(warm_process().start("pli-train", *words, streams=streams, **how), log)


@pytest.fixture(scope="session")
def warm(tmp_path_factory, _cache):
    """What begins commands in forks of a process that has imported everything."""
    return Trainings(tmp_path_factory.mktemp("warm"))


@pytest.fixture(scope="session")
def toml_of(config_of, tmp_path_factory):
    """Return a function that writes the config of a run with every kind of growth: `toml_of("bert")` → its file.

    The run has three insertions, heads added twice, a wider FFN, a permanent swap, a longer context, layers swapped for
    single steps, dropout, two batches per step, and a checkpoint at each step.
    """
    folder = tmp_path_factory.mktemp("configs")

    def write(family, overrides=None, name=None):
        model = {"family": family, "config": WIDE[family], "initial_layers": 1, "initial_heads": 2}
        swapping = {"probability": 0.5, "anneal": "linear", "pairs": "random"}
        growth = {"schedule": EVERYTHING, "swapping": swapping}
        table = {"model": model, "growth": growth, "checkpoint": CHECKPOINTS[family], **(overrides or {})}
        config = config_of(family, table)
        assert config.train.accumulation == 2
        file = folder / f"{name or family}.toml"
        lines = (f"{key} = {toml(value)}" for key, value in config.model_dump(exclude_none=True).items())
        file.write_text("\n".join(lines) + "\n")
        return file

    return write


@pytest.fixture(scope="session")
def unkilled(toml_of, warm, tmp_path_factory):
    """A finished, uninterrupted run of each family."""
    folders = {}
    for family in KILLED_FAMILIES:
        folders[family] = tmp_path_factory.mktemp("unkilled") / family
        child = warm.start("run", toml_of(family), "-o", folders[family])
        assert child.wait() == 0, child.errors
    return folders


def toml(value):
    """Return a value as TOML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items() if inner is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(inner) for inner in value) + "]"
    return json.dumps(value)
