"""Event files read while they grow: whatever was read when, it is what one reading at the end gives."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pli_analysis.scalars import reading
from pli_analysis.scalars.reading import Reader, read
from pli_train.core.errors import BadInput
from tests.event_files import event, framed


def start(step):
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    return Event(step=step, wall_time=1.0, session_log=SessionLog(status=SessionLog.START)).SerializeToString()


records = st.one_of(
    st.tuples(st.just("value"), st.integers(0, 6), st.sampled_from(["a", "b/c"]), st.floats(width=32)),
    st.tuples(st.just("two"), st.integers(0, 6), st.just("a"), st.floats(width=32)),
    st.tuples(st.just("start"), st.integers(0, 6), st.just(""), st.just(0.0)),
    st.tuples(st.sampled_from(["flipped", "garbage", "long"]), st.integers(0, 6), st.just("a"), st.just(1.0)),
)
files = st.lists(st.lists(records, max_size=12), min_size=1, max_size=3)


def bytes_of(kind, step, tag, value):
    if kind == "start":
        return framed(start(step))
    if kind == "flipped":
        whole = framed(event(step, [(tag, value)]))
        return whole[:-1] + bytes([whole[-1] ^ 1])
    if kind == "garbage":
        return framed(b"\xff" * 30)
    if kind == "long":
        return framed(event(step, [("x" * 200, value)]))
    return framed(event(step, [(tag, value)] * (2 if kind == "two" else 1)))


def by_hand(logged):
    """What one loop over all records of all files makes of them."""
    found, damaged = {}, 0
    for kind, step, tag, value in (record for file in logged for record in file):
        if kind == "start":
            found = {tag: {at: v for at, v in of_tag.items() if at < step} for tag, of_tag in found.items()}
        elif kind in ("flipped", "garbage"):
            damaged += 1
        else:
            found.setdefault("x" * 200 if kind == "long" else tag, {})[step] = value
    return {tag: of_tag for tag, of_tag in found.items() if of_tag}, damaged


def same(one, other):
    assert one.columns.keys() == other.columns.keys() and one.damaged == other.damaged
    for tag, columns in one.columns.items():
        for mine, theirs in zip(columns, other.columns[tag], strict=True):
            assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs, equal_nan=True)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(files, st.randoms(use_true_random=False), st.sampled_from([70, reading.CHUNK]))
def test_any_sequence_of_updates_gives_what_a_fresh_read_gives(tmp_path_factory, monkeypatch, logged, chance, chunk):
    monkeypatch.setattr(reading, "CHUNK", chunk)
    folder = tmp_path_factory.mktemp("run")
    reader, left = Reader(folder), {}
    for number, file in enumerate(logged):
        left[folder / f"events.out.tfevents.{number:010d}.host.1.0"] = b"".join(bytes_of(*record) for record in file)
    while left:  # files grow in turns, by pieces that end anywhere
        path = chance.choice(sorted(left))
        size = chance.choice([0, 1, 11, 13, 60, 1000])
        with path.open("ab") as file:
            file.write(left[path][:size])
        left[path] = left[path][size:]
        if not left[path]:
            del left[path]
        if chance.random() < 0.7:
            same(reader.update(), read(folder))
    found, (expected, damaged) = reader.update(), by_hand(logged)
    same(found, read(folder))
    assert found.columns.keys() == expected.keys()
    for tag, (steps, _, values) in found.columns.items():
        assert steps.tolist() == sorted(expected[tag])
        assert np.array_equal(values, [expected[tag][step] for step in steps.tolist()], equal_nan=True)
    assert sum(int(line.split(": ")[1].split()[0]) for line in found.damaged) == damaged


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.out.tfevents.1.host.1.0"


def test_an_update_reads_only_what_was_appended(path, monkeypatch):
    seen = []
    find = reading.records.find
    monkeypatch.setattr(reading.records, "find", lambda data, check: seen.append(len(data)) or find(data, check))
    reader, whole = Reader(path), b"".join(framed(event(step, [("x", step)])) for step in range(1000))
    path.write_bytes(whole)
    reader.update()
    more = framed(event(1000, [("x", 0.5)]))
    with path.open("ab") as file:
        file.write(more)
    assert reader.update().of("x").values[-1] == 0.5
    assert reader.update().of("x").steps[-1] == 1000
    assert seen == [len(whole), len(more)]


def test_a_cut_record_is_read_once_its_rest_is_there(path):
    reader, record = Reader(path), framed(event(3, [("x", 1.0)]))
    for end in range(len(record)):
        path.write_bytes(record[:end])
        found = reader.update()
        assert not found.columns and not found.damaged
    path.write_bytes(record)
    assert reader.update().of("x").steps.tolist() == [3]


def test_a_file_written_anew_and_one_removed(path, tmp_path):
    reader, other = Reader(tmp_path), tmp_path / "events.out.tfevents.2.host.1.0"
    path.write_bytes(framed(event(1, [("x", 1.0)])) * 5)
    other.write_bytes(framed(event(2, [("y", 2.0)])))
    assert reader.update().columns.keys() == {"x", "y"}
    path.write_bytes(framed(event(7, [("x", 3.0)])))
    assert reader.update().values == {"x": {7: (1.0, 3.0)}, "y": {2: (1.0, 2.0)}}
    other.unlink()
    assert reader.update().columns.keys() == {"x"}


def test_a_wrong_length_is_one_damaged_record_however_often_it_is_read(path):
    reader, good = Reader(path), framed(event(1, [("x", 1.0)]))
    path.write_bytes(good + b"\1" + good[1:])
    for _ in range(3):
        (line,) = reader.update().damaged
        assert line == f"{path}: 1 damaged record, and {len(good)} bytes skipped after a wrong length"
        with path.open("ab") as file:
            file.write(good)
    assert reader.update().of("x").steps.tolist() == [1]


def test_checksums_of_payloads_may_be_left_unchecked(path):
    whole = bytearray(framed(event(1, [("x", 1.0)])))
    whole[-1] ^= 1
    path.write_bytes(whole)
    assert read(path).damaged == [f"{path}: 1 damaged record"]
    unchecked = read(path, check=False)
    assert not unchecked.damaged and unchecked.of("x").values.tolist() == [1.0]


def test_a_path_that_appears_later(path):
    reader = Reader(path)
    with pytest.raises(BadInput, match="no such file"):
        reader.update()
    path.write_bytes(framed(event(1, [("x", 1.0)])))
    assert reader.update().of("x").steps.tolist() == [1]


def test_many_tags_of_all_lengths_and_steps_of_all_sizes_against_a_loop(path):
    chance, expected = random.Random(0), {}
    tags = ["é" * n + "t" * m for n in range(3) for m in range(130)]
    with path.open("wb") as file:
        for number in range(4000):
            tag, step = chance.choice(tags), chance.choice([0, 1, 127, 128, 2**14, 2**21, 2**40, 2**62, -1, -(2**63)])
            file.write(framed(event(step, [(tag, float(number))])))
            expected.setdefault(tag, {})[step] = (1.0, float(number))
    assert read(path).values == expected


@pytest.mark.parametrize("odd", [0, 1])
def test_the_later_value_of_a_step_stands_whoever_decoded_it(path, odd):
    """Records of two values go to protobuf, those of one do not."""
    points = [[("x", float(number))] * (1 + number % 2) for number in range(odd, odd + 3)]
    path.write_bytes(b"".join(framed(event(5, each)) for each in points))
    assert read(path).values == {"x": {5: (1.0, odd + 2.0)}}


def test_a_second_restart_further_back_drops_what_the_first_left(path):
    value = [framed(event(step, [("x", float(step))])) for step in range(10)]
    path.write_bytes(b"".join([*value, framed(start(2)), *value[2:5], framed(start(7)), value[7]]))
    assert read(path).of("x").steps.tolist() == [0, 1, 2, 3, 4, 7]
    path.write_bytes(b"".join([*value, framed(start(7)), value[7], framed(start(2)), value[3]]))
    assert read(path).of("x").steps.tolist() == [0, 1, 3]
