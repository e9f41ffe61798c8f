"""Influence of training blocks against slow sums over transformers' models, single steps of SGD, and planted blocks."""

import re
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import pli_analysis
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.train_sample import train_sample_of
from pli_analysis.metrics.drift.rates import rates_of
from pli_analysis.metrics.influence import extremes, influence, products, rate_of, steps_of
from pli_analysis.runs.opening import open_run
from pli_train.commands.sample import sample
from pli_train.config import loading as configs
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.commands import call

TRAIN, HELD_OUT, SUMMED = 5, 4, 3
UNEQUAL = [{"at": 1, "index": 1}, {"at": 2, "operator": "heads", "to": 6, "layers": ["b"]}]
UNEQUAL += [{"at": 2, "operator": "ffn", "to": 64, "layers": ["a"]}]
STACK = {"bert": r"encoder\.layer\.(\d+)\.", "gpt2": r"\.h\.(\d+)\.", "llama": r"\.layers\.(\d+)\."}


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def sampled(request, runs, config_of, tmp_path_factory):
    """(family, run with a sample of its training blocks): grown runs; the Llama has layers of unequal width."""
    folder = tmp_path_factory.mktemp("influence") / request.param
    if request.param == "llama":
        launch.begin(config_of("llama", {"train.steps": 4, "growth.schedule": UNEQUAL}), folder).run()
    else:
        shutil.copytree(runs[request.param], folder)
    sample(configs.of_run(folder), folder, TRAIN)
    return request.param, open_run([folder])


@pytest.fixture
def gpt2(runs, tmp_path):
    """A run that a test may damage, with a sample of its training blocks."""
    folder = Path(shutil.copytree(runs["gpt2"], tmp_path / "gpt2"))
    sample(configs.of_run(folder), folder, TRAIN)
    return folder


@lru_cache(maxsize=1)
def model_at(family, path):
    auto = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    return auto.from_pretrained(path).double().eval()


def gradients(family, checkpoint, weighted):
    """Layer id or None → the flat gradient of a sum of weighted block losses, by transformers alone, in float64."""
    model = model_at(family, checkpoint.path)
    model.zero_grad()
    for weight, tokens, labels in weighted:
        logits = model(input_ids=tokens[None]).logits[0]
        known = labels >= 0
        (weight * -logits.log_softmax(-1)[known].gather(1, labels[known, None]).sum()).backward()
    found = {}
    for name, parameter in model.named_parameters():
        match = re.search(STACK[family], name)
        layer = checkpoint.lineage.stack[int(match[1])] if match else None
        if parameter.grad is not None:
            found.setdefault(layer, []).append(parameter.grad.flatten())
    return {layer: torch.cat(each) for layer, each in found.items()}


def held_out(run):
    """The weight of each held-out block in the mean loss, its tokens and labels: by hand from the sampling design."""
    chosen = eval_tokens.sample_of(run, None, HELD_OUT)
    stratum, sizes = chosen.design.stratum.tolist(), chosen.design.sizes.tolist()
    weights = [sizes[one] / stratum.count(one) for one in stratum]
    whole = sum(weight * int((labels >= 0).sum()) for weight, labels in zip(weights, chosen.labels, strict=True))
    return [(weight / whole, *pair) for weight, *pair in zip(weights, chosen.tokens, chosen.labels, strict=True)]


def test_influence_is_a_slow_sum_over_checkpoints(sampled):
    family, run = sampled
    table = influence(run, blocks=HELD_OUT, checkpoints=SUMMED)
    steps = [int(step) for step in table[table.part_type == "model"].checkpoints.iloc[0].split()]
    assert len(steps) == SUMMED and steps[0] < steps[-1] < run.checkpoints[-1].step
    logged = run.scalars.of(run_folder.LR)
    rates = dict(zip(logged.steps.tolist(), logged.values.tolist(), strict=True))
    train, expected = train_sample_of(run), {}
    for step in steps:
        target = gradients(family, run.states[step], held_out(run))
        for number, (tokens, labels) in enumerate(zip(train.tokens, train.labels, strict=True)):
            mine = gradients(family, run.states[step], [(1 / max(1, int((labels >= 0).sum())), tokens, labels)])
            for layer in target:
                product = rates[step + 1] * float(mine[layer] @ target[layer]) if layer in mine else 0.0
                expected[layer, number] = expected.get((layer, number), 0.0) + product
    scale = max(map(abs, expected.values()))
    of_block = {block: number for number, block in enumerate(train.block.tolist())}
    total = dict.fromkeys(range(TRAIN), 0.0)
    for row in table[table.part_type != "model"].itertuples():
        layer, number = (row.layer if row.part_type == "layer" else None), of_block[row.block]
        assert row.influence == pytest.approx(expected[layer, number], rel=1e-3, abs=1e-5 * scale)
        total[number] += row.influence
    whole = table[table.part_type == "model"]
    assert {of_block[row.block]: row.influence for row in whole.itertuples()} == pytest.approx(total)
    assert set(table.layer.dropna()) == set(run.lineage.stack)


