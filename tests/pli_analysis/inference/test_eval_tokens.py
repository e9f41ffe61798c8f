"""The tokens that models are compared on: what a run keeps of its held-out blocks, or a text."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from pli_analysis.commands.disturbance import disturbance as disturbance_command
from pli_analysis.commands.embed import embed
from pli_analysis.commands.grad_norms import grad_norms
from pli_analysis.commands.similarity import similarity
from pli_analysis.inference import eval_tokens
from pli_analysis.metrics.disturbance.disturbance import disturbance
from pli_analysis.metrics.grad_norms.recomputed import recomputed
from pli_analysis.runs.opening import open_run
from pli_analysis.scalars.reading import read
from pli_train.core import tokenizer
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.data import corpus
from pli_train.data.held_out import HeldOut
from pli_train.data.objective import Objective


def held_out_of(config_of, family):
    """What evaluations of the finished runs read."""
    config = config_of(family)
    text = corpus.load(config.data, config.tokenizer, lambda line: None)
    task = {"bert": "masked-lm", "gpt2": "causal-lm"}[family]
    return HeldOut(text, 32, 8, Objective(task, text.tokenizer, 0.15), config.seed)


def test_analysis_asks_what_evaluation_asked(runs, family, config_of):
    """Inputs and labels to the bit, and how the blocks were drawn; the first of them alone as well."""
    run, held_out = open_run(runs[family]), held_out_of(config_of, family)
    asked = held_out.batch(held_out.locations, 32)
    found = eval_tokens.sample_of(run, None, 99)
    assert torch.equal(found.tokens, asked.inputs) and torch.equal(found.labels, asked.labels)
    assert np.array_equal(found.design.stratum, held_out.design.stratum)
    assert np.array_equal(found.design.sizes, held_out.design.sizes)
    assert np.array_equal(found.documents, held_out.documents[held_out.locations])
    some = eval_tokens.sample_of(run, None, 3)
    assert torch.equal(some.tokens, asked.inputs[:3]) and len(some.documents) == 3
    assert (some.design.stratum.tolist(), some.design.sizes.tolist()) == ([0, 0, 0], [held_out.count])


def test_the_change_at_an_event_is_that_of_the_logged_losses(runs, family):
    """Analysis and evaluation agree, masked or not: one set of blocks, one estimate."""
    values = read(runs[family]).values
    found = disturbance(open_run(runs[family]), blocks=99).events
    for step in (3, 6, 9):
        logged = values[run_folder.EVAL_LOSS_AFTER_EVENT][step][1] - values[run_folder.EVAL_LOSS][step][1]
        assert found.set_index("step")["loss_change"][step] == pytest.approx(logged, abs=3e-6)


def test_special_tokens_of_a_text_are_not_predicted(runs, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("def f(): pass<|endoftext|><|mask|>\n" * 200)
    found = eval_tokens.sample_of(open_run(runs["bert"]), text, 99)
    end = Tokenizer.from_file(str(runs["bert"] / "tokenizer" / "tokenizer.json")).token_to_id("<|endoftext|>")
    assert (found.tokens == end).sum() > 50 and (found.labels != -100).sum() > 50
    assert not torch.isin(found.labels, torch.tensor([end, 0, 2])).any()


def test_blocks_of_a_text_are_drawn_from_all_of_it(runs, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"x{number} = {number}\n" for number in range(2000)))
    run = open_run(runs["gpt2"])
    whole, some = (eval_tokens.sample_of(run, text, blocks) for blocks in (10**6, 12))
    assert torch.equal(some.tokens, whole.tokens[:12])
    assert some.design.sizes.tolist() == [len(whole.tokens)] and len(whole.tokens) > 100
    ids = Tokenizer.from_file(str(run.path / "tokenizer" / "tokenizer.json")).encode(text.read_text()).ids
    blocks = [ids[at : at + 32] for at in range(0, len(ids), 32)]
    locations = [blocks.index(block) for block in some.tokens.tolist()]
    assert max(locations) > len(blocks) / 2 and sorted(locations) != locations


def test_metrics_read_them_where_no_text_is_given(runs, family):
    """Gradients of plain transformers on what the file holds."""
    run = runs[family]
    kept = {name: torch.from_numpy(of.astype(np.int64)) for name, of in load_file(run / run_folder.PROBE).items()}
    auto = {"bert": AutoModelForMaskedLM, "gpt2": AutoModelForCausalLM}[family]
    model = auto.from_pretrained(run / "checkpoint-12").double().eval()
    logits = model(input_ids=kept["inputs"]).logits.flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, kept["labels"].flatten()).backward()
    whole = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None) ** 0.5
    table = recomputed(open_run(run), None, 99).query("checkpoint == 'checkpoint-12' and part == 'total'")
    assert table["grad_norm"].item() == pytest.approx(whole, rel=1e-4)


def test_a_truncation_kept_in_a_tokenizer_does_not_cut_a_text(small_run, tmp_path):
    """Nor does a padding, or a post-processor: the tokens are those of training."""
    run, text = shutil.copytree(small_run, tmp_path / "run"), tmp_path / "text.txt"
    text.write_text("".join(f"x{number} = {number}\n" for number in range(900)))
    before = eval_tokens.sample_of(open_run(run), text)
    path = run / "tokenizer" / "tokenizer.json"
    kept = Tokenizer.from_file(str(path))
    kept.enable_truncation(64)
    kept.enable_padding(length=99, pad_id=0, pad_token="<|new|>")
    kept.post_processor = TemplateProcessing(single="<|mask|> $A", special_tokens=[("<|mask|>", 2)])
    kept.save(str(path))
    after = eval_tokens.sample_of(open_run(run), text)
    assert torch.equal(before.tokens, after.tokens) and before.tokens.numel() > 4000


def test_documents_of_a_text_follow_each_other_as_in_training(runs, tmp_path):
    """Joined by end tokens; each block is of the document that it begins in."""
    texts = [f"def f{number}(): return {number}\n" * (1 + number % 4) for number in range(60)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"code": text}) + "\n" for text in texts))
    run = open_run(runs["gpt2"])
    raw = Tokenizer.from_file(str(run.path / "tokenizer" / "tokenizer.json"))
    end = raw.token_to_id("<|endoftext|>")
    ids, owners = [], []
    for number, text in enumerate(texts):
        some = [*raw.encode(text).ids, end]
        ids += some
        owners += [number] * len(some)
    blocks = {tuple(ids[at : at + 32]): owners[at] for at in range(0, len(ids) - 1, 32)}
    found = eval_tokens.sample_of(run, eval_tokens.Text(path, "code"))
    assert len(found.tokens) == (len(ids) - 1) // 32
    for block, document in zip(found.tokens.tolist(), found.documents, strict=True):
        assert blocks[tuple(block)] == document


def test_masks_of_a_text_are_functions_of_its_blocks(runs, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"x{number} = {number}\n" for number in range(2000)))
    run = open_run(runs["bert"])
    whole, some = (eval_tokens.sample_of(run, text, blocks) for blocks in (None, 7))
    assert torch.equal(some.tokens, whole.tokens[:7]) and torch.equal(some.labels, whole.labels[:7])
    assert 0.1 < (whole.labels != -100).float().mean() < 0.2


def words_of(folder, extra=()):
    """A WordPiece vocabulary in BERT's own file, alone."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "def", "return", "f", "x", "##s", "=", ":", *extra]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    return folder, {word: number for number, word in enumerate(words)}


