"""Text out of files of every kind: which documents they hold, and what is refused or left out."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
import socket
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pli_train.core import texts
from pli_train.core.errors import BadInput
from pli_train.core.texts import reading, streams
from pli_train.core.tokenizer import encode, ids_of
from pli_train.data.tokenization import train_bpe

WORDS = ["Ein Bär – größer als ein Hund", "two\nlines", "漢字 🙂", 'say "hi", then go', "  spaces\tand tabs "]


def found(path, column="text"):
    return texts.of_path(path, column, "data.text_column")


def documents(path, column="text"):
    read = found(path, column)
    return ["".join(segment.text for segment in segments) for segments in read.documents(~read.is_blank)]


def as_csv(rows, **how):
    file = io.StringIO()
    csv.writer(file, **how).writerows(rows)
    return file.getvalue()


def as_parquet(table, **how):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(table), file, **how)
    return file.getvalue()


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


RECORDS = {
    "a.jsonl": lines({"id": number, "text": text} for number, text in enumerate(WORDS)),
    "content.jsonl": lines({"content": text, "size": 3, "meta": {"lang": "de"}} for text in WORDS),
    "id.jsonl": lines(
        {"id": f"x{number}", "url": "https://a.b/c", "content": text} for number, text in enumerate(WORDS)
    ),
    "pipes.csv": as_csv([["id", "text"], *enumerate(WORDS)], delimiter="|"),
    "id.parquet": as_parquet({"id": [f"x{number}" for number in range(len(WORDS))], "content": WORDS}),
    "dots.csv": as_csv([["a.id", "a.text"], *enumerate(WORDS)]),
    "late.jsonl": "\n" + lines([{"text": None}, {"text": ""}, {}, *({"text": text} for text in WORDS)]),
    "a.ndjson": lines(WORDS),
    "list.json": json.dumps([{"text": text, "source": "x"} for text in WORDS], indent=2),
    "lines.json": lines({"text": text, "meta": {"set": "Pile-CC"}} for text in WORDS),
    "texts.json": json.dumps(WORDS),
    "a.csv": as_csv([["id", "text"], *enumerate(WORDS)]),
    "only.csv": as_csv([["label", "review"], *([number % 2, text] for number, text in enumerate(WORDS))]),
    "semicolons.csv": as_csv([["id", "text"], *enumerate(WORDS)], delimiter=";"),
    "quoted.tsv": as_csv([["id", "text"], *enumerate(WORDS)], delimiter="\t"),
    "a.parquet": as_parquet({"text": WORDS, "n": range(len(WORDS))}),
    "groups.parquet": as_parquet({"content": [*WORDS, None, ""], "n": range(7)}, row_group_size=2),
    "dictionary.parquet": as_parquet({"text": pyarrow.array(WORDS).dictionary_encode()}),
    "large.parquet": as_parquet({"text": pyarrow.array(WORDS, pyarrow.large_string())}),
}


@pytest.mark.parametrize("name", RECORDS)
def test_each_record_is_a_document(tmp_path, name):
    content = RECORDS[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert documents(tmp_path / name) == WORDS


@pytest.mark.parametrize("column", ["meta.text", "meta.inner.body"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_within_columns_is_named_with_dots(tmp_path, column, kind):
    rows = [{"id": 1, "meta": {"text": text, "inner": {"body": text, "n": 2}}} for text in WORDS]
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        path.write_text(lines(rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows, {"id": 2, "meta": None}]), path)
    assert documents(path, column) == WORDS


@pytest.mark.parametrize(("name", "between"), [("a.tsv", "\t"), ("a.csv", "|")])
def test_quotes_of_unquoted_tables_are_characters(tmp_path, name, between):
    (tmp_path / name).write_text('id\ttext\n1\t"Hello" he said\n2\t5" wide\n3\t"\n'.replace("\t", between))
    assert documents(tmp_path / name) == ['"Hello" he said', '5" wide', '"']


TEXT = "Grüße\nan Ελλάδα\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", TEXT.encode()),
        ("README", TEXT.encode()),
        ("crlf.txt", TEXT.replace("\n", "\r\n").encode()),
        ("mark.txt", codecs.BOM_UTF8 + TEXT.encode()),
        ("le.txt", codecs.BOM_UTF16_LE + TEXT.replace("\n", "\r\n").encode("utf-16-le")),
        ("be.srt", codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")),
        ("le32.txt", codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le")),
        ("be32.txt", codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be")),
        ("a.txt.gz", gzip.compress(TEXT[:5].encode("utf-8"), mtime=0) + gzip.compress(TEXT[5:].encode(), mtime=0)),
        ("a.TXT.GZ", gzip.compress(TEXT.encode(), mtime=0)),
        ("a.md.bz2", bz2.compress(TEXT.encode())),
        ("a.xz", lzma.compress(TEXT.encode())),
        ("a.txt.zst", pyarrow.compress(TEXT.encode(), "zstd", asbytes=True)),
        ("le.txt.gz", gzip.compress(codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), mtime=0)),
        ("package.json", b'{"name": "x", "license": "MIT"}'),
        ("comments.json", b'{"a": 1, // not JSON\n}'),
        ("numbers.json", b"[1, 2, 3]"),
        ("notebook.ipynb", b'{"cells": []}'),
    ],
)
def test_a_text_is_one_document_whatever_its_encoding(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert documents(tmp_path / name) == [content.decode() if name.endswith(("json", "ipynb")) else TEXT]


@pytest.mark.parametrize("end", ["jsonl", "csv"])
@pytest.mark.parametrize("compressed", [gzip, bz2, lzma])
def test_records_may_be_compressed(tmp_path, end, compressed):
    name = {gzip: "gz", bz2: "bz2", lzma: "xz"}[compressed]
    (tmp_path / f"a.{end}.{name}").write_bytes(compressed.compress(RECORDS[f"a.{end}"].encode()))
    assert documents(tmp_path / f"a.{end}.{name}") == WORDS


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", PNG, "is not UTF-8 .byte 0x89 at 0."),
        ("a.bin", b"abc\0def", "has NUL bytes"),
        ("utf16.txt", "no mark".encode("utf-16-le"), "NUL bytes, like images, binary files and UTF-16 without"),
        ("latin.txt", "Ein Bär".encode("latin-1"), r"is not UTF-8 \(byte 0xe4 at 5\): .*iconv -f latin1"),
        ("late.txt", b"a" * 3_000_000 + b"\xe9 b", "byte 0xe9 at 3000000"),
        ("half.txt", "ä".encode()[:1], r"is not UTF-8 \(byte 0xc3 at 0\)"),
        ("odd.txt", codecs.BOM_UTF16_LE + b"a", "is not UTF-16-LE"),
        ("empty.txt", b"", "holds no text"),
        ("blank.txt", b" \n\t\n", "holds no text"),
        ("empty.jsonl", b"", "holds no text"),
        ("head.csv", b"id,text\n", "holds no text"),
        ("a.zip", b"PK\3\4", "is an archive: unpack it"),
        ("a.tar.gz", b"", "is an archive: unpack it"),
        ("a.gz", b"no gzip", "is damaged, or not a .gz file|cannot be read"),
        ("cut.gz", gzip.compress(b"abc" * 999, mtime=0)[:-9], "is damaged, or not a .gz file"),
        ("cut.xz", lzma.compress(b"abc" * 999)[:-9], "is damaged, or not a .xz file"),
        ("a.bz2", b"no", "is damaged, or not a .bz2 file|cannot be read"),
        ("a.zst", b"no zstandard", "cannot be read|is damaged"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"line 2 is not JSON \(Expecting value"),
        ("deep.jsonl", b"[" * 100_000 + b"\n", "line 1 is not JSON"),
        ("mixed.jsonl", b'{"text": "a"}\n[1]\n', "line 2 is a list, expected a table"),
        ("number.jsonl", b'{"text": "a"}\n' * 200 + b'{"text": 3}\n', "line 201 has a number in 'text'"),
        ("list.jsonl", b'{"text": ["a", "b"], "url": "u"}\n', "its column 'text' holds a list, not text; it has"),
        (
            "two.jsonl",
            b'{"title": "a b", "body": "c d", "n": 1}\n',
            r"which column .* title, body, n \(a number\): set data",
        ),
        (
            "talk.jsonl",
            b'{"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "hi"}]}\n',
            r"has no column with text: it has id \(single words\), conversations \(a list\), so set data.text_column",
        ),
        ("cut.json", b'[{"text": "a"}, {"text": "b"}, {"te', "is not JSON after record 2"),
        ("comma.json", b'[{"text": "a"}, {"text": "b"} {"text": "c"}]', "expected a comma after record 2"),
        ("numbers.csv", b"a,b\n1,2\n", r"has no column with text: it has a \(a number\), b \(a number\)"),
        ("two.csv", b"title,body\nx y,z w\n", "which column holds the text. it has title, body: set data.text_column"),
        ("more.csv", b"id,text\n1,a, b\n", "line 2 has 3 columns, but the first row names 2"),
        ("open.csv", b'id,text\n1,"a\n', "not valid CSV from line 2 on .unexpected end of data"),
        ("a.parquet", b"PAR1 no parquet PAR1", "not readable as Parquet"),
        ("a.parquet.gz", gzip.compress(RECORDS["a.parquet"], mtime=0), "decompress the file"),
        ("n.parquet", as_parquet({"n": [1]}), r"has no column with text: it has n \(int64\)"),
    ],
)
def test_what_holds_no_text_or_is_damaged_is_refused_in_a_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message) as refusal:
        documents(tmp_path / name)
    assert "\n" not in str(refusal.value) and name in str(refusal.value)


def test_the_column_asked_for_is_the_one_that_is_read(tmp_path):
    (tmp_path / "a.csv").write_text("title,body,year\nx,y,2001\nz,,2002\n")
    assert documents(tmp_path / "a.csv", "body") == ["y"]
    assert documents(tmp_path / "a.csv", "year") == ["2001", "2002"]
    with pytest.raises(BadInput, match=r"has no column 'bodies': it has title .single words"):
        documents(tmp_path / "a.csv", "bodies")


def test_halves_of_surrogate_pairs_are_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text(r'{"text": "a\ud83d b \ud83d\ude42"}')
    assert documents(tmp_path / "a.jsonl") == ["a� b 🙂"]


@pytest.fixture
def folder(tmp_path):
    """Texts among things that are none."""
    for name, content in {
        "b.txt": b"b",
        "a/deep/er.md": b"er",
        "a.txt": b"a",
        "records.jsonl": b'{"text": "r0"}\n{"text": ""}\n{"text": "r2"}\n',
        "empty.txt": b"",
        "1.png": PNG,
        "2.png": PNG,
        "latin.txt": b"B\xe4r",
        "old.zip": b"PK\3\4",
        "numbers.csv": b"a,b\n1,2\n",
        ".hidden": b"hidden",
        ".git/config": b"hidden",
        "web/node_modules/x/index.js": b"others'",
        "__pycache__/a.pyc": b"\0",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_folder_gives_what_is_text_and_reports_what_is_left_out(folder):
    assert documents(folder) == ["er", "a", "b", "r0", "r2"]
    assert found(folder).notes == [
        f"{folder}: left out 5 of 10 files: 3 not text (1.png, 2.png, latin.txt); 1 with no column with text "
        "(numbers.csv); 1 packed as an archive (old.zip)",
        f"{folder}: skipped 1 of 3 records without text",
    ]


def test_what_is_no_file_is_counted_among_what_is_left_out(folder, monkeypatch):
    monkeypatch.chdir(folder)  # the path of a socket is short
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    (folder / "broken.txt").symlink_to(folder / "nothing")
    assert documents(folder) == ["er", "a", "b", "r0", "r2"]
    first = "1 a broken link (broken.txt); 2 not a regular file (pipe, socket)"
    assert found(folder).notes[0].startswith(f"{folder}: left out 8 of 13 files: {first}; 3 not text")


def test_a_folder_of_one_broken_link_says_so(tmp_path):
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(BadInput, match=r"holds no text; .*left out 1 of 1 file: 1 a broken link \(broken.txt\)"):
        found(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines([{"text": "one two"}, {"text": None}, {"other": 3}, {"text": "three"}, {"text": " "}])),
        ("a.csv", "id,text\n1,one two\n2,\n3\n4,three\n5, \n"),
        ("a.parquet", as_parquet({"text": ["one two", None, "", "three", " "]})),
    ],
)
def test_records_without_text_are_counted(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert documents(path) == ["one two", "three"]
    assert found(path).notes == [f"{path}: skipped 3 of 5 records without text"]


LONG = "Aword" * 9


@pytest.mark.parametrize(
    ("header", "column", "noted"),
    [
        ("The first text of all.", "text", "The first text of all."),
        (LONG, "text", LONG[:40] + "…"),
        ("review", "text", None),
        ("text", "text", None),
        ("Review Text", "Review Text", None),  # named by the user, who knows it
    ],
)
def test_a_row_of_names_that_resembles_a_text_is_reported(tmp_path, header, column, noted):
    path = tmp_path / "a.csv"
    path.write_text(as_csv([["id", header], [1, "The second text."], [2, "The third text."]]))
    assert documents(path, column) == ["The second text.", "The third text."]
    line = f"{path}: its first row names the text column '{noted}'; if that is text, add a header row"
    assert found(path, column).notes == ([] if noted is None else [line])


def test_links_to_files_are_followed_and_those_to_folders_are_not(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "x.txt").write_text("x")
    (folder / "link.txt").symlink_to(outside / "x.txt")
    (folder / "broken.txt").symlink_to(outside / "nothing")
    (folder / "loop").symlink_to(folder)
    (folder / "elsewhere").symlink_to(outside)
    assert documents(folder) == ["er", "a", "b", "x", "r0", "r2"]


def test_a_folder_of_nothing_but_images_says_so(tmp_path):
    (tmp_path / "1.png").write_bytes(PNG)
    (tmp_path / "2.png").write_bytes(PNG)
    with pytest.raises(BadInput, match=r"holds no text; .*left out 2 of 2 files: 2 not text \(1.png, 2.png\)"):
        found(tmp_path)


def test_a_file_of_a_folder_that_does_not_say_its_column_is_refused(folder):
    (folder / "two.csv").write_text("title,body\nx y,z w\n")
    with pytest.raises(BadInput, match=r"two.csv: which column holds the text"):
        found(folder)


def test_what_is_neither_file_nor_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="is neither a file nor a folder"):
        found(tmp_path / "pipe")


def test_a_file_that_changes_between_two_readings_is_refused(folder):
    read = found(folder)
    (folder / "b.txt").write_text("something else")
    with pytest.raises(BadInput, match=r"b.txt: changed while it was read"):
        list(read.documents(~read.is_blank))


def test_the_fingerprint_follows_texts_names_columns_and_decompression(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("title,body\nx,y\nz,w\n")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    prints = [
        found(path, "title").fingerprint,
        found(path, "body").fingerprint,
        found(tmp_path / "a.csv.gz", "body").fingerprint,
        found(path, "body").fingerprint,
    ]
    assert len(set(prints)) == 3 and prints[1] == prints[3]
    path.write_text("title,body\nx,y\nz,v\n")
    assert found(path, "body").fingerprint not in prints


# --- long ones ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab \n.\u00a0é漢", max_size=30), max_size=30), st.integers(1, 20))
def test_segments_add_up_to_the_document(parts, length):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "LONGEST_SEGMENT", length)
        patch.setattr(reading, "NEAR", 10)
        segments = list(reading.segments(parts))
    assert "".join(segment.text for segment in segments) == "".join(parts)
    assert [segment.last for segment in segments] == [False] * (len(segments) - 1) + [True]
    assert all(len(segment.text) <= max(length, 1) for segment in segments)


def test_a_long_document_has_the_tokens_it_would_have_in_one_piece(corpus, monkeypatch):
    whole = "".join(path.read_text() for path in sorted(corpus.iterdir()))
    tokenizer = train_bpe([whole], 400)
    (expected,) = encode(tokenizer, [whole])
    monkeypatch.setattr(reading, "LONGEST_SEGMENT", 700)
    segments = list(reading.segments([whole]))
    ids = [id for some, _ in ids_of(tokenizer, segments) for id in some]
    assert len(segments) > 50 and ids == expected
    assert train_bpe((segment.text for segment in segments), 400).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "one-line.txt.gz", "a.json.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path, name, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_SEGMENT", 2**14)
    monkeypatch.setattr(reading, "NEAR", 2**10)
    monkeypatch.setattr(streams, "CHUNK", 2**12)
    words = "word " * 200
    line = {"a.txt.gz": f"{words}\n", "one-line.txt.gz": words}.get(name, f'{{"text": "{words}"}}\n')
    (tmp_path / name).write_bytes(gzip.compress(line.encode() * 4000, 1))
    found(tmp_path / name)  # what is imported then is not counted
    tracemalloc.start()
    try:
        read = found(tmp_path / name)
        size = sum(len(segment.text) for segments in read.documents(~read.is_blank) for segment in segments)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size >= 4_000_000 and peak < 1_000_000