def test_a_layer_is_summed_from_its_birth_on(sampled):
    _, run = sampled
    table = influence(run, blocks=HELD_OUT, checkpoints=100)
    births = {id: layer.birth.step for id, layer in run.lineage.layers.items()}
    assert max(births.values()) > 0
    for layer, rows in table[table.part_type == "layer"].groupby("layer"):
        summed = [int(step) for step in rows.checkpoints.iloc[0].split()]
        assert summed == [step for step in run.states if births[layer] <= step < run.checkpoints[-1].step]


def test_a_product_is_what_a_small_step_of_sgd_takes_off_the_loss(gpt2):
    """Of one layer alone, on one block alone."""
    run = open_run([gpt2])
    checkpoint, train = run.states[6], train_sample_of(run)
    target = eval_tokens.sample_of(run, None, HELD_OUT)
    found = {layer: values for layer, *values in products(checkpoint, train, target)}
    for layer in (checkpoint.lineage.stack[1], None):
        losses, rate = [], 1e-3
        for sign in (1, -1):
            model = checkpoint_model.model_of(checkpoint).double()
            inside = {
                parameter: checkpoint.lineage.stack[index]
                for index, each in enumerate(model.transformer.h)
                for parameter in each.parameters()
            }
            block = train.labels[2] >= 0
            logits = model(input_ids=train.tokens[2:3]).logits[0][block]
            torch.nn.functional.cross_entropy(logits, train.labels[2][block]).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if inside.get(parameter) == layer:
                        parameter -= sign * rate * parameter.grad
                losses.append(
                    sum(
                        weight
                        * float(
                            -model(input_ids=tokens[None])
                            .logits[0]
                            .log_softmax(-1)[known]
                            .gather(1, labels[known, None])
                            .sum()
                        )
                        for weight, tokens, labels in held_out(run)
                        for known in [labels >= 0]
                    )
                )
        assert (losses[1] - losses[0]) / (2 * rate) == pytest.approx(found[layer][2], rel=1e-3, abs=1e-6)


def test_a_block_that_is_the_target_has_the_highest_influence(sampled):
    """Of each layer it is the squared norm of a gradient, summed over checkpoints."""
    family, run = sampled
    path = run.path / run_folder.TRAIN_SAMPLE
    kept, target = load_file(path), eval_tokens.sample_of(run, None, 1)
    planted = {name: values.copy() for name, values in kept.items()}
    planted["inputs"][4], planted["labels"][4] = target.tokens[0].numpy(), target.labels[0].numpy()
    save_file(planted, path)
    try:
        table = influence(run, blocks=1, checkpoints=1)
    finally:
        save_file(kept, path)
    mine = table[table.block == kept["block"][4]]
    assert mine[mine.part_type == "model"]["rank"].item() == 1
    (step,) = set(mine.checkpoints)
    known = target.labels[0] >= 0
    expected = gradients(family, run.states[int(step)], [(1 / int(known.sum()), target.tokens[0], target.labels[0])])
    for row in mine[mine.part_type != "model"].itertuples():
        gradient = expected[row.layer if row.part_type == "layer" else None]
        assert row.influence == pytest.approx(rates_of(run).at(int(step)) * float(gradient @ gradient), rel=1e-3)


def test_ranks_and_extremes(gpt2):
    table = influence(open_run([gpt2]), blocks=HELD_OUT, checkpoints=2)
    for _, rows in table.groupby(["part_type", "layer"], dropna=False):
        assert rows["rank"].tolist() == list(range(1, TRAIN + 1))
        assert rows.influence.is_monotonic_decreasing
    few = extremes(table, 1)
    assert set(few["rank"]) == {1, TRAIN} and len(few) == 2 * (len(set(table.layer.dropna())) + 2)
    assert len(extremes(table, 100)) == len(table)


