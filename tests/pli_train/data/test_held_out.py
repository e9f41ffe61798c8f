"""What evaluations read, what they ask of it, and what they say it came to."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from pli_analysis.scalars.reading import read
from pli_train.commands.evaluate import evaluate
from pli_train.commands.fork import fork
from pli_train.config import loading as configs
from pli_train.core.run_format import run_folder
from pli_train.data import corpus
from pli_train.data.held_out import HeldOut
from pli_train.data.objective import IGNORED, Objective
from pli_train.training import launch
from pli_train.training.progress import NullReporter
from tests.commands import call
from tests.conftest import STEPS

AUTO = {"bert": AutoModelForMaskedLM, "gpt2": AutoModelForCausalLM}
TASK = {"bert": "masked-lm", "gpt2": "causal-lm"}


@pytest.fixture
def text(config_of):
    config = config_of()
    return corpus.load(config.data, config.tokenizer, lambda line: None)


@pytest.fixture
def held_out(text, family):
    """As the finished runs have it."""
    return HeldOut(text, 32, 8, Objective(TASK[family], text.tokenizer, 0.15), 0)


def losses(path, family, batch):
    """Each block's summed loss and number of predictions by plain transformers, all at once."""
    model = AUTO[family].from_pretrained(path).eval()
    with torch.no_grad():
        logits = model(input_ids=batch.inputs).logits
    each = cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="none", ignore_index=IGNORED)
    return each.reshape(batch.labels.shape).sum(1).double().numpy(), (batch.labels != IGNORED).sum(1).double().numpy()


