"""Pruning curves against models whose weights the tests set to zero themselves."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import pli_analysis
from pli_analysis.inference import eval_tokens
from pli_analysis.metrics.ablation import ablation
from pli_analysis.metrics.ablation.pruning import DRAWS, prunable, pruning
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from tests.commands import call

BLOCKS = 8


@pytest.fixture(scope="module")
def run(runs):
    return open_run([runs["gpt2"]])


@pytest.fixture(scope="module")
def table(run):
    return pruning(run, blocks=BLOCKS)


@pytest.fixture(scope="module")
def halves(run):
    return eval_tokens.sample_of(run, None, BLOCKS).halves()


def loss_without(run, sample, heads):
    """Mean loss of a model with the rows of some heads in its Conv1D output projections set to zero."""
    model = AutoModelForCausalLM.from_pretrained(run.checkpoints[-1].path, attn_implementation="eager").eval()
    with torch.no_grad():
        for layer, head in heads:
            weight = model.transformer.h[layer].attn.c_proj.weight
            width = weight.shape[0] // model.config.n_head
            weight[head * width : (head + 1) * width] = 0
        logits = model(input_ids=sample.tokens).logits
    return float(cross_entropy(logits.flatten(0, 1), sample.labels.flatten()))


def all_heads(run):
    return [(i, head) for i, id in enumerate(run.lineage.stack) for head in range(len(run.lineage.layers[id].heads))]


def test_halves_have_no_block_in_common(run, halves):
    whole = eval_tokens.sample_of(run, None, BLOCKS)
    assert torch.equal(torch.cat([half.tokens for half in halves]), whole.tokens)
    assert np.array_equal(np.concatenate([half.documents for half in halves]), whole.documents)
    assert [half.design.sizes.sum() for half in halves] == [whole.design.sizes.sum()] * 2
    assert [len(half.design.stratum) for half in halves] == [BLOCKS // 2] * 2


def test_each_curve_ends_without_any_head(run, table, halves):
    heads = all_heads(run)
    ends = table[table.share_masked == 1]
    assert len(ends) == 2 + DRAWS
    assert (ends.heads_masked == len(heads)).all()
    assert ends.loss.to_numpy() == pytest.approx(loss_without(run, halves[1], heads), abs=1e-5)
    begins = table[table.heads_masked == 0]
    assert begins.loss.to_numpy() == pytest.approx(loss_without(run, halves[1], []), abs=1e-5)
    assert (begins.loss_change == 0).all()


def test_heads_are_masked_in_the_order_of_the_other_half(run, table, halves):
    chosen_on, measured_on = halves
    heads = all_heads(run)
    changes = [loss_without(run, chosen_on, [head]) for head in heads]
    order = np.argsort(changes)
    assert np.diff(np.sort(changes)).min() > 1e-7  # so that rounding does not decide
    curve = table[table.order == "loss_change"].set_index("heads_masked")
    for number in (1, 3, len(heads) - 1):
        masked = [heads[rank] for rank in order[:number]]
        assert curve.loss[number] == pytest.approx(loss_without(run, measured_on, masked), abs=1e-5)


def test_the_order_by_importance_is_that_of_the_heads(run, table, halves, monkeypatch):
    chosen_on, measured_on = halves
    monkeypatch.setattr(eval_tokens, "sample_of", lambda *_: chosen_on)
    rows = ablation.ablation(run)
    importance = rows[rows.part_type == "head"].head_importance.to_numpy()
    least = all_heads(run)[int(np.argmin(importance))]
    curve = table[table.order == "importance"].set_index("heads_masked")
    assert curve.loss[1] == pytest.approx(loss_without(run, measured_on, [least]), abs=1e-5)


def test_the_share_of_prunable_heads():
    changes = {
        "importance": [[0, 0.01, 0.03, 0.01]],
        "loss_change": [[0, 0, 0, 0]],
        "random": [[0, 0.5, 1, 1], [0, 0, 0.5, 1]],
    }
    rows = [
        {"order": order, "draw": draw, "share_masked": number / 3, "loss": 2.0 + change, "loss_change": change}
        for order, curves in changes.items()
        for draw, curve in enumerate(curves)
        for number, change in enumerate(curve)
    ]
    shares = prunable(pd.DataFrame(rows))  # a rise of up to 1 % of 2.0
    assert shares == pytest.approx({"importance": 1 / 3, "loss_change": 1, "random": 1 / 6})


def test_the_command_writes_a_table_and_a_page(runs, tmp_path):
    words = ["pruning", str(runs["bert"]), "--blocks", "4", "-o", "table.csv", "--html", "page.html"]
    done = call("pli-analyze", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The loss rises by at most 1% with" in done.stderr
    assert (tmp_path / "table.csv").read_text().startswith("run,checkpoint,step,order,draw,heads_masked")
    assert "Loss over masked heads" in (tmp_path / "page.html").read_text()


def test_one_block_is_refused(run):
    with pytest.raises(BadInput, match="has one block of text, and pruning needs two"):
        pli_analysis.pruning(run, blocks=1)
