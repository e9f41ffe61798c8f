"""The tokens that models are compared on: what a run keeps of its held-out blocks, or a text."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from pli_analysis import probe
from pli_analysis.metrics.gradients import recomputed
from pli_analysis.metrics.similarity import similarity
from pli_analysis.run import Run
from pli_train import corpus, run_folder
from pli_train.corpus.blocks import Blocks
from pli_train.corpus.tokens import _pretrained
from pli_train.errors import BadInput, PliError


def test_a_run_keeps_the_blocks_it_is_evaluated_on(runs, family, config_of):
    run = Run.open(runs[family])
    tokens, labels = probe.batch_of(run, None, 99)
    config = config_of(family)
    text = corpus.load(config.data, config.tokenizer, lambda line: None)
    blocks = Blocks(text.eval, 32, 0).first(8)
    assert tokens.shape == labels.shape == (8, 32)
    if family == "gpt2":  # BERT's are masked
        assert np.array_equal(tokens, blocks)
        assert np.array_equal(probe.batch_of(run, None, 3)[0], blocks[:3])
    else:
        kept = labels == -100
        assert np.array_equal(tokens[kept], blocks[kept.numpy()]) and not kept.all()
        assert np.array_equal(labels[~kept], blocks[~kept.numpy()])


def test_metrics_read_them_where_no_text_is_given(runs, tmp_path):
    run = Run.open(runs["gpt2"])
    written = tmp_path / "held-out.txt"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(run.path / "tokenizer" / "tokenizer.json"))
    ids = probe.batch_of(run, None, 99)[0].flatten().tolist()
    written.write_text(tokenizer.decode(ids, skip_special_tokens=False), encoding="utf-8")
    assert np.array_equal(probe.batch_of(run, written, 4)[0], probe.batch_of(run, None, 4)[0])
    assert recomputed(run, None, 4).equals(recomputed(run, written, 4))
    assert similarity(run, None, None, 4).equals(similarity(run, None, written, 4))


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (None, "keeps no held-out blocks .*: give a text with --text FILE"),
        ({"tokens": np.zeros((2, 4), np.float32)}, "holds no blocks of tokens"),
        ({"tokens": np.zeros(4, np.int32)}, "holds no blocks of tokens"),
        ({"tokens": np.zeros((0, 4), np.int32)}, "holds no blocks of tokens"),
        ({"others": np.zeros((2, 4), np.int32)}, "holds no blocks of tokens"),
        ({"tokens": np.full((2, 4), 300, np.int32)}, "tokens that the model does not know"),
        ({"tokens": np.full((2, 4), -1, np.int32)}, "tokens that the model does not know"),
    ],
)
def test_blocks_that_are_not_there_or_none_are_refused(small_run, tmp_path, tensors, told):
    run = shutil.copytree(small_run, tmp_path / "run")
    (run / run_folder.PROBE).unlink()
    if tensors is not None:
        save_file(tensors, run / run_folder.PROBE)
    with pytest.raises(BadInput, match=told) as refusal:
        probe.batch_of(Run.open(run), None, 4)
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_that_makes_its_library_panic_is_refused_in_a_line(small_run, tmp_path):
    """Rust's panic is no Exception: found by changing files at random."""
    run = shutil.copytree(small_run, tmp_path / "run")
    path, text = run / "tokenizer" / "tokenizer.json", tmp_path / "text.txt"
    text.write_text("def f(): pass\n" * 99)
    document = json.loads(path.read_text())
    document["model"]["continuing_subword_prefix"] = "x" * 26
    path.write_text(json.dumps(document))
    with pytest.raises(BadInput, match=r"tokenizer.json: no tokenizer .range end index"):
        probe.batch_of(Run.open(run), text, 4)
    with pytest.raises(PliError, match="is no tokenizer folder here"):
        _pretrained(str(run / "tokenizer"))
