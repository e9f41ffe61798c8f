"""Broken event files: valid records are read, others are counted; nothing crashes, hangs or exhausts memory."""

import random
import resource
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pli_analysis.scalars import events, reading, records
from tests.event_files import event, framed, summed
from tests.fuzz.changes import torn

SECONDS, MEMORY = 2.0, 2**30


def decoded(data):
    """Return tag → {step: (wall time, value)}, the number of damaged records, and skipped bytes, without a file."""
    segment, damaged, at, skipped = events.Segment({}), 0, 0, 0
    while at is not None:
        found = records.find(data[at:])
        read = events.decode(data[at:], found)
        segment = segment.then(read)
        damaged += found.damaged + found.lost + read.damaged
        if not found.lost:
            break
        lost = at + found.end
        at = records.next_head(data, lost + 1)
        skipped += (len(data) if at is None else at) - lost
    return reading.Scalars(segment.columns).values, damaged, skipped


points = st.tuples(st.integers(-5, 2**40), st.sampled_from(["a", "loss/é", "x" * 120, ""]), st.floats(width=32))


@settings(deadline=None)  # the first call imports protobuf
@given(st.lists(st.lists(points, min_size=1, max_size=3), max_size=30), st.floats(allow_nan=False))
def test_every_scalar_is_read_as_it_was_written(logged, wall_time):
    """Compared with a plain loop. Some records have several values, which only protobuf decodes."""
    data, expected = b"", {}
    for each in logged:
        step = each[0][0]
        data += framed(event(step, [(tag, value) for _, tag, value in each], wall_time))
        for _, tag, value in each:
            expected.setdefault(tag, {})[step] = (wall_time, value)
    found, damaged, _ = decoded(data)
    assert not damaged and found.keys() == expected.keys()
    for tag, of_tag in expected.items():
        assert sorted(found[tag]) == sorted(of_tag)
        for step, pair in of_tag.items():
            assert np.array_equal(found[tag][step], pair, equal_nan=True)


def test_plain_records_need_no_protobuf(good, monkeypatch):
    monkeypatch.setattr("tensorboard.compat.proto.event_pb2.Event.FromString", None)
    found, damaged, _ = decoded(good)
    assert not damaged and {tag: len(points) for tag, points in found.items()} == {"loss": 60, "rate": 60, "x": 60}


@pytest.fixture(scope="module")
def good():
    return b"".join(framed(event(step, [(tag, step / 7)])) for step in range(60) for tag in ("loss", "rate", "x"))