def test_another_tokenizer_is_taken_where_it_is_named(runs, tmp_path):
    folder, ids = words_of(tmp_path / "own")
    text = tmp_path / "text.txt"
    text.write_text("def fs = return x\n" * 60)
    found = eval_tokens.sample_of(open_run(runs["gpt2"]), eval_tokens.Text(text, tokenizer=folder))
    expected = [ids[word] for word in ("def", "f", "##s", "=", "return", "x")] * 60
    blocks = [expected[at : at + 32] for at in range(0, len(expected) - 31, 32)]
    assert sorted(found.tokens.tolist()) == sorted(blocks)


def test_a_tokenizer_of_another_model_is_refused(runs, tmp_path):
    folder, _ = words_of(tmp_path / "own", extra=(f"w{number}" for number in range(400)))
    text = tmp_path / "text.txt"
    text.write_text("def f = return x\n" * 60)
    run = open_run(runs["gpt2"])
    with pytest.raises(
        BadInput, match=r"own: has 412 tokens, and the model of .* has a vocabulary of 300; name the model's own"
    ):
        eval_tokens.sample_of(run, eval_tokens.Text(text, tokenizer=folder))
    with pytest.raises(BadInput, match=r"--tokenizer .*nothing: no such file"):
        eval_tokens.sample_of(run, eval_tokens.Text(text, tokenizer=tmp_path / "nothing"))


