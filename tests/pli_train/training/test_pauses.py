"""Runs that stop at a chosen step, and orders of the training text."""

import pytest

from pli_train.commands.fork import fork
from pli_train.config import loading as configs
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.conftest import STEPS
from tests.run_files import content


def evaluated(found):
    """Steps with an evaluation, according to the last checkpoint."""
    return [entry["step"] for entry in found[f"checkpoint-{STEPS}/state"]["log_history"] if "eval_loss" in entry]


@pytest.mark.parametrize("steps", [(0, 3, 6, 9), (4, 8)])
def test_a_run_that_pauses_where_it_is_evaluated_is_the_run_without_pauses(config_of, runs, tmp_path, steps):
    """At steps with growth events too, which are applied when the run goes on."""
    folder = tmp_path / "run"
    last = launch.begin(config_of("gpt2"), folder).run(steps[0])
    assert last.is_dir()
    for step in (*steps[1:], None):
        resumed = launch.resume(configs.of_run(folder), folder)
        assert resumed.run(step).is_dir()
    assert content(folder) == content(runs["gpt2"])


def test_a_pause_evaluates_and_leaves_the_events_of_its_step_undone(config_of, tmp_path):
    folder = tmp_path / "run"
    launch.begin(config_of("gpt2", {"checkpoint.every": None, "train.eval_every": 100}), folder).run(6)
    names = [str(name) for name, _ in run_folder.checkpoints(folder)]
    assert names == ["checkpoint-0", "checkpoint-3-before", "checkpoint-3", "checkpoint-6-before"]
    launch.resume(configs.of_run(folder), folder).run(8)
    launch.resume(configs.of_run(folder), folder).run(7)  # is past it, and stays where it is
    assert [str(name) for name, _ in run_folder.checkpoints(folder)][-2:] == ["checkpoint-6", "checkpoint-8"]
    launch.resume(configs.of_run(folder), folder).run(STEPS + 5)
    assert 8 in evaluated(content(folder))


@pytest.mark.slow
def test_an_order_changes_the_training_text_and_nothing_else(config_of, runs, tmp_path):
    other, again, twin = (tmp_path / name for name in ("other", "again", "twin"))
    launch.begin(config_of("gpt2", {"train.order": 1}), other).run()
    launch.begin(config_of("gpt2", {"train.order": 1}), again).run()
    assert content(other) == content(again)
    first, second = content(runs["gpt2"]), content(other)
    assert first["checkpoint-0/model.safetensors"] == second["checkpoint-0/model.safetensors"]
    assert first["checkpoint-2/model.safetensors"] != second["checkpoint-2/model.safetensors"]
    assert (runs["gpt2"] / run_folder.PROBE).read_bytes() == (other / run_folder.PROBE).read_bytes()
    fork(runs["gpt2"], 3, twin, changes=["train.order=1"]).run()
    ours = content(twin)
    assert ours["checkpoint-3/model.safetensors"] == first["checkpoint-3/model.safetensors"]
    assert ours["checkpoint-4/model.safetensors"] != first["checkpoint-4/model.safetensors"]
