"""Broken logs of other libraries: tables and states are read, skipped with a line, or refused with a one-line error."""

import json
import random
import time

import numpy as np
import pytest

from pli_analysis.runs import paths
from pli_train.core.errors import BadInput
from tests.fuzz.changes import mutated, torn
from tests.fuzz.watch import Blind, Watch

SECONDS = 2.0
WANDB = (
    "Step",
    *(
        f"{run} - {tag}{bound}"
        for run in ("a", "b - c")
        for tag in ("_step", "loss")
        for bound in ("", "__MIN", "__MAX")
    ),
)
TABLES = {
    "metrics.csv": "epoch,step,train_loss,val_loss\n" + "".join(f"{n // 4},{n},{n / 7},\n" for n in range(40)),
    "training.log": "epoch;loss;val_loss\n" + "".join(f"{n};{n / 3};NA\n" for n in range(40)),
    "wandb.csv": "\n".join([",".join(f'"{name}"' for name in WANDB), *(f"{n}" + ",1.5" * 12 for n in range(30))])
    + "\n",
    "history.csv": "_step,_timestamp,loss,note\n" + "".join(f"{n},{1.7e9 + n},{n / 9},word\n" for n in range(40)),
    "download.csv": "Wall time,Step,Value\n" + "".join(f"{1.7e9 + n},{n},{n / 9}\n" for n in range(40)),
    "trainer_state.json": json.dumps(
        {"global_step": 40, "log_history": [{"step": n, "loss": n / 3, "epoch": 0.1} for n in range(40)]}
    ),
}
CELLS = (
    b"",
    b"NaN",
    b"-inf",
    b"1e999",
    b"9" * 400,
    b"x",
    b'"',
    b"\0",
    b"\xff",
    b"0.5",
    b"-1",
    b"1_000",
    b"\xef\xbb\xbf",
    b"step",
)


def changed(path, data, chance):
    """Return a file's content with changed cells, rows or bytes."""
    if path.suffix == ".json":
        return mutated(path, data, chance)
    if chance.random() < 0.4:
        return torn(data, chance)
    rows = data.split(b"\n")
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(rows))
        cells = rows[at].split(b",")
        what = chance.randrange(4)
        if what == 0:
            cells[chance.randrange(len(cells))] = chance.choice(CELLS)
        elif what == 1:
            del cells[chance.randrange(len(cells))]
        elif what == 2:
            cells.insert(chance.randrange(len(cells) + 1), chance.choice(CELLS))
        else:
            cells = rows[chance.randrange(len(rows))].split(b",")
        rows[at] = b",".join(cells)
    return b"\n".join(rows)


def points(folder, path):
    """Return how many points are read from a file, alone and in its folder; 0 after a named error."""
    count = 0
    for asked in (path, folder):
        try:
            for source, logged in paths.logged(asked):
                assert paths.names([source])[0]
                for of in logged.columns.values():
                    assert of.steps.dtype == np.int64 and (np.diff(of.steps) > 0).all()
                    count += len(of.values)
                assert all("\n" not in line for line in logged.damaged)
        except BadInput as error:
            assert str(error) and "\n" not in str(error), error
    return count


@pytest.mark.parametrize("name", TABLES)
def test_broken_logs_are_read_or_refused_in_one_line(name, fuzz_cases, tmp_path):
    path, good = tmp_path / name, TABLES[name].encode()
    path.write_bytes(good)
    whole = points(tmp_path, path)
    assert whole >= 40
    read, seed = 0, f"{name} {fuzz_cases}"
    for watch, cases in ((Blind(), 20), (Watch(), fuzz_cases)):
        chance = random.Random(seed)
        for number in range(cases):
            bad = changed(path, good, chance)
            path.write_bytes(bad)
            began = time.process_time()
            try:
                read += watch.during(tmp_path, lambda: points(tmp_path, path)) > 0
            except Exception as error:
                raise AssertionError(f"case {number} of {seed}: {error!r}: {bad[:2000]!r}") from error
            assert not watch.seen, (number, watch.seen[:3], bad[:2000])
            assert time.process_time() - began < SECONDS, (number, bad[:2000])
    assert read
