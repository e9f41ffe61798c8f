import os
from pathlib import Path

import numpy as np
import pytest
from tensorboard.summary.writer import record_writer

from pli_analysis.metrics.loss import loss
from pli_analysis.runs.opening import open_run
from pli_analysis.scalars.reading import read
from pli_train.core.errors import PliError
from pli_train.core.run_format import run_folder
from pli_train.training.tensorboard import ScalarWriter
from tests.conftest import STEPS


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write scalars as another process would, one file a call, each file a second later."""
    clock = iter(range(1_700_000_000, 1_800_000_000))

    def written(from_step, points, tag="x"):
        with monkeypatch.context() as patch:
            now = float(next(clock))
            patch.setattr("time.time", lambda: now)
            scalars = ScalarWriter(tmp_path, from_step)
        for step, value in points.items():
            scalars.add(step, {tag: value})
        scalars.close()
        return max(tmp_path.glob("events*"), key=lambda path: path.name)

    return written


def values(folder, tag="x"):
    return {step: value for step, (_, value) in read(folder).values[tag].items()}


def test_what_is_written_is_read_nan_and_infinity_included(write, tmp_path):
    points = {0: 1.5, 1: float("inf"), 2: float("nan"), 7: -3.0}
    write(0, points)
    assert np.array_equal([*values(tmp_path).values()], [*points.values()], equal_nan=True)


def test_a_resumed_process_replaces_the_steps_it_does_again(write, tmp_path):
    write(0, {1: 1, 2: 2, 3: 3, 4: 4})
    write(3, {3: 30, 4: 40, 5: 50})
    assert values(tmp_path) == {1: 1, 2: 2, 3: 30, 4: 40, 5: 50}


def test_steps_that_the_resumed_process_never_reached_are_dropped(write, tmp_path):
    write(0, {1: 1, 2: 2, 3: 3, 4: 4})
    write(2, {2: 20})
    assert values(tmp_path) == {1: 1, 2: 20}


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_a_file_cut_short_is_read_up_to_the_cut(write, tmp_path, cut):
    path = write(0, {1: 1, 2: 2, 3: 3})
    path.write_bytes(path.read_bytes()[:-cut])
    assert values(tmp_path) == {1: 1, 2: 2}
    write(3, {3: 33})
    assert values(tmp_path) == {1: 1, 2: 2, 3: 33}


def test_no_file_is_no_scalars(tmp_path):
    assert read(tmp_path).values == {}
    assert len(read(tmp_path).table("x")) == 0


def test_loss_has_its_four_axes(runs, family, config_of):
    table = loss(open_run(runs[family]).scalars)
    train, eval = (table[table["split"] == kind].set_index("step") for kind in ("train", "eval"))
    assert list(train.index) == list(range(1, STEPS + 1))
    assert list(eval.index) == [0, 3, 4, 6, 8, 9, 12]
    per_step = 4 * 2 * 32
    assert (train["tokens"] == train.index * per_step).all()
    assert (eval["tokens"] == eval.index * per_step).all()
    for axis in ("flops", "seconds"):
        assert train[axis].is_monotonic_increasing and (train[axis] > 0).all()
    grown = train["flops"].diff().dropna().round()
    assert grown.loc[2] < grown.loc[5] < grown.loc[8] < grown.loc[11]


def test_a_run_that_tracked_nothing_has_an_empty_loss(config_of, tmp_path):
    from pli_train.training import launch

    overrides = {"tracking.tensorboard": False, "train.steps": 2, "growth.schedule": ""}
    launch.begin(config_of("gpt2", overrides), tmp_path / "run").run()
    assert not list((tmp_path / "run").glob("events*"))
    assert len(loss(open_run(tmp_path / "run").scalars)) == 0
    assert (tmp_path / "run" / "checkpoint-2" / run_folder.WEIGHTS).exists()


def test_two_processes_of_one_second_are_distinguished(tmp_path):
    """TensorBoard's names then differ in a counter alone, which sorts 10 before 9."""
    from torch.utils.tensorboard import SummaryWriter

    for counter in (9, 10):
        with SummaryWriter(str(tmp_path), purge_step=counter, filename_suffix="") as writer:
            writer.add_scalar("x", counter, counter)
        (made,) = tmp_path.glob("events.out.tfevents.1*")
        made.rename(tmp_path / f"events.out.tfevents.5.host.1.{counter}")
    assert {step: value for step, (_, value) in read(tmp_path).values["x"].items()} == {9: 9.0, 10: 10.0}


@pytest.mark.parametrize("days", [-30, -1, 0, 1, 30])
def test_a_clock_set_between_two_processes_does_not_change_their_order(tmp_path, monkeypatch, days):
    """Both for us and for TensorBoard itself, which reads files in the order of names."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for from_step, now in ((0, 1_700_000_000.0), (2, 1_700_000_000.0 + days * 86400), (3, 1_700_000_000.0)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        scalars = ScalarWriter(tmp_path, from_step)
        for step in range(from_step, from_step + 3):
            scalars.add(step, {"x": 10 * from_step + step})
        scalars.close()
    expected = {0: 0, 1: 1, 2: 22, 3: 33, 4: 34, 5: 35}
    assert values(tmp_path) == expected
    padded_form = EventAccumulator(str(tmp_path))
    padded_form.Reload()
    assert {event.step: event.value for event in padded_form.Scalars("x")} == expected


def test_a_disk_that_takes_no_more_scalars_is_reported_in_one_line(tmp_path, monkeypatch):
    files, record_writer_of = [], record_writer.RecordWriter
    monkeypatch.setattr(record_writer, "RecordWriter", lambda file: (files.append(file), record_writer_of(file))[1])
    scalars = ScalarWriter(tmp_path)
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), files[0].fileno())
    scalars.add(1, {"x": 1.0})
    with pytest.raises(PliError, match=r"not written \(no space left on device\); free 1 MB, then run"):
        scalars.flush()
    scalars.add(2, {"x": 2.0})
    scalars.close()
