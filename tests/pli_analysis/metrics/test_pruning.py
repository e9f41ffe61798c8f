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
from pli_analysis.metrics.ablation import pruning as metric
from pli_analysis.metrics.ablation.pruning import DRAWS, heads_to_prune, prunable, pruning
from pli_analysis.report.pruning import verdict
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from tests.commands import call, refused

BLOCKS = 4


@pytest.fixture(scope="module")
def run(runs):
    return open_run([runs["gpt2"]])


@pytest.fixture(scope="module")
def table(run):
    return pruning(run, blocks=BLOCKS)


@pytest.fixture(scope="module")
def of_all(table):
    return table[table.origin == "all"]


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


def names(run, heads):
    return [f"{run.lineage.stack[layer]}.h{head}" for layer, head in heads]


def test_halves_have_no_block_in_common(run, halves):
    whole = eval_tokens.sample_of(run, None, BLOCKS)
    assert torch.equal(torch.cat([half.tokens for half in halves]), whole.tokens)
    assert np.array_equal(np.concatenate([half.documents for half in halves]), whole.documents)
    assert [half.design.sizes.sum() for half in halves] == [whole.design.sizes.sum()] * 2
    assert [len(half.design.stratum) for half in halves] == [BLOCKS // 2] * 2


def test_each_curve_ends_without_any_head(run, of_all, halves):
    heads = all_heads(run)
    ends = of_all[of_all.share_masked == 1]
    assert len(ends) == 2 + DRAWS
    assert (ends.heads_masked == len(heads)).all()
    assert ends.loss.to_numpy() == pytest.approx(loss_without(run, halves[1], heads), abs=1e-5)
    begins = of_all[of_all.heads_masked == 0]
    assert begins.loss.to_numpy() == pytest.approx(loss_without(run, halves[1], []), abs=1e-5)
    assert (begins.loss_change == 0).all()


def test_heads_are_masked_in_the_order_of_the_other_half(run, of_all, halves):
    chosen_on, measured_on = halves
    heads = all_heads(run)
    changes = [loss_without(run, chosen_on, [head]) for head in heads]
    order = np.argsort(changes)
    assert np.diff(np.sort(changes)).min() > 1e-7  # so that rounding does not decide
    curve = of_all[of_all.order == "loss_change"].set_index("heads_masked")
    assert names(run, [heads[rank] for rank in order]) == " ".join(curve.masked_heads).split()
    for number in (1, 3, len(heads) - 1):
        masked = [heads[rank] for rank in order[:number]]
        assert curve.loss[number] == pytest.approx(loss_without(run, measured_on, masked), abs=1e-5)


def test_the_order_by_importance_is_that_of_the_heads(run, of_all, halves, monkeypatch):
    chosen_on, measured_on = halves
    monkeypatch.setattr(eval_tokens, "sample_of", lambda *_: chosen_on)
    rows = ablation.ablation(run)
    importance = rows[rows.part_type == "head"].head_importance.to_numpy()
    least = all_heads(run)[int(np.argmin(importance))]
    curve = of_all[of_all.order == "importance"].set_index("heads_masked")
    assert curve.loss[1] == pytest.approx(loss_without(run, measured_on, [least]), abs=1e-5)


@pytest.mark.parametrize("origin", ["initial", "inserted"])
def test_only_heads_of_one_origin_are_masked(run, table, halves, origin):
    born = {id: "initial" if layer.birth.event is None else "inserted" for id, layer in run.lineage.layers.items()}
    heads = [head for head in all_heads(run) if born[run.lineage.stack[head[0]]] == origin]
    rows = table[table.origin == origin]
    for _, curve in rows.groupby(["order", "draw"]):
        assert sorted(" ".join(curve.masked_heads).split()) == sorted(names(run, heads))
        assert curve.loss.iloc[-1] == pytest.approx(loss_without(run, halves[1], heads), abs=1e-5)
        assert curve.heads_masked.tolist() == list(range(len(heads) + 1)) and curve.share_masked.iloc[-1] == 1


def synthetic():
    """Two checkpoints with a curve of three heads each; the loss without masks is 2, so heads cost up to 0.02."""
    changes = {
        ("1", "importance"): [[0, 0.01, 0.03, 0.01]],
        ("1", "loss_change"): [[0, 0, 0, 0]],
        ("1", "random"): [[0, 0.5, 1, 1], [0, 0, 0.5, 1]],
        ("2", "importance"): [[0, 0.01, 0.015, 0.04]],
    }
    rows = [
        {"run": "r", "checkpoint": checkpoint, "step": int(checkpoint), "origin": "all", "order": order, "draw": draw}
        | {"heads_masked": number, "share_masked": number / 3, "loss": 2.0 + change, "loss_change": change}
        | {"masked_heads": ["", "a.h2", "a.h0", "b.h1"][number]}
        for (checkpoint, order), curves in changes.items()
        for draw, curve in enumerate(curves)
        for number, change in enumerate(curve)
    ]
    return pd.DataFrame(rows)


def test_the_share_of_prunable_heads():
    shares = prunable(synthetic())
    assert shares.prunable_share.tolist() == pytest.approx([1 / 3, 1, 1 / 6, 2 / 3])
    assert shares.order.tolist() == ["importance", "loss_change", "random", "importance"]
    assert shares.heads.tolist() == [3] * 4
    assert prunable(synthetic(), tolerance=0.02).prunable_share.tolist() == pytest.approx([1, 1, 1 / 6, 1])


def test_the_least_important_heads_of_the_last_checkpoint_are_pruned():
    table = synthetic()
    assert heads_to_prune(table) == ["a.h2", "a.h0"]
    assert heads_to_prune(table, tolerance=0.006) == ["a.h2"]
    assert heads_to_prune(table, share=0.3) == ["a.h2"]
    assert heads_to_prune(table, share=1.0) == ["a.h2", "a.h0", "b.h1"]
    assert heads_to_prune(table, share=0.0) == []


def test_the_table_has_the_prunable_share_of_each_curve(table):
    shares = prunable(table).set_index(["origin", "order"]).prunable_share
    means = table.drop_duplicates(["origin", "order", "draw"]).groupby(["origin", "order"]).prunable_share.mean()
    assert {*shares.index} == {
        (o, r) for o in ("all", "initial", "inserted") for r in ("importance", "loss_change", "random")
    }
    assert means.to_dict() == pytest.approx(shares.to_dict())


def test_a_second_call_reads_the_first(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path))
    first, calls = pruning(run, blocks=2), []
    monkeypatch.setattr(metric, "_measured", lambda *args: calls.append(args) or [])
    pd.testing.assert_frame_equal(pruning(run, blocks=2), first)
    assert not calls
    assert not len(pruning(run, blocks=4)) and len(calls) == 1  # other blocks, other losses


