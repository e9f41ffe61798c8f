"""Speed of reading scalars in tensors, as TensorFlow 2 writes them: `python tests/benchmarks/bench_events.py`.

One file has the points as plain scalars, and another has them in tensors. They are read in turn, in one process, with
all checksums checked; times are CPU seconds. `by protobuf` decodes every tensor record with protobuf, as it was done
before such records were decoded together.
"""

import argparse
import gc
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_ndarray

from pli_analysis.scalars import reading, record_layouts

TAGS = ("epoch_loss", "epoch_accuracy", "epoch_learning_rate", "batch_loss")
NO_POINTS = record_layouts.Points([], *(np.empty(0, dtype=np.int64) for _ in range(5)))
"""Patch value that turns off decoding records together."""


def write(folder: Path, points: int, in_tensors: bool) -> Path:
    """Write an event file with this number of points."""
    folder.mkdir()
    metadata = create_summary_metadata("", "")
    with (folder / "events.out.tfevents.1.host.1.0.v2").open("wb") as file:
        writer = RecordWriter(file)
        for number in range(points):
            step, tag = divmod(number, len(TAGS))
            content = np.float32(number % 1000 / 7)
            if in_tensors:
                tensor = TensorProto(dtype=1, tensor_shape=TensorShapeProto(), tensor_content=content.tobytes())
                value = Summary.Value(tag=TAGS[tag], tensor=tensor, metadata=metadata)
            else:
                value = Summary.Value(tag=TAGS[tag], simple_value=content)
            writer.write(Event(wall_time=step + 0.5, step=step, summary=Summary(value=[value])).SerializeToString())
    return folder


def by_protobuf(folder: Path) -> reading.Scalars:
    """This project's reader, with each tensor record decoded by protobuf."""
    with patch.object(record_layouts, "_tensors", lambda data, begun: NO_POINTS):
        return reading.read(folder)


def event_accumulator(folder: Path) -> dict:
    """TensorBoard's own reader, set to keep every point."""
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return {
        tag: {e.step: (e.wall_time, float(make_ndarray(e.tensor_proto).item())) for e in found.Tensors(tag)}
        for tag in found.Tags()["tensors"]
    }


def main() -> None:
    """Print a table of all readers, and their ratios to this project's reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tensors = write(Path(name) / "tensors", options.points, in_tensors=True)
        plain = write(Path(name) / "plain", options.points, in_tensors=False)
        readers = {
            "tensors": lambda: reading.read(tensors),
            "plain scalars": lambda: reading.read(plain),
            "tensors by protobuf": lambda: by_protobuf(tensors),
            "EventAccumulator": lambda: event_accumulator(tensors),
        }
        expected = readers["EventAccumulator"]()
        assert sum(map(len, expected.values())) == options.points
        for name in ("tensors", "plain scalars", "tensors by protobuf"):  # also imports pandas, and fills disk caches
            assert readers[name]().values == expected, f"{name}: other points"
        taken: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(options.repeats):
            for name, read in readers.items():
                gc.collect()  # do not measure the cleanup after the previous reader
                began = time.process_time()
                read()
                taken[name].append(time.process_time() - began)
    print(f"{options.points:,} points, {options.repeats} turns; the same points read by all")
    print("reader                median  (spread), s           ÷ tensors (spread)")
    for name, times in taken.items():
        ratios = [mine / ours for mine, ours in zip(times, taken["tensors"], strict=True)]
        print(f"{name:20} {spread(times, 3):27}   {spread(ratios, 1)}")


def spread(numbers: list[float], digits: int) -> str:
    """Return median, minimum and maximum."""
    low, middle, high = (f"{n:.{digits}f}" for n in (min(numbers), statistics.median(numbers), max(numbers)))
    return f"{middle:>7}  ({low} to {high})"


if __name__ == "__main__":
    main()
