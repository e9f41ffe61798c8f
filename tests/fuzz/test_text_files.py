"""Broken and hostile text files: reading returns documents or raises a one-line error, in bounded time and memory."""

import csv
import gzip
import io
import json
import random
import resource
import time

import pyarrow
import pyarrow.parquet
import pytest

from pli_train.core import texts
from pli_train.core.errors import BadInput
from tests.fuzz.changes import bent, torn

SECONDS, MEMORY = 2.0, 2**30
WORDS = [f'text number {number}: ä – 漢字\n, and "more" of it' for number in range(20)]
ROWS = [{"id": number, "text": text, "meta": {"set": "x", "n": [1, 2]}} for number, text in enumerate(WORDS)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(between):
    file = io.StringIO()
    csv.writer(file, delimiter=between).writerows([["id", "text"], *enumerate(WORDS)])
    return file.getvalue().encode()


def parquet(**how):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file, **how)
    return file.getvalue()


GOOD = {
    "a.txt": "\n".join(WORDS).encode(),
    "utf16.txt": "\n".join(WORDS).encode("utf-16"),
    "a.jsonl": lines(ROWS),
    "a.json": json.dumps(ROWS).encode(),
    "a.csv": table(","),
    "a.tsv": table("\t"),
    "a.parquet": parquet(row_group_size=7),
    "plain.parquet": parquet(compression="none", use_dictionary=False),
    "a.txt.gz": gzip.compress("\n".join(WORDS).encode()),
    "a.jsonl.gz": gzip.compress(lines(ROWS)),
    "a.jsonl.zst": pyarrow.compress(lines(ROWS), "zstd", asbytes=True),
}


def changed(name, data, chance):
    """Return a changed file; JSON files often stay valid JSON with a changed value."""
    if name == "a.jsonl" and chance.random() < 0.5:
        rows = list(ROWS)
        at = chance.randrange(len(rows))
        rows[at] = bent(rows[at], chance)
        return lines(rows)
    if name == "a.json" and chance.random() < 0.5:
        return json.dumps(bent(ROWS, chance)).encode()
    if name == "a.jsonl.gz" and chance.random() < 0.5:
        return gzip.compress(torn(lines(ROWS), chance))
    return torn(data, chance)


def read(path):
    """Return all documents, or None if the file is refused."""
    try:
        found = texts.of_path(path, "text", "data.text_column")
        return ["".join(segment.text for segment in segments) for segments in found.documents(~found.is_blank)]
    except BadInput as error:
        assert str(error) and "\n" not in str(error), error
        return None


@pytest.mark.parametrize("name", GOOD)
def test_a_broken_text_is_read_or_refused_in_a_line(name, fuzz_cases, tmp_path):
    path, chance = tmp_path / name, random.Random(f"{name} {fuzz_cases}")
    path.write_bytes(GOOD[name])
    assert (len(read(path)), read(path)[0]) == ((1, "\n".join(WORDS)) if ".txt" in name else (20, WORDS[0]))
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 0
    for number in range(fuzz_cases):
        bad = changed(name, GOOD[name], chance)
        path.write_bytes(bad)
        began = time.process_time()  # CPU time, which does not depend on other processes
        try:
            refused += read(path) is None
        except Exception as error:
            raise AssertionError(f"{name}, case {number}: {error!r}: {bad[:2000]!r}") from error
        assert time.process_time() - began < SECONDS, (number, bad[:2000])
    assert refused
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MEMORY