def test_blocks_come_from_all_held_out_text(text):
    """And not the first ones by file name. The same at every evaluation, others for another seed."""
    objective = Objective("causal-lm", text.tokenizer, 0.15)
    one, same, other = (HeldOut(text, 32, 40, objective, seed) for seed in (0, 0, 1))
    assert np.array_equal(one.locations, same.locations) and not np.array_equal(one.locations, other.locations)
    thirds = np.bincount(one.locations * 3 // one.count, minlength=3)
    assert thirds.min() >= 5
    assert set(one.documents[one.locations]) == {0, 1}


def test_a_block_is_of_the_document_that_it_begins_in(text, held_out):
    document, expected = 0, []
    for position, token in enumerate(text.eval.tolist()):
        if position % 32 == 0:
            expected.append(document)
        document += token == text.tokenizer.eos_token_id
    assert held_out.documents.tolist() == expected[: held_out.count] and document == 2


def test_masks_are_a_function_of_the_block(held_out):
    whole = held_out.batch(np.arange(held_out.count), 32)
    drawn, segments = held_out.batch(held_out.locations, 32), held_out.batch(held_out.locations, 16)
    assert torch.equal(drawn.inputs, whole.inputs[held_out.locations])
    assert torch.equal(drawn.labels, whole.labels[held_out.locations])
    assert segments.inputs.shape == (16, 16) and torch.equal(segments.inputs.reshape(8, 32), drawn.inputs)
    if drawn.task == "masked-lm":
        assert torch.equal(segments.labels.reshape(8, 32), drawn.labels)


def test_special_tokens_are_never_masked(text):
    held_out = HeldOut(text, 32, 8, Objective("masked-lm", text.tokenizer, 0.9), 0)
    blocks = np.array(text.eval[: held_out.count * 32]).reshape(-1, 32)
    ends = np.flatnonzero((blocks == text.tokenizer.eos_token_id).any(1))
    batch = held_out.batch(ends, 32)
    assert (batch.inputs == text.tokenizer.eos_token_id).any(1).all() and batch.targets > 0
    assert not torch.isin(batch.labels, torch.tensor(text.tokenizer.all_special_ids)).any()


def test_logged_losses_are_those_of_plain_transformers(runs, family, held_out):
    """The estimate with its standard error, and at the end the loss over all held-out text."""
    found = {tag: points[STEPS][1] for tag, points in read(runs[family]).values.items() if STEPS in points}
    path = runs[family] / f"checkpoint-{STEPS}"
    sums, counts = losses(path, family, held_out.batch(np.arange(held_out.count), 32))
    estimate = held_out.design.mean(sums[held_out.locations], counts[held_out.locations])
    assert found[run_folder.EVAL_LOSS] == pytest.approx(estimate.value, rel=1e-5)
    assert found[run_folder.EVAL_LOSS_SE] == pytest.approx(estimate.error, rel=1e-3)
    assert found[run_folder.EVAL_LOSS_FULL] == pytest.approx(sums.sum() / counts.sum(), rel=1e-5)
    assert found[run_folder.EVAL_TOKENS_FULL] == counts.sum()
    history = json.loads((path / run_folder.TRAINER_STATE).read_text())["log_history"]
    assert [entry["step"] for entry in history if "eval_loss_full" in entry] == [STEPS]
    message = [entry["eval_loss_se"] for entry in history if "eval_loss" in entry]
    assert message[-1] == pytest.approx(estimate.error, rel=1e-3) and min(message) > 0


def test_all_held_out_text_is_evaluated_once_and_only_where_it_is_not_too_much(config_of, runs, tmp_path):
    config = config_of("gpt2", {"train.steps": 2, "growth.schedule": "", "train.eval_full": 0.3})
    launch.begin(config, tmp_path / "run").run()
    assert run_folder.EVAL_LOSS_FULL not in read(tmp_path / "run").values
    values = read(runs["gpt2"]).values
    assert list(values[run_folder.EVAL_LOSS_FULL]) == list(values[run_folder.EVAL_TOKENS_FULL]) == [STEPS]


def test_evaluate_prints_what_was_logged(runs, family, held_out):
    values = read(runs[family]).values
    row = evaluate(configs.of_run(runs[family]), runs[family])
    assert (row["checkpoint"], row["step"], row["blocks"]) == (f"checkpoint-{STEPS}", STEPS, held_out.count)
    assert row["loss"] == pytest.approx(values[run_folder.EVAL_LOSS_FULL][STEPS][1], rel=1e-6)
    assert row["eval_loss"] == pytest.approx(values[run_folder.EVAL_LOSS][STEPS][1], rel=1e-6)
    assert row["documents"] == 2 and row["loss_se"] > 0
    before = evaluate(configs.of_run(runs[family]), runs[family], "checkpoint-6-before")
    assert before["eval_loss"] == pytest.approx(values[run_folder.EVAL_LOSS][6][1], rel=1e-6)


def test_the_command_evaluates_a_checkpoint_and_writes_nothing(runs):
    there = sorted(path.name for path in runs["gpt2"].iterdir())
    done = call("pli-train", "evaluate", runs["gpt2"], "--checkpoint", "checkpoint-3", "--format", "json")
    (row,) = json.loads(done.stdout)
    assert row["step"] == 3 and row["tokens"] == row["blocks"] * 31
    assert sorted(path.name for path in runs["gpt2"].iterdir()) == there


def test_going_on_with_a_run_of_an_older_version_says_that_its_blocks_are_others(config_of, tmp_path):
    config, lines = config_of("gpt2", {"train.steps": 2, "growth.schedule": ""}), []

    class Listening(NullReporter):
        def say(self, line):
            lines.append(line)

    launch.begin(config, tmp_path / "run").run()
    launch.resume(config, tmp_path / "run", Listening())
    assert not [line for line in lines if "older version" in line]
    save_file({"tokens": np.zeros((8, 32), np.int32)}, tmp_path / "run" / run_folder.PROBE)
    launch.resume(config, tmp_path / "run", Listening())
    fork(tmp_path / "run", 2, tmp_path / "twin", show=Listening())
    assert len([line for line in lines if "older version" in line]) == 2
