"""Checkpoints cannot be lost: what is written, when, and what happens when writing fails."""

import errno
import itertools
import os
import resource
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, TrainerState

from pli_analysis.scalars.reading import read
from pli_train.checkpointing import checkpoint, snapshot, writer
from pli_train.checkpointing.retention import Retention
from pli_train.checkpointing.snapshot import Buffers, Snapshot
from pli_train.core import anatomy, learning_rate
from pli_train.core.errors import PliError
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import faults, run_folder
from pli_train.core.run_format.run_folder import CheckpointName
from pli_train.data.blocks import Blocks
from pli_train.data.objective import loss_sum
from pli_train.optim import optimizer
from pli_train.optim.config import OptimConfig
from pli_train.training import launch, trainer
from pli_train.training.callback import Callback
from tests.conftest import MODELS, STEPS
from tests.interrupted import Killed
from tests.run_files import content, names

AUTO = {"bert": AutoModelForMaskedLM, "gpt2": AutoModelForCausalLM, "llama": AutoModelForCausalLM}


@pytest.fixture
def made(family):
    """A tiny model of two layers after one update: (model, table, optimizer, lineage)."""
    parts = anatomy.family(family)
    depth = {parts.config["depth"]: 2}
    torch.manual_seed(0)
    model = AUTO[family].from_config(AutoConfig.for_model(family, vocab_size=300, **MODELS[family], **depth))
    adam = optimizer.build(model, OptimConfig())
    model(input_ids=torch.arange(32)[None]).logits.square().sum().backward()
    adam.step()
    return model, parts, adam, Lineage.begin(2, 2)


@pytest.fixture
def fail_at(monkeypatch, tmp_path):
    """Ask for a fault in this process, as PLI_FAULT would; gives the lines it has logged so far."""

    def ask(name, kind, nth=1):
        assert name in faults.BOUNDARIES
        log = tmp_path / "faults.log"
        monkeypatch.setenv("PLI_FAULT_LOG", str(log))
        faults.inject(f"{name}:{kind}:{nth}")
        return lambda: log.read_text().splitlines() if log.exists() else []

    yield ask
    faults.inject("")


# --- the bytes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("shard", ["50GB", "20KB"])
def test_files_are_those_of_save_pretrained_shards_and_ties_included(made, family, shard, tmp_path, monkeypatch):
    model, parts, adam, lineage = made
    monkeypatch.setattr(snapshot, "SHARD", shard)
    ours = checkpoint.write(tmp_path, CheckpointName(1), model, parts, adam, lineage, TrainerState())
    theirs = tmp_path / "theirs"
    model.save_pretrained(theirs, save_original_format=False, max_shard_size=shard)
    written = {path.name: path.read_bytes() for path in theirs.iterdir()}
    assert (len(written) > 4) == (shard == "20KB")
    assert {name: (ours / name).read_bytes() for name in written} == written
    loaded = AUTO[family].from_pretrained(ours).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_a_snapshot_shares_nothing_with_what_goes_on_learning(made):
    model, parts, adam, lineage = made
    buffers = Buffers()
    first = Snapshot.take(model, parts, adam, lineage, TrainerState(), buffers)
    live = {t.data_ptr() for t in model.state_dict().values()}
    live |= {value.data_ptr() for state in adam.state.values() for value in state.values()}
    copies = [*first.weights.values(), *first.optimizer.values()]
    assert not live & {tensor.data_ptr() for tensor in copies}
    before = [tensor.clone() for tensor in copies]
    adam.step()
    model.config.vocab_size = 7
    assert all(torch.equal(one, other) for one, other in zip(before, copies, strict=True))
    assert first.config.vocab_size == 300
    second = Snapshot.take(model, parts, adam, lineage, TrainerState(), buffers)
    assert [t.data_ptr() for t in second.weights.values()] == [t.data_ptr() for t in first.weights.values()]


# --- the background -------------------------------------------------------------------------------------------------


