import hashlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pli_train.core.errors import BadInput, PliError
from pli_train.data import corpus as corpora
from pli_train.data import tokenization
from pli_train.data.blocks import Blocks
from pli_train.data.config import DataConfig, TokenizerConfig
from pli_train.data.sources.files import line_cut
from pli_train.training import launch


def read(source, **more):
    return corpora.read(DataConfig(source=str(source), **more))


def whole(segments):
    """The documents of a side."""
    found = [""]
    for segment in segments:
        found[-1] += segment.text
        found += [""] * segment.last
    return found[:-1]


def test_python_is_the_standard_library_without_its_tests():
    documents = read("python")
    train, eval = whole(documents.train), whole(documents.eval)
    assert len(train) > 300
    assert any("class OrderedDict" in text for text in [*train, *eval])
    assert (read("python").fingerprint, whole(read("python").eval)) == (documents.fingerprint, eval)


def test_the_split_is_by_file_and_a_new_file_moves_nobody(corpus, tmp_path):
    documents = read(corpus, test_share=0.25)
    ranked = sorted(corpus.iterdir(), key=lambda path: hashlib.sha256(path.name.encode()).digest())
    eval = {path.read_text() for path in ranked[:2]}
    assert set(whole(documents.eval)) == eval and len(whole(documents.train)) == 6
    shutil.copytree(corpus, tmp_path / "more")
    (tmp_path / "more" / "another.txt").write_text("another text\n")
    more = read(tmp_path / "more", test_share=0.25)
    assert set(whole(more.eval)) <= eval | {"another text\n"}


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.floats(0.01, 1))
def test_a_split_leaves_something_on_both_sides(count, share, fraction):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("".join(f'{{"text": "text number {number}"}}\n' for number in range(count)))
        documents = read(path, test_share=share, fraction=fraction)
        train, eval = whole(documents.train), whole(documents.eval)
    assert train and eval and not set(train) & set(eval)
    kept = count if count == 2 else min(max(1, round(fraction * count)), count - 1) if fraction < 1 else count
    assert len(train) + len(eval) == (kept if kept > 1 else 2)


@given(st.lists(st.text("ab", max_size=3), min_size=2, max_size=50), st.floats(0.01, 0.9))
def test_a_single_file_is_cut_at_a_line(lines, share):
    start, stop = line_cut(len(lines), share, 1.0)
    assert 0 <= start < stop == len(lines)


def test_the_fingerprint_follows_the_content(tmp_path):
    (tmp_path / "a.txt").write_text("one\n" * 30)
    (tmp_path / "b.txt").write_text("two\n" * 30)
    before = read(tmp_path).fingerprint
    (tmp_path / "b.txt").write_text("six\n" * 30)
    assert read(tmp_path).fingerprint != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("missing.txt", None, "no such file"), ("empty.txt", "", "holds no text"), ("blank.txt", " \n", "holds no text")],
)
def test_a_corpus_that_is_not_there_or_empty_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        read(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="holds no text"):
        read(tmp_path / "folder")


def test_fingerprints_are_those_of_older_runs(tmp_path):
    """A run that began before is resumed only if its corpus has the same name."""
    contents = {"a.txt": "one\ntwo\n", "b/c.py": "x = 1\n", "blank.txt": " "}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    message = [(name, hashlib.sha256(contents[name].encode()).hexdigest()) for name in ("a.txt", "b/c.py")]
    inner = hashlib.sha256(repr(message).encode()).hexdigest()[:16]
    expected = hashlib.sha256(repr(inner).encode() + b"0.25" + b"1.0").hexdigest()[:16]
    assert read(tmp_path, test_share=0.25).fingerprint == expected