@pytest.fixture(scope="module")
def in_tensors():
    """The same points in TensorFlow 2's format."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.plugins.scalar.metadata import create_summary_metadata

    def record(step, tag):
        content = np.float32(step / 7).tobytes()
        tensor = TensorProto(dtype=1, tensor_shape=TensorShapeProto(), tensor_content=content)
        value = Summary.Value(tag=tag, tensor=tensor, metadata=create_summary_metadata("", ""))
        return framed(Event(step=step, wall_time=1.0, summary=Summary(value=[value])).SerializeToString())

    return b"".join(record(step, tag) for step in range(60) for tag in ("loss", "rate", "x"))


def reframed(data, chance):
    """Return data with a changed length or payload of one record, and matching checksums."""
    found = records.find(data)
    number = chance.randrange(len(found.starts))
    start, length = int(found.starts[number]), int(found.lengths[number])
    payload = data[start : start + length]
    if chance.random() < 0.5:
        bad = framed(torn(payload, chance))
    else:
        message = struct.pack("<Q", chance.choice((0, 1, length + 1, 2**31, 2**40, 2**63, 2**64 - 1)))
        bad = message + summed(message) + payload
    return data[: start - 12] + bad + data[start + length + 4 :]


def in_words(values):
    """Return whether values are equal; NaN equals NaN."""
    return {tag: repr(points) for tag, points in values.items()}


@pytest.mark.parametrize("kind", ["good", "in_tensors"])
def test_broken_event_files(kind, request, fuzz_cases, tmp_path, monkeypatch):
    """Reading at once and in parts never fails, and both give the same result."""
    good = request.getfixturevalue(kind)
    monkeypatch.setattr(reading, "CHUNK", 2048)
    path = tmp_path / "events.out.tfevents.1.host.1.0"
    chance = random.Random(fuzz_cases)
    decoded(good)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in range(fuzz_cases):
        bad = reframed(good, chance) if chance.random() < 0.5 else torn(good, chance)
        began = time.process_time()
        values, damaged, skipped = decoded(bad)
        path.write_bytes(bad)
        by_segments = reading.read(path)
        assert time.process_time() - began < SECONDS, number
        assert in_words(by_segments.values) == in_words(values), number
        message = f"{path}: {damaged} damaged record{'s' * (damaged > 1)}"
        message += f", and {skipped:,} bytes skipped after a wrong length" if skipped else ""
        assert by_segments.damaged == [message] * (damaged > 0), number
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MEMORY


@pytest.mark.parametrize("kind", ["good", "in_tensors"])
def test_broken_records_say_what_protobuf_makes_of_them(kind, request, fuzz_cases, monkeypatch):
    """Payloads changed at random with correct checksums, decoded together and one by one."""
    data, chance = request.getfixturevalue(kind), random.Random(fuzz_cases + 1)
    for number in range(fuzz_cases):
        bad = reframed(data, chance)
        together = decoded(bad)
        with monkeypatch.context() as patch:
            patch.setattr(
                "pli_analysis.scalars.record_layouts.decode", lambda data, records: ([], np.arange(len(records.starts)))
            )
            alone = decoded(bad)
        assert (in_words(together[0]), together[1:]) == (in_words(alone[0]), alone[1:]), number


def test_every_flip_of_a_byte_is_reported_and_costs_one_record_or_the_rest(good):
    data = good[:600]
    whole = records.find(data)
    for at in range(int(whole.starts[-1] + whole.lengths[-1]) + 4):
        bad = bytearray(data)
        bad[at] ^= 0x10
        found = records.find(bytes(bad))
        assert found.damaged + found.lost == 1
        assert set(found.starts) < set(whole.starts)


def test_records_behind_a_wrong_length_are_read(good, tmp_path):
    """Up to the damage the result equals that of TensorBoard's reader, which stops there; this reader continues."""
    whole = records.find(good)
    path = tmp_path / "events.out.tfevents.1.host.1.0"
    head = int(whole.starts[90]) - records.HEAD
    bad = bytearray(good)
    bad[head] ^= 0x40
    path.write_bytes(bad)
    found = reading.read(path)
    values, _, _ = decoded(good)
    assert values["loss"].pop(30)
    assert in_words(found.values) == in_words(values)
    size = int(whole.lengths[90]) + records.FRAME
    assert found.damaged == [f"{path}: 1 damaged record, and {size} bytes skipped after a wrong length"]


def test_a_hole_of_zeros_is_passed_over(good, tmp_path):
    """After a power failure: the file has its final length, but some blocks were not written."""
    path = tmp_path / "events.out.tfevents.1.host.1.0"
    path.write_bytes(good + bytes(5000) + framed(event(99, [("loss", 1.0)])))
    found = reading.read(path)
    assert found.at("loss", 99) == 1.0 and len(found.of("loss").steps) == 61
    assert found.damaged == [f"{path}: 1 damaged record, and 5,000 bytes skipped after a wrong length"]


def test_a_wrong_length_at_the_end_is_counted_with_its_bytes(good, tmp_path):
    path = tmp_path / "events.out.tfevents.1.host.1.0"
    path.write_bytes(good + b"\xff" * 100)
    reader = reading.Reader(path)
    for _ in range(2):
        found = reader.update()
        assert found.damaged == [f"{path}: 1 damaged record, and 100 bytes skipped after a wrong length"]
    with path.open("ab") as file:
        file.write(framed(event(99, [("loss", 1.0)])))
    assert reader.update().at("loss", 99) == 1.0


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_tail_cut_short_is_no_damage(good, cut):
    found, damaged, _ = decoded(good[:-cut])
    assert not damaged and len(found["loss"]) == 60