def test_checkpoints_are_spaced_evenly_up_to_the_last(run):
    steps = [checkpoint.step for checkpoint in run.states.values()]
    spaced = [checkpoint.step for checkpoint in metric._spaced(run, None, 3)]
    assert (len(spaced), spaced[0], spaced[-1]) == (3, steps[0], steps[-1]) and spaced == sorted(spaced)
    assert [checkpoint.step for checkpoint in metric._spaced(run, None, 99)] == steps
    assert [checkpoint.step for checkpoint in metric._spaced(run, steps[1], 99)] == steps[:2]
    assert [checkpoint.step for checkpoint in metric._spaced(run, steps[1], 1)] == steps[1:2]


def test_several_checkpoints_are_measured_as_one_by_one(run, table):
    both = pruning(run, blocks=BLOCKS, checkpoints=2)
    alone = [pruning(run, blocks=BLOCKS, at=step) for step in both.step.unique()]
    pd.testing.assert_frame_equal(both, pd.concat(alone, ignore_index=True))
    assert "at step 0 and" in verdict(both) and "at step 0" not in verdict(table)


def test_the_command_writes_a_table_and_a_page(runs, tmp_path):
    words = ["pruning", str(runs["bert"]), "--blocks", "4", "-o", "table.csv", "--html", "page.html"]
    done = call("pli-analyze", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The loss rises by at most 1% with" in done.stderr and "inserted heads (" in done.stderr
    assert (tmp_path / "table.csv").read_text().startswith("run,checkpoint,step,origin,order,draw,heads_masked")
    assert "Loss over masked heads" in (tmp_path / "page.html").read_text()


def test_one_block_is_refused(run):
    with pytest.raises(BadInput, match="has one block of text, and pruning needs two"):
        pli_analysis.pruning(run, blocks=1)


def test_the_command_exports_the_pruned_model(runs, tmp_path):
    words = ["pruning", str(runs["gpt2"]), "--blocks", "4", "-o", "table.csv", "--export", "pruned"]
    done = call("pli-analyze", *words, "--share", "0.3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 of 10 heads pruned: set to zero, not removed, as the config of a gpt2 allows no fewer" in done.stderr
    table = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    curve = table[(table.origin == "all") & (table.order == "importance")].set_index("heads_masked")
    run = open_run([runs["gpt2"]])
    measured_on = eval_tokens.sample_of(run, None, 4).halves()[1]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(input_ids=measured_on.tokens).logits
    loss = float(cross_entropy(logits.flatten(0, 1), measured_on.labels.flatten()))
    assert loss == pytest.approx(curve.loss[3], abs=1e-5)
    assert loss != pytest.approx(curve.loss[0], abs=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--share", "0.3"], "--share: applies only to --export DIR: give both"),
        (["--within", "0.3"], "--within: applies only to --export DIR: give both"),
        (
            ["--export", "x", "--within", "0.3", "--share", "1"],
            "--share and --within exclude each other: use one of them",
        ),
        (["--export", "there"], "--export there: already exists; name another folder, or remove it first"),
    ],
)
def test_options_of_an_export_are_checked_first(words, message, tmp_path):
    (tmp_path / "there").mkdir()
    assert len(refused(call("pli-analyze", "pruning", "no-run", *words, cwd=tmp_path), message)) == 1
