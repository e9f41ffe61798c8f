"""How fast a million scalars are read, next to TensorBoard's own reader: `python tests/benchmarks/bench_scalars.py`.

Both read the same event file of 200 tags × 5 000 steps in turn, in one process; ours with every checksum checked. What
they read is compared point by point.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from pli_analysis import scalars

TAGS = 200


def write(folder: Path, steps: int) -> None:
    """An event file as torch's writer makes it: one record a scalar."""
    with (folder / "events.out.tfevents.1.host.1.0").open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
        for step in range(steps):
            for tag in range(TAGS):
                value = Summary.Value(tag=f"grad_norm/head/{tag}", simple_value=(step * 7 + tag) % 1000 / 7)
                writer.write(Event(wall_time=step + 0.5, step=step, summary=Summary(value=[value])).SerializeToString())


def ours(folder: Path) -> dict:
    """tag → {step: (wall time, value)}."""
    return scalars.read(folder).values


def theirs(folder: Path) -> dict:
    """The same through EventAccumulator, which is told to keep every point."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return {
        tag: {e.step: (e.wall_time, e.value) for e in accumulator.Scalars(tag)} for tag in accumulator.Tags()["scalars"]
    }


def main() -> None:
    """Print a table of both, and their ratio."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--steps", type=int, default=5000)
    asked.add_argument("--repeats", type=int, default=3)
    told = asked.parse_args()
    taken: dict = {ours: [], theirs: []}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), told.steps)
        for _ in range(told.repeats):
            read = {}
            for reader, times in taken.items():
                began = time.perf_counter()
                read[reader] = reader(Path(folder))
                times.append(time.perf_counter() - began)
            assert read[ours] == read[theirs], "the readers disagree"
            assert sum(map(len, read[ours].values())) == told.steps * TAGS
    for reader, times in taken.items():
        print(f"{reader.__name__:8} {statistics.median(times):8.3f} s  ({min(times):.3f} to {max(times):.3f})")
    ratios = [b / a for a, b in zip(*taken.values(), strict=True)]
    print(f"theirs ÷ ours, turn by turn: {statistics.median(ratios):.1f}  ({min(ratios):.1f} to {max(ratios):.1f})")
    print(f"{told.steps * TAGS:,} scalars, {TAGS} tags, {told.repeats} turns; same points read")


if __name__ == "__main__":
    main()
