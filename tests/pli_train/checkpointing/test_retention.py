"""Which checkpoints stay, what room they take, and that one trainer at a time makes them."""

import json
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from pli_analysis.metrics.drift.drift import drift
from pli_analysis.runs.opening import open_run
from pli_train.checkpointing import checkpoint, disk
from pli_train.checkpointing.lock import Lock
from pli_train.checkpointing.retention import Retention
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName
from pli_train.training import launch, trainer
from tests.conftest import STEPS
from tests.interrupted import KillAt, Killed, StopAt
from tests.run_files import content, full, names
from tests.thinned import thinned


def test_log_spaced_checkpoints_and_light_older_ones(config_of, tmp_path):
    run = tmp_path / "run"
    settings = {"checkpoint": {"every": None, "log_spaced": True, "full_last": 2}, "growth.schedule": "5@1"}
    launch.begin(config_of("gpt2", settings), run).run()
    steps = ["0", "1", "2", "4", "5-before", "5", "8", "12"]
    assert names(run) == [f"checkpoint-{step}" for step in steps]
    assert full(run) == ["checkpoint-5-before", "checkpoint-8", "checkpoint-12"]
    for _, path in run_folder.checkpoints(run):
        assert run_folder.flaw(path) is None
        assert (path / run_folder.OPTIMIZER).exists() == run_folder.is_full(path)
    assert open_run(run).checkpoints[0].name.step == 0
    assert set(drift(open_run(run), "layer")["step"]) >= {0, 1, 2, 4, 5, 8, 12}


@pytest.mark.slow
@pytest.mark.parametrize("at", thinned([3, 5, 6, 7, 9, 11]))
def test_thinning_ends_alike_however_often_a_run_was_broken(config_of, tmp_path, at):
    """Stopped before one step, killed before the next but one: the same folders with the same files."""
    settings = {"checkpoint": {"every": 1, "full_last": 2, "keep": 3}}
    whole, run, config = tmp_path / "whole", tmp_path / "run", config_of("gpt2", settings)
    launch.begin(config, whole).run()
    kept = ["0", "3-before", "3", "6-before", "6", "9-before", "9", "8", "10", "11", "12"]
    assert set(names(whole)) == {f"checkpoint-{step}" for step in kept}
    assert full(whole) == [f"checkpoint-{step}" for step in ("3-before", "6-before", "9-before", "11", "12")]
    with pytest.raises(trainer.Interrupted):
        launch.begin(config, run, callbacks=[StopAt(at)]).run()
    if at < STEPS - 1:
        with pytest.raises(Killed):
            launch.resume(config, run, callbacks=[KillAt(at + 1)]).run()
    launch.resume(config, run).run()
    assert content(run) == content(whole)


def test_what_a_stop_left_goes_when_thinning_is_on_and_never_displaces_a_full_one():
    retention = Retention(every=4, log_spaced=False, full_last=2, keep=2, total_steps=100)
    there = [CheckpointName(step) for step in (0, 4, 8, 12, 13)]
    assert retention.kept(there) == [CheckpointName(step) for step in (0, 8, 12, 13)]
    assert retention.full(retention.kept(there)) == {CheckpointName(step) for step in (8, 12, 13)}
    assert retention.kept([*there, CheckpointName(16)]) == [CheckpointName(step) for step in (0, 12, 16)]


def test_older_ones_are_not_touched_before_the_new_one_is_durable(config_of, tmp_path, monkeypatch):
    """Whatever is removed or made light, at that moment a newer checkpoint is whole and full."""
    run, touched = tmp_path / "run", []

    def spied(act):
        def first_read(folder):
            newer = [p for n, p in run_folder.checkpoints(run) if n > CheckpointName.parse(folder.name)]
            assert any(run_folder.flaw(path) is None and run_folder.is_full(path) for path in newer)
            touched.append(act.__name__)
            act(folder)

        return first_read

    for name in ("remove", "lighten"):
        monkeypatch.setattr(checkpoint, name, spied(getattr(checkpoint, name)))
    settings = {"checkpoint": {"every": 1, "full_last": 1, "keep": 1}}
    launch.begin(config_of("gpt2", settings), run).run()
    assert {"remove", "lighten"} == set(touched)


def test_a_light_checkpoint_is_whole_for_analysis_and_silently_no_place_to_resume_from(run_folder_of):
    last = run_folder_of / f"checkpoint-{STEPS}"
    checkpoint.lighten(last)
    assert run_folder.flaw(last) is None and not run_folder.is_full(last)
    assert checkpoint.newest(run_folder_of, pytest.fail).name == "checkpoint-10"
    assert run_folder.newest_checkpoint(run_folder_of, pytest.fail) == last
    assert checkpoint.read(last).optimizer == {}
    manifest = json.loads((last / run_folder.MANIFEST).read_text())["files"]
    assert sorted([*manifest, run_folder.MANIFEST]) == sorted(path.name for path in last.iterdir())


# --- room and company -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("growth", ["3@0 6@2 6@1 9@4", ""])
def test_disk_use_is_what_the_run_takes(config_of, tmp_path, growth, family):
    run = tmp_path / "run"
    settings = {"growth.schedule": growth, "checkpoint": {"every": 2, "full_last": 2}}
    made = launch.begin(config_of(family, settings), run)
    message = made.plan.disk_use()
    made.run()
    tensors = [load_file(path) for path in run.glob("checkpoint-*/*.safetensors")]
    counters = sum(4 for held in tensors for name in held if name.startswith("step/"))
    taken = sum(tensor.nbytes for held in tensors for tensor in held.values()) - counters
    assert message.count == len(names(run))
    assert message.bytes == taken


def test_a_disk_without_room_is_refused_before_training(config_of, runs, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: free)
    with pytest.raises(BadInput, match=r"its checkpoints need \d+ MB and the disk has 1 MB free; free space"):
        launch.begin(config_of("gpt2"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = shutil.copytree(runs["gpt2"], tmp_path / "resumed")
    shutil.rmtree(run / f"checkpoint-{STEPS}")
    shutil.rmtree(run / "checkpoint-10")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: free._replace(free=10**5))
    with pytest.raises(BadInput, match="the disk has 0 MB free"):
        launch.resume(config_of("gpt2"), run)


def test_a_second_trainer_in_a_folder_is_refused_with_the_pid_of_the_first(config_of, run_folder_of, family):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from pli_train.checkpointing.lock import Lock\n"
            "held = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)",
            str(run_folder_of),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        holder.stdout.readline()
        with pytest.raises(BadInput, match=f"process {holder.pid} is training in it"):
            launch.resume(config_of(family), run_folder_of)
        assert len(open_run(run_folder_of).checkpoints) == 12
    finally:
        holder.kill()
        holder.wait()
    Lock(run_folder_of).release()
