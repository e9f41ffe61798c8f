"""Training blocks that are saved for analysis: those that the run has trained on, with their origin."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pli_train.commands.sample import sample
from pli_train.config import loading as configs
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.core.tokenizer import end_token
from pli_train.training import launch
from pli_train.training.run_plan import RunPlan
from tests.conftest import STEPS

PER_STEP = 8


@pytest.fixture(params=["gpt2", "bert"])
def mine(request, runs, tmp_path):
    """A copy of a finished run."""
    return Path(shutil.copytree(runs[request.param], tmp_path / request.param))


def drawn(run, blocks=1000):
    """The saved arrays, and the run's plan."""
    config = configs.of_run(run)
    path = sample(config, run, blocks)
    assert path == run / "train_sample.safetensors"
    return load_file(path), RunPlan.make(config, launch.corpus_of(config, run, lambda line: None), 1)


def text_of(kept, plan):
    """The tokens of the blocks, those below masks too."""
    is_masked = plan.objective.task == "masked-lm"
    return np.where(kept["labels"] >= 0, kept["labels"], kept["inputs"]) if is_masked else kept["inputs"]


def test_all_blocks_of_training_are_drawn_once_with_the_step_that_used_them(mine):
    kept, plan = drawn(mine)
    assert len(kept["block"]) == min(STEPS * PER_STEP, plan.blocks.count) == len(set(kept["block"].tolist()))
    assert kept["step"].max() <= STEPS
    for step in (1, 2, STEPS):
        rows = text_of(kept, plan)[kept["step"] == step]
        used = plan.blocks.at_step(step - 1, PER_STEP)
        assert sorted(map(tuple, rows)) == sorted(map(tuple, used))


def test_labels_are_those_of_the_objective(mine):
    kept, plan = drawn(mine, 16)
    inputs, labels = kept["inputs"], kept["labels"]
    text = plan.blocks.of(kept["block"])
    predicted = labels != -100
    if plan.objective.task == "causal-lm":
        assert np.array_equal(inputs, text) and np.array_equal(labels[:, :-1], text[:, 1:])
        assert not predicted[:, -1].any()
    else:
        assert 0.05 < predicted.mean() < 0.3
        assert np.array_equal(labels[predicted], text[predicted]) and np.array_equal(
            inputs[~predicted], text[~predicted]
        )


def test_the_document_is_that_in_which_the_block_begins(mine):
    kept, plan = drawn(mine, 40)
    text = plan.corpus
    for block, document in zip(kept["block"].tolist(), kept["document"].tolist(), strict=True):
        before = np.asarray(text.train[: block * 32])
        assert document == int((before == end_token(text.tokenizer)).sum())
    assert len(set(kept["document"].tolist())) > 1


def test_the_sample_is_a_function_of_the_run(mine):
    (first, _), (again, _), (fewer, _) = drawn(mine, 20), drawn(mine, 20), drawn(mine, 5)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert len(fewer["block"]) == 5 and first["block"].tolist() != sorted(first["block"].tolist())


def test_the_command_prints_the_file(runs, typed, tmp_path):
    run = shutil.copytree(runs["gpt2"], tmp_path / "run")
    code, out, _ = typed("sample", run, "--blocks", "3")
    assert (code, out) == (0, f"{run / run_folder.TRAIN_SAMPLE}\n")
    code, _, lines = typed("sample", tmp_path / "none")
    assert code == 2 and len(lines) == 1


def test_a_run_that_has_not_trained_is_refused(config_of, tmp_path):
    config = config_of("gpt2", {"growth.schedule": []})
    launch.begin(config, tmp_path / "run").run(until=0)
    with pytest.raises(BadInput, match="has not trained yet"):
        sample(config, tmp_path / "run", 4)


def test_another_corpus_is_refused(mine):
    record = json.loads((mine / run_folder.RUN).read_text())
    record["corpus"]["fingerprint"] = "other"
    (mine / run_folder.RUN).write_text(json.dumps(record))
    with pytest.raises(BadInput, match="the corpus has changed"):
        sample(configs.of_run(mine), mine, 4)