def test_the_loop_goes_on_while_a_checkpoint_is_written_and_one_is_in_flight_at_most(config_of, tmp_path, monkeypatch):
    """The write of step 0 ends only once step 1 is done; two writes never overlap."""
    put, trained, flying = checkpoint.put, threading.Event(), []

    class Announces(Callback):
        def on_step_end(self, state):
            trained.set()

    def slow(run, name, taken):
        flying.append(name)
        assert len(flying) == 1
        assert trained.wait(30), "the loop waited for the disk"
        path = put(run, name, taken)
        flying.pop()
        return path

    monkeypatch.setattr(checkpoint, "put", slow)
    config = config_of("gpt2", {"growth.schedule": "", "train.steps": 3})
    launch.begin(config, tmp_path / "run", callbacks=[Announces()]).run()
    assert names(tmp_path / "run") == ["checkpoint-0", "checkpoint-2", "checkpoint-3"]


def test_scalars_and_lineage_are_on_disk_in_the_order_that_resume_needs(config_of, tmp_path, monkeypatch):
    """Scalars up to a step before its checkpoint appears; the run's lineage after it."""
    run, seen = tmp_path / "run", {}

    def spied(place, file=None):
        if place != "partial-synced":
            return
        (partial,) = run.glob(f"{run_folder.PARTIAL}checkpoint-*")
        name = partial.name.removeprefix(run_folder.PARTIAL)
        step = CheckpointName.parse(name).step
        ahead = run / run_folder.LINEAGE
        events = len(Lineage.read(ahead).events) if ahead.exists() else 0
        seen[name] = (sorted(read(run).values.get(run_folder.LOSS, {})), step, events)

    monkeypatch.setattr(checkpoint, "boundary", spied)
    launch.begin(config_of("gpt2"), run).run()
    assert len(seen) == 12
    for steps, step, _ in seen.values():
        assert set(range(1, step + 1)) <= set(steps)
    assert (seen["checkpoint-3"][2], seen["checkpoint-4"][2]) == (0, 1)


# --- failure --------------------------------------------------------------------------------------------------------

FAILURES = {"enospc": "no space left on device); free 1 MB, then", "eio": "input/output error); check the disk, then"}


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("position", ["partial-made", "weights-written", "optimizer-synced", "manifest-written"])
def test_a_failed_write_stops_the_run_with_one_line_at_the_last_good_checkpoint(
    config_of, runs, tmp_path, monkeypatch, fail_at, position, kind
):
    run, config = tmp_path / "run", config_of("gpt2")
    fired = fail_at(position, kind, nth=3)
    with pytest.raises(PliError) as message:
        launch.begin(config, run).run()
    assert fired() == [f"{position}:{kind}:3"]
    assert FAILURES[kind] in str(message.value) and str(run) in str(message.value) and "\n" not in str(message.value)
    assert names(run)[-1] == "checkpoint-2"
    assert not list(run.glob(f"{run_folder.PARTIAL}*"))
    launch.resume(config, run).run()
    assert content(run) == content(runs["gpt2"])


def test_disk_full_in_the_final_save_is_reported_and_the_last_good_one_stays(config_of, tmp_path, fail_at):
    run = tmp_path / "run"
    fail_at("weights-written", "enospc", nth=12)
    with pytest.raises(PliError, match=rf"checkpoint-{STEPS}: not written \(no space left on device\); free 1 MB"):
        launch.begin(config_of("gpt2"), run).run()
    assert checkpoint.newest(run, pytest.fail).name == "checkpoint-10"


def test_a_short_write_is_a_failed_write(config_of, tmp_path, fail_at):
    run = tmp_path / "run"
    fired = fail_at("weights-written", "short", nth=12)
    with pytest.raises(PliError, match="input/output error"):
        launch.begin(config_of("gpt2"), run).run()
    assert fired() == ["weights-written:short:12"]
    assert checkpoint.newest(run, pytest.fail).name == "checkpoint-10"


@pytest.mark.parametrize("family", ["gpt2"])
def test_the_kernels_own_refusal_inside_safetensors_is_reported_alike(made, tmp_path):
    """No fault injected: a limit on file sizes, which safetensors reports as an error of its own kind."""
    model, parts, adam, lineage = made
    family_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    background = writer.Writer(tmp_path, Retention(None, False, 3, None, 9))
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, family_limit[1]))
    try:
        background.save(CheckpointName(1), model, parts, adam, lineage, TrainerState())
        with pytest.raises(PliError, match=r"checkpoint-1: not written \(file too large\); check the disk"):
            background.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, family_limit)
    assert names(tmp_path) == []