@pytest.mark.parametrize("more", [{"tokenizer": Path("x")}, {"text_column": "x"}])
@pytest.mark.parametrize("command", [similarity, disturbance_command, embed, grad_norms])
def test_options_of_a_text_need_one(small_run, command, more):
    runs = small_run if command is grad_norms else [small_run]
    with pytest.raises(BadInput, match="applies only to --text FILE: give both"):
        command(runs, **more)


PROBE = {
    "inputs": np.zeros((2, 4), np.int32),
    "labels": np.full((2, 4), -100, np.int32),
    **{name: np.zeros(2, np.int32) for name in ("block", "document", "stratum")},
    "strata": np.full(1, 9, np.int32),
}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (None, "keeps no held-out blocks .*; give a text with --text FILE"),
        ({"tokens": np.zeros((2, 4), np.int32)}, "blocks of an older version, .*; give a text with --text FILE"),
        (PROBE | {"inputs": np.zeros((2, 4), np.float32)}, "is not a valid file of held-out blocks"),
        (PROBE | {"inputs": np.zeros(4, np.int32)}, "is not a valid file of held-out blocks"),
        (PROBE | {"inputs": np.zeros((0, 4), np.int32)}, "is not a valid file of held-out blocks"),
        (PROBE | {"labels": np.zeros((2, 3), np.int32)}, "is not a valid file of held-out blocks"),
        (PROBE | {"stratum": np.full(2, 1, np.int32)}, "is not a valid file of held-out blocks"),
        (PROBE | {"strata": np.ones(1, np.int32)}, "is not a valid file of held-out blocks"),
        (PROBE | {"strata": np.full(2, 9, np.int32)}, "is not a valid file of held-out blocks"),
        ({"others": np.zeros((2, 4), np.int32)}, "is not a valid file of held-out blocks"),
        (PROBE | {"inputs": np.full((2, 4), 300, np.int32)}, "token ids outside the model's vocabulary"),
        (PROBE | {"inputs": np.full((2, 4), -1, np.int32)}, "token ids outside the model's vocabulary"),
        (PROBE | {"labels": np.full((2, 4), 300, np.int32)}, "token ids outside the model's vocabulary"),
    ],
)
def test_blocks_that_are_not_there_or_none_are_refused(small_run, tmp_path, tensors, message):
    run = shutil.copytree(small_run, tmp_path / "run")
    (run / run_folder.PROBE).unlink()
    if tensors is not None:
        save_file(tensors, run / run_folder.PROBE)
    with pytest.raises(BadInput, match=message) as refusal:
        eval_tokens.batch_of(open_run(run), None, 4)
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_that_makes_its_library_panic_is_refused_in_a_line(small_run, tmp_path):
    """Rust's panic is no Exception: found by changing files at random."""
    run = shutil.copytree(small_run, tmp_path / "run")
    path, text = run / "tokenizer" / "tokenizer.json", tmp_path / "text.txt"
    text.write_text("def f(): pass\n" * 99)
    document = json.loads(path.read_text())
    document["model"]["continuing_subword_prefix"] = "x" * 26
    path.write_text(json.dumps(document))
    with pytest.raises(BadInput, match=r"tokenizer.json: not a tokenizer .range end index"):
        eval_tokens.batch_of(open_run(run), text, 4)
    with pytest.raises(BadInput, match=r"not a tokenizer .range end index"):
        tokenizer.load(str(run / "tokenizer"))
