"""Two processes on CPUs under gloo, started as torchrun does: the same run as one process makes, and it resumes."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pli_analysis.scalars.reading import read
from pli_train.checkpointing import checkpoint
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.growing import EVERYTHING, WIDE
from tests.run_files import content, toml

ROOT = Path(__file__).parents[3]
DRY = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
"""Dropout is drawn by each process for itself."""


def torchrun(*words, processes=2):
    """`pli-train` in several processes, as torchrun starts them. All of them must succeed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        position = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        position |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": ROOT}
        position |= {"OMP_NUM_THREADS": 1}
        environment = os.environ | {name: str(value) for name, value in position.items()}
        command = [sys.executable, "-m", "pli_train.cli", *map(str, words)]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    message = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, message


def as_toml(config):
    """A config as a TOML file; events in tables become inline ones, which JSON's are not."""
    table = config.model_dump()
    schedule = table["growth"].pop("schedule")
    message = json.dumps(schedule)
    if isinstance(schedule, list):
        events = (", ".join(f"{key} = {json.dumps(value)}" for key, value in event.items()) for event in schedule)
        message = "[" + ", ".join("{" + event + "}" for event in events) + "]"
    return f"{toml(table)}\ngrowth.schedule = {message}\n"


def pair(config_of, tmp_path, overrides):
    """The same run by one process and by two: (its folder, its folder)."""
    one, two = tmp_path / "one", tmp_path / "two"
    train = config_of("gpt2").train.model_dump() | {"batch_size": 4, "accumulation": 2}
    launch.begin(config_of("gpt2", {**overrides, "train": train}), one).run()
    file = tmp_path / "two.toml"
    file.write_text(as_toml(config_of("gpt2", {**overrides, "train": train | {"accumulation": 1}})))
    torchrun("run", file, "-o", two, "--quiet")
    return one, two


def losses(run):
    return {step: value for step, (_, value) in read(run).values[run_folder.LOSS].items()}


@pytest.mark.slow
@pytest.mark.parametrize("growth", ["3@0 6@2 6@1 9@4", "everything"])
def test_two_processes_train_what_one_does_and_resume_to_the_same_bytes(config_of, tmp_path, growth):
    if growth == "everything":
        model = {"family": "gpt2", "config": WIDE["gpt2"] | DRY, "initial_layers": 1, "initial_heads": 2}
        overrides = {"model": model, "growth": {"schedule": EVERYTHING}}
    else:
        model = {"family": "gpt2", "config": {"n_embd": 32, "n_head": 2, "n_positions": 32} | DRY, "initial_layers": 1}
        overrides = {"model": model, "growth": {"schedule": growth}}
    one, two = pair(config_of, tmp_path, overrides)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert (two / run_folder.LINEAGE).read_bytes() == (one / run_folder.LINEAGE).read_bytes()
    for step in (2, 8):
        broken = Path(shutil.copytree(two, tmp_path / f"broken-{step}"))
        for name, path in run_folder.checkpoints(broken):
            if name.step > step:
                shutil.rmtree(path)
        assert checkpoint.newest(broken, print).name.startswith(f"checkpoint-{step}")
        torchrun("resume", broken, "--quiet")
        assert content(broken) == content(two)