def test_scalars_that_cannot_be_written_stop_the_run_with_one_line(config_of, runs, tmp_path, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    run, config, write, count = tmp_path / "run", config_of("gpt2"), RecordWriter.write, []

    def full(self, data):
        count.append(data)
        if len(count) > 150:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        with pytest.raises(PliError, match=r"tfevents\.\S+: not written \(no space left on device\); free 1 MB, then"):
            launch.begin(config, run).run()
    launch.resume(config, run).run()
    assert content(run) == content(runs["gpt2"])


@pytest.mark.parametrize("position", faults.BOUNDARIES)
@pytest.mark.parametrize("family", ["gpt2"])
def test_every_boundary_is_passed(position, made, tmp_path, fail_at):
    model, parts, adam, lineage = made
    fired = fail_at(position, "eio")
    background = writer.Writer(tmp_path, Retention(1, False, 1, 1, 9))
    with pytest.raises(PliError, match="input/output error"):
        for step in (0, 1, 2, 3):
            background.save(CheckpointName(step), model, parts, adam, lineage, TrainerState())
        background.wait()
    assert fired() == [f"{position}:eio:1"]
    for _, path in run_folder.checkpoints(tmp_path):
        assert run_folder.flaw(path) is None


def test_a_fault_is_asked_for_by_the_environment(tmp_path):
    ask = {"PLI_FAULT": "renamed:sigkill:2", "PLI_FAULT_LOG": str(tmp_path / "log")}
    code = (
        "from pli_train.core.run_format.faults import boundary\n"
        "for _ in range(3): boundary('run-synced'); boundary('renamed')"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **ask})
    assert done.returncode == -9
    assert (tmp_path / "log").read_text() == "renamed:sigkill:2\n"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ.copy()).returncode == 0


def test_a_half_written_newest_checkpoint_does_not_block_resume_and_leftovers_go(
    config_of, run_folder_of, runs, family
):
    last = run_folder_of / f"checkpoint-{STEPS}"
    half = last.rename(run_folder_of / f"{run_folder.PARTIAL}{last.name}")
    (half / run_folder.MANIFEST).unlink()
    (run_folder_of / f"{run_folder.PARTIAL}{run_folder.LINEAGE}").write_text("{")
    (run_folder_of / "checkpoint-4" / f"{run_folder.PARTIAL}{run_folder.MANIFEST}").write_text("{")
    launch.resume(config_of(family), run_folder_of).run()
    assert not list(run_folder_of.rglob(f"{run_folder.PARTIAL}*"))
    assert content(run_folder_of) == content(runs[family])


def test_resuming_never_takes_away_the_checkpoint_it_came_from(config_of, run_folder_of, monkeypatch, family):
    """Before growth the state is saved where it was read: it is left alone, and not written anew."""
    for name, path in run_folder.checkpoints(run_folder_of):
        if name > CheckpointName(6, after=False):
            shutil.rmtree(path)
    put, written = checkpoint.put, []

    def spied(run, name, taken):
        written.append(str(name))
        return put(run, name, taken)

    monkeypatch.setattr(checkpoint, "put", spied)
    launch.resume(config_of(family), run_folder_of).run()
    assert written[0] == "checkpoint-6"


@pytest.mark.parametrize("saved", [1, 2])
def test_growth_before_the_first_step_is_resumed_from_either_side(config_of, tmp_path, monkeypatch, saved):
    """Step 0 has its checkpoint before the schedule is looked at, and another of that name after growth."""
    whole, run, put, written = tmp_path / "whole", tmp_path / "run", checkpoint.put, []
    config = config_of("gpt2", {"growth.schedule": "0@1", "train.steps": 2})
    launch.begin(config, whole).run()

    def killed(*asked):
        if len(written) == saved:
            raise Killed
        written.append(asked)
        return put(*asked)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "put", killed)
        with pytest.raises(Killed):
            launch.begin(config, run).run()
    assert len(names(run)) == saved
    launch.resume(config, run).run()
    assert names(run) == ["checkpoint-0-before", "checkpoint-0", "checkpoint-2"]
    assert content(run) == content(whole)


