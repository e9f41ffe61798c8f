"""Scalars as TensorFlow 2 writes them, in tensors: what is decoded together is what TensorBoard's own reader gives."""

import numpy as np
import pytest
from google_crc32c import value as crc
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util
from tensorboard.util.tensor_util import make_tensor_proto

from pli_analysis.scalars import reading, record_layouts

FLOAT, DOUBLE, HALF = 1, 2, 19
RANK_0 = {"tensor_shape": TensorShapeProto()}
KINDS = {
    "float content": lambda x: TensorProto(dtype=FLOAT, tensor_content=np.float32(x).tobytes(), **RANK_0),
    "float content without shape": lambda x: TensorProto(dtype=FLOAT, tensor_content=np.float32(x).tobytes()),
    "float values": lambda x: TensorProto(dtype=FLOAT, float_val=[x], **RANK_0),
    "float values without shape": lambda x: TensorProto(dtype=FLOAT, float_val=[x]),
    "double content": lambda x: TensorProto(dtype=DOUBLE, tensor_content=np.float64(x).tobytes(), **RANK_0),
    "double values": lambda x: TensorProto(dtype=DOUBLE, double_val=[x], **RANK_0),
    "half content": lambda x: TensorProto(dtype=HALF, tensor_content=np.float16(x).tobytes(), **RANK_0),
}
UNUSUAL = {
    "TensorBoard's own": lambda x: make_tensor_proto(np.float32(x)),
    "one element, rank 1": lambda x: make_tensor_proto(np.array([x])),
    "an integer": lambda x: make_tensor_proto(np.int64(np.nan_to_num(x, posinf=7, neginf=-7))),
    "half values": lambda x: make_tensor_proto(np.float16(x)),
}


def record(tag, step, tensor, metadata, wall_time=1.5):
    value = Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
    return Event(wall_time=wall_time, step=step, summary=Summary(value=[value])).SerializeToString()


def write(folder, records):
    with (folder / "events.out.tfevents.1.host.1.0").open("wb") as file:
        writer = RecordWriter(file)
        for each in records:
            writer.write(each)
    return folder


def padded_form(folder):
    """tag → [(step, wall time, value)] by TensorBoard's own reader and its own decoder of tensors."""
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    found.Reload()
    return {
        tag: [(e.step, e.wall_time, float(tensor_util.make_ndarray(e.tensor_proto).item())) for e in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
    }


def ours(folder):
    found = reading.read(folder)
    assert not found.damaged
    return {
        tag: list(zip(of.steps.tolist(), of.wall_times.tolist(), of.values.tolist(), strict=True))
        for tag, of in found.columns.items()
    }


PLAIN = create_summary_metadata("", "")
VALUES = [0.0, -0.0, 1.0, -2.5, 1e-6, 65504.0, float("nan"), float("inf"), float("-inf"), 0.1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_usual_forms_are_decoded_without_protobuf(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tensorboard.compat.proto.event_pb2.Event.FromString", None)
    tags = ("epoch_loss", "ä" * 20, "a")
    records = [record(tag, step, KINDS[kind](value), PLAIN) for step, value in enumerate(VALUES) for tag in tags]
    last = Summary(value=[Summary.Value(tag="last", simple_value=1)])  # protobuf reads tensors at the very end
    found = ours(write(tmp_path, [*records, Event(wall_time=1, summary=last).SerializeToString()]))
    monkeypatch.undo()
    assert found.pop("last") == [(0, 1.0, 1.0)]
    assert repr(found) == repr(padded_form(tmp_path)) and len(found) == 3


@pytest.mark.parametrize("kind", KINDS | UNUSUAL)
def test_every_form_is_what_tensorboard_reads(kind, tmp_path):
    made = (KINDS | UNUSUAL)[kind]
    records = [record("x", step, made(value), PLAIN) for step, value in enumerate(VALUES)]
    assert repr(ours(write(tmp_path, records))) == repr(padded_form(tmp_path))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*KINDS, *UNUSUAL]),
            st.sampled_from(["loss", "validation/loss", "x" * 90, "x" * 127, "x" * 300]),
            st.floats(-60000, 60000, width=16),
            st.sampled_from(["", "mean over the epoch", "long " * 50]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_forms_mixed_in_one_file(tmp_path_factory, logged):
    """Long tags and descriptions have lengths of two bytes, which protobuf alone reads here."""
    folder = tmp_path_factory.mktemp("mixed")
    records = []
    for step, (kind, tag, value, described) in enumerate(logged):
        metadata = create_summary_metadata("", described)
        records.append(record(tag, step * 1000, (KINDS | UNUSUAL)[kind](value), metadata, step + 0.25))
    assert ours(write(folder, records)) == padded_form(folder)


def test_tensors_of_other_plugins_are_no_scalars(tmp_path):
    other = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="histograms"))
    tensor = KINDS["float content"](1.0)
    records = [record("h", 1, tensor, other), record("s", 1, tensor, PLAIN), record("none", 1, tensor, None)]
    assert list(ours(write(tmp_path, records))) == ["s"]


def test_what_torch_writes_in_the_new_style(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("loss", 1 / (step + 1), step, new_style=True)
            writer.add_scalar("old", 2.0, step)
    assert ours(tmp_path)["loss"] == padded_form(tmp_path)["loss"] and len(ours(tmp_path)["old"]) == 5


def test_strings_of_one_hash_are_left_to_protobuf(monkeypatch, tmp_path):
    monkeypatch.setattr(record_layouts, "_ODD", np.uint64(0))
    records = [record(tag, 1, KINDS["float content"](value), PLAIN) for tag, value in (("a", 1), ("b", 2), ("c", 3))]
    assert ours(write(tmp_path, records)) == padded_form(tmp_path)


def test_a_damaged_number_is_a_damaged_record(tmp_path):
    path = write(tmp_path, [record("x", step, KINDS["float content"](step), PLAIN) for step in range(4)])
    [file] = path.iterdir()
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    assert crc(bytes(data)) and len(reading.read(tmp_path).of("x").steps) == 3
