"""Broken event files: what is whole is read, what is not is counted, and nothing crashes, hangs or fills the memory."""

import random
import resource
import struct
import time

import numpy as np
import pytest
from google_crc32c import value as crc
from hypothesis import given
from hypothesis import strategies as st

from pli_analysis import records, scalars
from tests.fuzz.changes import torn

SECONDS, MEMORY = 2.0, 2**30


def framed(payload):
    length = struct.pack("<Q", len(payload))
    sums = (struct.pack("<I", records.masked(crc(part))) for part in (length, payload))
    return length + next(sums) + payload + next(sums)


def event(step, values, wall_time=1.0, **more):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    told = [Summary.Value(tag=tag, simple_value=value) for tag, value in values]
    return Event(step=step, wall_time=wall_time, summary=Summary(value=told), **more).SerializeToString()


points = st.tuples(st.integers(-5, 2**40), st.sampled_from(["a", "loss/é", "x" * 120, ""]), st.floats(width=32))


@given(st.lists(st.lists(points, min_size=1, max_size=3), max_size=30), st.floats(allow_nan=False))
def test_every_scalar_is_read_as_protobuf_reads_it(events, wall_time):
    """Against a plain loop; some records hold several values, which only protobuf can tell."""
    data, expected = b"", {}
    for each in events:
        step = each[0][0]
        data += framed(event(step, [(tag, value) for _, tag, value in each], wall_time))
        for _, tag, value in each:
            expected.setdefault(tag, {})[step] = (wall_time, value)
    found = records.find(data)
    assert found.damaged == 0 and len(found.starts) == len(events)
    plain, others = records.decode(data, found)
    together = scalars.Scalars()
    scalars.add(together, data, "x")
    assert together.values.keys() == expected.keys() and not together.damaged
    for tag, of_tag in expected.items():
        assert sorted(together.values[tag]) == sorted(of_tag)
        for step, pair in of_tag.items():
            assert np.array_equal(together.values[tag][step], pair, equal_nan=True)
    assert len(others) + sum(len(group.record) for group in plain) == len(events)


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
        bad = told + struct.pack("<I", records.masked(crc(told))) + payload
    return data[: start - 12] + bad + data[start + length + 4 :]


def test_broken_event_files(good, fuzz_cases):
    chance, whole = random.Random(fuzz_cases), scalars.Scalars()
    scalars.add(whole, good, "x")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in range(fuzz_cases):
        bad = reframed(good, chance) if chance.random() < 0.5 else torn(good, chance)
        began, found = time.process_time(), scalars.Scalars()
        scalars.add(found, bad, "x")
        assert time.process_time() - began < SECONDS, number
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MEMORY


def test_every_flip_of_a_byte_is_told_and_costs_one_record_or_the_rest(good):
    data = good[:600]
    whole = records.find(data)
    for at in range(int(whole.starts[-1] + whole.lengths[-1]) + 4):
        bad = bytearray(data)
        bad[at] ^= 0x10
        found = records.find(bytes(bad))
        assert found.damaged == 1
        assert set(found.starts) < set(whole.starts)


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_tail_cut_short_is_no_damage(good, cut):
    found = scalars.Scalars()
    scalars.add(found, good[:-cut], "x")
    assert not found.damaged and len(found.values["loss"]) == 60