def test_a_run_killed_between_checkpoint_and_lineage_has_its_lineage_after_resume(config_of, run_folder_of, family):
    expected = (run_folder_of / run_folder.LINEAGE).read_text()
    shutil.copy(run_folder_of / "checkpoint-4" / run_folder.LINEAGE, run_folder_of / run_folder.LINEAGE)
    launch.resume(config_of(family), run_folder_of).run()
    assert (run_folder_of / run_folder.LINEAGE).read_text() == expected


# --- what is no number ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_checkpoint_is_written_of_weights_that_are_no_numbers(config_of, tmp_path, bad):
    """The loss of the step is still finite when its gradient is not: the weights tell, the next loss would."""
    run = tmp_path / "run"

    class Spoilt(Callback):
        def on_gradients(self, state):
            if state.step == 4:
                next(state.model.bare.parameters()).grad.view(-1)[0] = bad

    with pytest.raises(PliError, match=r"the (weights|loss)[^\n]*(finite|nan)[^\n]*kept"):
        launch.begin(config_of("gpt2", {"checkpoint.every": 1}), run, callbacks=[Spoilt()]).run()
    assert names(run)[-1] == "checkpoint-4"
    assert checkpoint.newest(run, pytest.fail).name == "checkpoint-4"


def test_no_checkpoint_is_written_after_a_loss_that_is_no_number(config_of, tmp_path, monkeypatch):
    run, settings = tmp_path / "run", {"train.log_every": 100, "checkpoint.every": 2}
    parts = itertools.count()  # two of each step

    def spoilt(model, batch):
        return loss_sum(model, batch) + (float("nan") if next(parts) >= 2 * 4 else 0)

    monkeypatch.setattr(trainer, "loss_sum", spoilt)
    with pytest.raises(PliError, match="the loss is nan at step 5"):
        launch.begin(config_of("gpt2", settings), run).run()
    assert names(run)[-1] == "checkpoint-4"


# --- resume ---------------------------------------------------------------------------------------------------------


def test_the_learning_rate_does_not_jump_and_newborns_count_their_own_steps(config_of, run_folder_of, family):
    """At resume from step 8, whose layer b was born at 3 and c, d at 6."""
    for name, path in run_folder.checkpoints(run_folder_of):
        if name.step > 8:
            shutil.rmtree(path)
    config, again = config_of(family), launch.resume(config_of(family), run_folder_of)
    counted = {}
    for name, value in optimizer.state_tensors(
        again.state.optimizer, again.state.model.bare, again.state.anatomy, again.state.lineage.stack
    ).items():
        if name.startswith("step/") and "<" in name:
            counted.setdefault(name.split("<")[1].split(">")[0], set()).add(int(value))
    assert counted == {"a": {8}, "b": {5}, "c": {2}, "d": {2}}
    rates = []
    step = again.state.optimizer.step
    again.state.optimizer.step = lambda: (rates.append(again.state.optimizer.param_groups[0]["lr"]), step())[1]
    again.run()
    assert rates[0] == learning_rate.at_step(8, STEPS, config.optim, [])


def test_the_first_step_after_resume_costs_the_same_at_step_100000_as_at_100(monkeypatch):
    """The order of the data is a function of the step: what is shuffled and read does not grow with the step."""
    work, fresh = [], np.random.default_rng

    class Counted(np.ndarray):
        def __getitem__(self, key):
            work.append(np.size(key))
            return super().__getitem__(key)

    def counted(seed):
        work.append("a shuffle")
        return fresh(seed)

    monkeypatch.setattr(np.random, "default_rng", counted)
    costs = []
    for step in (100, 100_000):
        blocks = Blocks(np.arange(64 * 1000, dtype=np.uint16).view(Counted), 64, seed=step)  # no order that is known
        work.clear()
        assert blocks.at_step(step, 8).shape == (8, 64)
        costs.append(list(work))
    assert costs[0] == costs[1] == ["a shuffle", 8]
