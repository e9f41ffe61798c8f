"""Speed of reading a million scalars vs. other readers: `python tests/benchmarks/bench_scalars.py`.

All read the same event file of 200 tags × 5 000 steps in turn, in one process; this project's reader checks all
checksums. Results are compared point by point with those of TensorBoard's own reader and, if it is installed, of
tbparse.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from pli_analysis.scalars import reading

TAGS = 200


def write(folder: Path, steps: int) -> None:
    """Write an event file as torch's writer does: one record per scalar."""
    with (folder / "events.out.tfevents.1.host.1.0").open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
        for step in range(steps):
            for tag in range(TAGS):
                value = Summary.Value(tag=f"grad_norm/head/{tag}", simple_value=(step * 7 + tag) % 1000 / 7)
                writer.write(Event(wall_time=step + 0.5, step=step, summary=Summary(value=[value])).SerializeToString())


def columns(folder: Path) -> reading.Scalars:
    """This project's reader, as arrays."""
    return reading.read(folder)


def values(folder: Path) -> dict:
    """This project's reader, as tag → {step: (wall time, value)}."""
    return reading.read(folder).values


def event_accumulator(folder: Path) -> dict:
    """The same with TensorBoard's EventAccumulator, set to keep every point."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return {
        tag: {e.step: (e.wall_time, e.value) for e in accumulator.Scalars(tag)} for tag in accumulator.Tags()["scalars"]
    }


def tbparse(folder: Path) -> object:
    """The same with tbparse, as a pandas table with wall times."""
    from tbparse import SummaryReader

    return SummaryReader(str(folder), extra_columns={"wall_time"}).scalars


def compare(read: dict, points: int) -> None:
    """Assert that all readers return all points, with equal values."""
    found = read[values]
    assert sum(map(len, found.values())) == points, "points were dropped"
    assert read[columns].values == found == read[event_accumulator], "the readers disagree"
    if tbparse in read:
        rows = read[tbparse]
        theirs = zip(rows["tag"], rows["step"], rows["wall_time"], rows["value"], strict=True)
        assert len(rows) == points
        assert all(found[tag][step] == (wall, value) for tag, step, wall, value in theirs), "tbparse disagrees"


def main() -> None:
    """Print a table of all readers, and their ratios to this project's reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    readers = [columns, values, event_accumulator]
    if importlib.util.find_spec("tbparse"):
        readers.append(tbparse)
    else:
        print("tbparse is not installed, so it is skipped; install it with: pip install tbparse")
    taken: dict = {reader: [] for reader in readers}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.steps)
        columns(folder)  # imports pandas before the measurement
        for turn in range(options.repeats):
            read = {}
            for reader in readers[turn % len(readers) :] + readers[: turn % len(readers)]:
                began = time.perf_counter()
                read[reader] = reader(folder)
                taken[reader].append(time.perf_counter() - began)
            compare(read, options.steps * TAGS)
    print(f"{options.steps * TAGS:,} scalars, {TAGS} tags, {options.repeats} turns; same points read by all")
    print("reader              median  (spread), s            ÷ columns (spread)     ÷ values (spread)")
    for reader, times in taken.items():
        ratios = [spread([b / a for a, b in zip(taken[ours], times, strict=True)], 1) for ours in (columns, values)]
        print(f"{reader.__name__:18} {spread(times, 3):26}   {ratios[0]:22} {ratios[1]}")


def spread(numbers: list[float], digits: int) -> str:
    """Return median, minimum and maximum."""
    low, middle, high = (f"{n:.{digits}f}" for n in (min(numbers), statistics.median(numbers), max(numbers)))
    return f"{middle:>7}  ({low} to {high})"


if __name__ == "__main__":
    main()