def test_excerpts_are_the_text_in_one_line(sampled):
    _, run = sampled
    excerpts = influence(run, blocks=1, checkpoints=1).set_index("block").excerpt
    tokenizer = eval_tokens.tokenizer_of(run, eval_tokens.Text(run.path))[0]
    config = configs.of_run(run.path)
    text = launch.corpus_of(config, run.path, lambda line: None).train
    for block, excerpt in excerpts.items():
        whole = " ".join(tokenizer.decode(text[block * 32 : (block + 1) * 32]).split())
        assert excerpt.isprintable() and whole.startswith(excerpt.removesuffix("…")) and len(excerpt) <= 61


def test_checkpoints_are_at_equal_intervals(gpt2):
    run = open_run([gpt2])
    rates = rates_of(run)
    assert steps_of(run, rates, 100) == [0, 2, 3, 4, 6, 8, 9, 10]
    assert steps_of(run, rates, 3) == [0, 4, 10] or steps_of(run, rates, 3) == [0, 6, 10]
    assert steps_of(run, rates, 1) == [10]


def test_frozen_layers_count_with_a_rate_of_0(config_of, tmp_path):
    schedule = [{"at": 2, "index": 1, "freeze_steps": 3}]
    launch.begin(config_of("gpt2", {"train.steps": 8, "growth.schedule": schedule}), tmp_path / "run").run()
    run = open_run([tmp_path / "run"])
    rates = rates_of(run)
    assert rate_of(rates, run.lineage, "a", 2) == rate_of(rates, run.lineage, None, 4) == 0
    assert rate_of(rates, run.lineage, "b", 2) == pytest.approx(rates.at(2)) and rates.at(2) > 0
    assert rate_of(rates, run.lineage, "a", 6) == pytest.approx(rates.at(6))


def damaged(change):
    """A change of the arrays of the sample as a change of its file."""

    def apply(folder):
        arrays = load_file(folder / run_folder.TRAIN_SAMPLE)
        change(arrays)
        save_file(arrays, folder / run_folder.TRAIN_SAMPLE)

    return apply


INVALID = "is not a valid file of training blocks"
WRONG = {
    "missing": (lambda folder: (folder / run_folder.TRAIN_SAMPLE).unlink(), r"no sample .* run: pli-train sample \S"),
    "other arrays": (damaged(lambda arrays: arrays.pop("step")), INVALID),
    "other shapes": (damaged(lambda arrays: arrays.update(block=arrays["block"][:2])), INVALID),
    "other types": (damaged(lambda arrays: arrays.update(inputs=arrays["inputs"].astype("f4"))), INVALID),
    "other tokens": (damaged(lambda arrays: arrays["inputs"].fill(10**6)), "token ids outside the model's vocabulary"),
    "no tensors": (lambda folder: (folder / run_folder.TRAIN_SAMPLE).write_bytes(b"nothing"), "train_sample"),
}


@pytest.mark.parametrize(("damage", "message"), WRONG.values(), ids=WRONG)
def test_a_damaged_sample_is_one_line(damage, message, gpt2):
    damage(gpt2)
    with pytest.raises(BadInput, match=message):
        influence(open_run([gpt2]), blocks=1)


def test_a_folder_of_checkpoints_has_no_training_blocks(runs, tmp_path):
    shutil.copytree(runs["gpt2"] / "checkpoint-12", tmp_path / "checkpoint-12")
    with pytest.raises(BadInput, match="was not trained by pli-train"):
        influence(open_run([tmp_path / "checkpoint-12"]), blocks=1)


def test_the_command_writes_a_table_and_a_page(gpt2, tmp_path):
    words = ["influence", str(gpt2), "--blocks", "4", "--checkpoints", "2", "--top", "1"]
    done = call("pli-analyze", *words, "-o", "table.csv", "--html", "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "helped the held-out loss" in done.stderr and "through an inserted layer" in done.stderr
    rows = (tmp_path / "table.csv").read_text().splitlines()
    assert rows[0].startswith("run,step,layer,index,is_inserted,part_type,checkpoints,block,document,trained_step")
    whole = pli_analysis.influence(open_run([gpt2]), blocks=4, checkpoints=2)
    assert len(rows) - 1 == len(extremes(whole, 1))
    assert "Influence by layer" in (tmp_path / "page.html").read_text()


def test_text_of_a_block_is_escaped_in_the_figure(gpt2):
    from pli_analysis.figures.influence import by_layer

    table = influence(open_run([gpt2]), blocks=1, checkpoints=1).assign(excerpt="<a href='x'>&")
    (points,) = by_layer(table[table.part_type == "layer"]).data
    assert np.all([text == "&lt;a href='x'&gt;&amp;" for _, text in points.customdata])
