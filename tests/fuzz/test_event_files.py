"""Broken event files: what is whole is read, what is not is counted, and nothing crashes, hangs or fills the memory."""

import random
import resource
import struct
import time

import numpy as np
import pytest
from google_crc32c import value as crc
from hypothesis import given, settings
from hypothesis import strategies as st

from pli_analysis import events, records, scalars
from tests.fuzz.changes import torn

SECONDS, MEMORY = 2.0, 2**30


def framed(payload):
    length = struct.pack("<Q", len(payload))
    return length + summed(length) + payload + summed(payload)


def summed(part):
    return records.masked(np.array([crc(part)], dtype=np.uint32)).tobytes()


def decoded(data):
    """tag → {step: (wall time, value)}, and how many records are damaged; through bytes alone, no file."""
    found = records.find(data)
    piece = events.decode(data, found)
    return scalars.Scalars(piece.columns).values, found.damaged + found.lost + piece.damaged


def event(step, values, wall_time=1.0, **more):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    told = [Summary.Value(tag=tag, simple_value=value) for tag, value in values]
    return Event(step=step, wall_time=wall_time, summary=Summary(value=told), **more).SerializeToString()


points = st.tuples(st.integers(-5, 2**40), st.sampled_from(["a", "loss/é", "x" * 120, ""]), st.floats(width=32))


@settings(deadline=None)  # the first reading imports protobuf
@given(st.lists(st.lists(points, min_size=1, max_size=3), max_size=30), st.floats(allow_nan=False))
def test_every_scalar_is_read_as_it_was_written(logged, wall_time):
    """Against a plain loop; some records hold several values, which only protobuf can tell."""
    data, expected = b"", {}
    for each in logged:
        step = each[0][0]
        data += framed(event(step, [(tag, value) for _, tag, value in each], wall_time))
        for _, tag, value in each:
            expected.setdefault(tag, {})[step] = (wall_time, value)
    found, damaged = decoded(data)
    assert not damaged and found.keys() == expected.keys()
    for tag, of_tag in expected.items():
        assert sorted(found[tag]) == sorted(of_tag)
        for step, pair in of_tag.items():
            assert np.array_equal(found[tag][step], pair, equal_nan=True)


def test_plain_records_need_no_protobuf(good, monkeypatch):
    monkeypatch.setattr("tensorboard.compat.proto.event_pb2.Event.FromString", None)
    found, damaged = decoded(good)
    assert not damaged and {tag: len(points) for tag, points in found.items()} == {"loss": 60, "rate": 60, "x": 60}


@pytest.fixture(scope="module")
def good():
    return b"".join(framed(event(step, [(tag, step / 7)])) for step in range(60) for tag in ("loss", "rate", "x"))


def reframed(data, chance):
    """One record with another length or payload, its checksums made to fit."""
    found = records.find(data)
    number = chance.randrange(len(found.starts))
    start, length = int(found.starts[number]), int(found.lengths[number])
    payload = data[start : start + length]
    if chance.random() < 0.5:
        bad = framed(torn(payload, chance))
    else:
        told = struct.pack("<Q", chance.choice((0, 1, length + 1, 2**31, 2**40, 2**63, 2**64 - 1)))
        bad = told + summed(told) + payload
    return data[: start - 12] + bad + data[start + length + 4 :]


def in_words(values):
    """Where NaN equals itself."""
    return {tag: repr(points) for tag, points in values.items()}


def test_broken_event_files(good, fuzz_cases, tmp_path, monkeypatch):
    """Read at once and by pieces: both never fail, and find the same."""
    monkeypatch.setattr(scalars, "CHUNK", 2048)
    path = tmp_path / "events.out.tfevents.1.host.1.0"
    chance = random.Random(fuzz_cases)
    decoded(good)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in range(fuzz_cases):
        bad = reframed(good, chance) if chance.random() < 0.5 else torn(good, chance)
        began = time.process_time()
        values, damaged = decoded(bad)
        path.write_bytes(bad)
        by_pieces = scalars.read(path)
        assert time.process_time() - began < SECONDS, number
        assert in_words(by_pieces.values) == in_words(values), number
        told = f"{path}: {damaged} damaged record{'s' * (damaged > 1)}"
        assert by_pieces.damaged == [told] * (damaged > 0), number
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MEMORY


def test_every_flip_of_a_byte_is_told_and_costs_one_record_or_the_rest(good):
    data = good[:600]
    whole = records.find(data)
    for at in range(int(whole.starts[-1] + whole.lengths[-1]) + 4):
        bad = bytearray(data)
        bad[at] ^= 0x10
        found = records.find(bytes(bad))
        assert found.damaged + found.lost == 1
        assert set(found.starts) < set(whole.starts)


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_tail_cut_short_is_no_damage(good, cut):
    found, damaged = decoded(good[:-cut])
    assert not damaged and len(found["loss"]) == 60