@pytest.mark.parametrize("text", ["word " * 2000, "A title\n" + "word " * 2000, "word\n\n" + "漢" * 9000])
def test_a_text_of_one_line_is_cut_between_words(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    documents = read(tmp_path / "a.txt", test_share=0.1)
    (train,), (eval) = whole(documents.train), whole(documents.eval)
    assert train + eval[0] == text and len(eval[0]) == pytest.approx(len(text) / 10, abs=10)
    assert eval[0].startswith(" word") or "漢" in text
    (note,) = documents.notes
    assert f"one document, cut at a word: the last {len(eval[0]):,} of its characters are held out" in note


def test_a_text_of_one_line_trains(tmp_path, config_of):
    (tmp_path / "a.txt").write_text(" ".join(f"word{number}" for number in range(3000)))
    overrides = {"data.source": str(tmp_path / "a.txt"), "train.steps": 2, "growth.schedule": ""}
    launch.begin(config_of("gpt2", overrides), tmp_path / "run").run()


@pytest.mark.parametrize("length", [1, 3, 300])
def test_too_short_a_text_is_refused_with_numbers(tmp_path, config_of, length):
    (tmp_path / "a.txt").write_text("w" * length)
    with pytest.raises(BadInput, match=r"it has 1 char|text has \d+ tokens, less than one block of 32: use more text"):
        launch.begin(config_of("gpt2", {"data.source": str(tmp_path / "a.txt")}), tmp_path / "run")


def test_held_out_documents_that_are_in_the_training_text_too_are_reported(tmp_path):
    rows = ['{"text": "again"}'] * 50 + [f'{{"text": "text {number}"}}' for number in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    documents = read(tmp_path / "a.jsonl", test_share=0.2)
    train, eval = whole(documents.train), whole(documents.eval)
    count = sum(text in train for text in eval)
    assert 1 < count < 20
    (note,) = documents.notes
    assert f"{count} of 20 held-out documents are also in the training text" in note


def test_a_column_of_no_text_is_reported_with_the_key_that_names_it(tmp_path):
    (tmp_path / "a.csv").write_text("title,body\nx y,z w\n")
    with pytest.raises(BadInput, match=r"^data.source: .*a.csv: which column .*title, body: set data.text_column"):
        read(tmp_path / "a.csv")


def test_a_hub_name_out_of_reach_says_so_plainly():
    with pytest.raises(PliError, match=r"could not be loaded from the hub|needs the `hub` extra"):
        read("nobody/no-such-data-set")


def test_the_tokenizer_is_the_same_each_time_and_loses_nothing(corpus):
    texts = whole(read(corpus).train)
    first, second = (tokenization.train_bpe(texts, 400) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    strange = texts[0] + "\tÄ – 漢字 🙂\r\n  "
    assert first.decode(first(strange)["input_ids"], clean_up_tokenization_spaces=False) == strange


def test_the_cache_gives_back_what_was_tokenized(corpus):
    data, settings = DataConfig(source=str(corpus)), TokenizerConfig(vocab_size=333)
    said = []
    built = corpora.load(data, settings, said.append)
    again = corpora.load(data, settings, said.append)
    assert sum(line.startswith("tokenizing") for line in said) == 1
    assert np.array_equal(built.train, again.train)
    assert built.fingerprint == again.fingerprint
    text = "<|endoftext|>".join(corpus_texts := whole(read(corpus).train)) + "<|endoftext|>"
    assert corpus_texts and again.tokenizer.decode(again.train, clean_up_tokenization_spaces=False) == text


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_each_epoch_serves_every_block_once_wherever_it_is_entered(count, size, seed):
    blocks = Blocks(np.arange(count * 4, dtype=np.uint16), 4, seed)
    steps = -(-3 * count // size)
    served = np.concatenate([blocks.at_step(step, size) for step in range(steps)])
    for epoch in range(3):
        rows = served[epoch * count : (epoch + 1) * count]
        assert sorted(rows[:, 0]) == list(range(0, count * 4, 4))
    late = Blocks(np.arange(count * 4, dtype=np.uint16), 4, seed).at_step(steps - 1, size)
    assert np.array_equal(late, served[-size:])


def test_too_little_text_for_a_block_is_named():
    with pytest.raises(BadInput, match="less than one block of 64"):
        Blocks(np.arange(10), 64, 0)


@pytest.mark.parametrize(
    ("files", "about"),
    [
        ({"a.txt": "one\n" * 40}, "1 file"),
        ({"a.txt": "one two", "b.txt": "three"}, "2 files"),
        ({"a.jsonl": '{"text": "one two"}\n{"text": "three"}\n'}, "2 documents in 1 file"),
    ],
)
def test_files_and_documents_are_counted_in_words(tmp_path, files, about):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = read(tmp_path)
    assert found.about == f"{tmp_path}: {about}"
