"""Tokenizers loaded with settings of our own, from whatever files they are kept in."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from pli_train.core import tokenizer
from pli_train.core.errors import BadInput, PliError
from pli_train.data import corpus as corpora
from pli_train.data.config import DataConfig, TokenizerConfig
from pli_train.training import launch, warm_start

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "##s", "!"]
BYTES = {sign: number for number, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def bpe(specials=("<|endoftext|>",)):
    """Bytes as tokens, and some special ones."""
    made = Tokenizer(models.BPE(vocab=BYTES, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(list(specials))
    return made


def kept(folder, made, **settings):
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def cut(tmp_path):
    """One that keeps a truncation, a padding with a token of its own, and a template."""
    made = bpe()
    made.enable_truncation(8)
    made.enable_padding(length=20, pad_token="<new>", pad_id=0)
    made.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 256)])
    return kept(tmp_path / "cut", made)


def test_nothing_is_cut_filled_up_or_put_around_a_text(cut):
    found = tokenizer.load(str(cut))
    text = "a text that is longer than eight tokens"
    assert tokenizer.encode(found, [text, "b"]) == [[BYTES[sign] for sign in text.replace(" ", "Ġ")], [BYTES["b"]]]
    assert tokenizer.size(found) == 257  # the padding's token is none of ours


def test_training_reads_whole_texts_with_such_a_tokenizer(cut, corpus, tmp_path):
    plain = kept(tmp_path / "plain", bpe())
    data = DataConfig(source=str(corpus))
    first, second = (corpora.load(data, TokenizerConfig(name_or_path=str(folder))) for folder in (cut, plain))
    assert np.array_equal(first.train, second.train) and np.array_equal(first.eval, second.eval)
    assert len(first.train) > 10_000


@pytest.mark.parametrize("name", ["tokenizer.json", "mine.json"])
def test_a_file_is_a_tokenizer_too_and_its_special_tokens_go_by_their_usual_names(tmp_path, name):
    bpe(("<|endoftext|>", "<mask>")).save(str(tmp_path / name))
    found = tokenizer.load(str(tmp_path / name))
    assert (tokenizer.end_token(found), found.mask_token_id) == (256, 257)


def test_a_vocabulary_of_bert_alone_is_enough(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    found = tokenizer.load(str(tmp_path))
    assert tokenizer.encode(found, ["Hello worlds!"]) == [[5, 6, 7, 8]]
    assert (tokenizer.end_token(found), found.mask_token_id, tokenizer.size(found)) == (3, 4, 9)
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "Hello"]))
    assert tokenizer.encode(tokenizer.load(str(tmp_path)), ["Hello hello"]) == [[9, 5]]


@pytest.mark.parametrize("family", ["gpt2", "roberta"])
def test_vocab_and_merges_alone_are_enough(tmp_path, family):
    words = [*BYTES, *(["<|endoftext|>"] if family == "gpt2" else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]), "he"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh e\n")
    found = tokenizer.load(str(tmp_path))
    assert tokenizer.encode(found, ["he b"]) == [[len(words) - 1, BYTES["Ġ"], BYTES["b"]]]
    assert tokenizer.end_token(found) == words.index("<|endoftext|>" if family == "gpt2" else "</s>")


@pytest.mark.parametrize("name", tokenizer.SENTENCEPIECE)
def test_a_vocabulary_of_sentencepiece_says_what_it_needs(tmp_path, name, monkeypatch):
    monkeypatch.setattr(tokenizer, "has_sentencepiece", lambda: False)
    (tmp_path / name).write_bytes(b"\x0a\x05")
    with pytest.raises(BadInput, match=rf"{name}: reading it needs the sentencepiece library: pip install") as refusal:
        tokenizer.load(str(tmp_path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no tokenizer, none of tokenizer.json, vocab.txt"),
        ({"tokenizer.json": "{"}, "tokenizer.json: not readable as JSON"),
        ({"tokenizer.json": "[]"}, "tokenizer.json: not a tokenizer"),
        ({"tokenizer.json": "{}"}, "tokenizer.json: not a tokenizer"),
        ({"vocab.json": "[1]", "merges.txt": ""}, "vocab.json: not a tokenizer"),
    ],
)
def test_what_is_no_tokenizer_is_refused_in_a_line(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message) as refusal:
        tokenizer.load(str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_a_name_out_of_reach_says_so_plainly():
    with pytest.raises(PliError, match=r"'nobody/nothing' is no local tokenizer and could not be"):
        tokenizer.load("nobody/nothing")


def test_code_that_a_folder_brings_is_not_run(tmp_path):
    folder = kept(tmp_path / "own", bpe(), auto_map={"AutoTokenizer": ["code.Mine", None]})
    (folder / "code.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(BadInput, match="not a tokenizer"):
        tokenizer.load(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_without_an_end_is_not_trained_with(tmp_path, corpus):
    folder = kept(tmp_path / "own", bpe(()))
    with pytest.raises(BadInput, match="has no token that ends a document: set eos_token in its"):
        corpora.load(DataConfig(source=str(corpus)), TokenizerConfig(name_or_path=str(folder)))


def test_a_tokenizer_without_a_mask_teaches_no_masked_tokens(tmp_path, config_of):
    folder = kept(tmp_path / "own", bpe())
    with pytest.raises(BadInput, match="tokenizer: has no mask token, which training a bert needs"):
        launch.begin(config_of("bert", {"tokenizer.name_or_path": str(folder)}), tmp_path / "run")


def test_a_vocabulary_with_gaps_has_room_in_the_model(tmp_path, config_of):
    """The model has to know the greatest id, however many tokens there are."""
    made = bpe()
    made.model = models.BPE(vocab=BYTES | {"<|endoftext|>": 256, "far": 299}, merges=[])
    folder = kept(tmp_path / "own", made)
    found = tokenizer.load(str(folder))
    assert tokenizer.size(found) == 300 and len(found) < 300
    overrides = {"tokenizer.name_or_path": str(folder), "train.steps": 1, "growth.schedule": ""}
    trainer = launch.begin(config_of("gpt2", overrides), tmp_path / "run")
    assert trainer.state.model.bare.config.vocab_size == 300
    trainer.run()


def test_pretrained_weights_of_a_folder_bring_their_tokenizer(runs, config_of, tmp_path):
    """Where the weights are of others, who have no lineage."""
    foreign = shutil.copytree(runs["gpt2"] / "checkpoint-12", tmp_path / "foreign")
    (foreign / "lineage.json").unlink()
    shutil.copytree(runs["gpt2"] / "tokenizer", foreign, dirs_exist_ok=True)
    config = config_of("gpt2")
    model = config.model.model_copy(update={"family": None, "config": {}, "name_or_path": str(foreign)})
    for weights, taken in (("pretrained", str(foreign)), ("scratch", None)):
        asked = config.model_copy(update={"model": model.model_copy(update={"weights": weights})})
        assert warm_start.resolve_parent(asked)[0].tokenizer.name_or_path == taken
