"""Ablations against models that the tests change themselves, in transformers alone."""

import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import pli_analysis
from pli_analysis.inference import eval_tokens
from pli_analysis.metrics.ablation.ablation import ablation
from pli_analysis.report import ablation as report
from pli_analysis.report import page
from pli_analysis.report.parts import of_checkpoint
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.commands import call, refused
from tests.families import tiny
from tests.run_files import vouch

BLOCKS = 6
OUTPUTS = {
    "bert": ("bert.encoder.layer", "attention.output.dense", "output.dense"),
    "gpt2": ("transformer.h", "attn.c_proj", "mlp.c_proj"),
    "llama": ("model.layers", "self_attn.o_proj", "mlp.down_proj"),
}
"""Where a model has its layers, and a layer the output projections of attention and FFN."""
GROWTH = [{"operator": "heads", "at": 1, "to": 4, "layers": ["a"]}, {"at": 2, "index": 1}]


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def case(request, runs, config_of, tmp_path_factory):
    """(family, run, its last model in transformers, the blocks that it is measured on, the table)."""
    if request.param == "llama":  # two layers with shared keys and values, and heads that only one of them gained
        wanted = {"train.steps": 3, "model.initial_heads": 2, "growth.schedule": GROWTH}
        folder = tmp_path_factory.mktemp("ablation") / "llama"
        launch.begin(config_of("llama", wanted), folder).run()
    else:
        folder = runs[request.param]
    run = open_run([folder])
    return request.param, run, reloaded(request.param, run), eval_tokens.sample_of(run, None, BLOCKS), table_of(run)


def table_of(run, **wanted):
    return ablation(run, blocks=BLOCKS, **wanted)


def reloaded(family, run):
    auto = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    return auto.from_pretrained(run.checkpoints[-1].path, attn_implementation="eager").double().eval()


def parts_of(family, model):
    stack, attention, ffn = OUTPUTS[family]
    layers = model.get_submodule(stack)
    return layers, [(layer.get_submodule(attention), layer.get_submodule(ffn)) for layer in layers]


def loss_of(model, sample):
    """Mean loss per predicted token, and per block."""
    with torch.no_grad():
        logits = model(input_ids=sample.tokens, use_cache=False).logits
    each = cross_entropy(logits.transpose(1, 2), sample.labels, reduction="none")
    predicted = sample.labels != -100
    blocks = each.sum(1) / predicted.sum(1)
    return float(each.sum() / predicted.sum()), blocks


def columns(family, projection, head, heads):
    """The weights of an output projection that read a head: Conv1D stores them as rows."""
    weight = projection.weight.data
    width = (weight.shape[0] if family == "gpt2" else weight.shape[1]) // heads
    at = slice(head * width, (head + 1) * width)
    return weight[at] if family == "gpt2" else weight[:, at]


def change(table, part, kind, part_type=None):
    rows = table[(table.part == part) & (table.ablation == kind)]
    rows = rows if part_type is None else rows[rows.part_type == part_type]
    assert len(rows) == 1
    return rows.iloc[0].loss_change


def test_masking_a_head_is_zeroing_its_columns(case):
    family, run, model, sample, table = case
    heads = run.checkpoints[-1].config.get("num_attention_heads") or run.checkpoints[-1].config["n_head"]
    before, _ = loss_of(model, sample)
    for layer, (attention, _) in zip(run.lineage.stack, parts_of(family, model)[1], strict=True):
        for head in range(len(run.lineage.layers[layer].heads)):
            weights = columns(family, attention, head, heads)
            kept = weights.clone()
            weights.zero_()
            after, _ = loss_of(model, sample)
            weights.copy_(kept)
            assert change(table, f"{layer}.h{head}", "mask") == pytest.approx(after - before, abs=2e-6)


def test_masking_an_ffn_is_zeroing_its_output_projection(case):
    family, run, model, sample, table = case
    before, _ = loss_of(model, sample)
    for layer, (_, ffn) in zip(run.lineage.stack, parts_of(family, model)[1], strict=True):
        kept = {name: values.clone() for name, values in ffn.state_dict().items()}
        for values in ffn.parameters():
            values.data.zero_()
        after, _ = loss_of(model, sample)
        ffn.load_state_dict(kept)
        assert change(table, layer, "mask", "ffn") == pytest.approx(after - before, abs=2e-6)


def test_layers_are_skipped_swapped_replaced_and_reversed(case):
    family, run, model, sample, table = case
    before, _ = loss_of(model, sample)
    layers, _ = parts_of(family, model)
    weights = [{name: values.clone() for name, values in layer.state_dict().items()} for layer in layers]
    ids = list(run.lineage.stack)

    def loss_with(order):
        """The loss with the weights of other layers copied into each layer."""
        for layer, source in zip(layers, order, strict=True):
            layer.load_state_dict(weights[source])
        after, _ = loss_of(model, sample)
        for layer, own in zip(layers, weights, strict=True):
            layer.load_state_dict(own)
        return after - before

    straight = list(range(len(ids)))
    for index, id in enumerate(ids):
        removed = layers[index]
        del layers[index]
        after, _ = loss_of(model, sample)
        layers.insert(index, removed)
        assert change(table, id, "skip") == pytest.approx(after - before, abs=2e-6)
        if index + 1 < len(ids):
            swapped = [*straight[:index], index + 1, index, *straight[index + 2 :]]
            assert change(table, id, "swap") == pytest.approx(loss_with(swapped), abs=2e-6)
        donor = run.lineage.layers[id].birth.donor
        rows = table[(table.part == id) & (table.ablation == "donor")]
        assert len(rows) == (donor is not None)
        if donor is not None:
            replaced = [*straight[:index], ids.index(donor), *straight[index + 1 :]]
            assert rows.iloc[0].loss_change == pytest.approx(loss_with(replaced), abs=2e-6)
    assert change(table, "stack", "reverse") == pytest.approx(loss_with(straight[::-1]), abs=2e-6)


def test_head_importance_is_the_derivative_by_a_gate(case):
    """Central differences of each block's loss, as the columns of a head are scaled by 1 ± ε."""
    family, run, model, sample, table = case
    heads = run.checkpoints[-1].config.get("num_attention_heads") or run.checkpoints[-1].config["n_head"]
    step = 1e-2  # some of Llama's operations are in float32 even in a model of float64
    for layer, (attention, _) in zip(run.lineage.stack, parts_of(family, model)[1], strict=True):
        slopes = []
        for head in range(len(run.lineage.layers[layer].heads)):
            weights = columns(family, attention, head, heads)
            kept = weights.clone()
            sides = []
            for scale in (1 + step, 1 - step):
                weights.copy_(kept * scale)
                sides.append(loss_of(model, sample)[1])
            weights.copy_(kept)
            slopes.append(float(((sides[0] - sides[1]) / (2 * step)).abs().mean()))
        rows = table[(table.layer == layer) & (table.part_type == "head")]
        assert rows.head_importance.tolist() == pytest.approx(slopes, rel=1e-3, abs=1e-6)
        assert np.linalg.norm(rows.relative_importance) == pytest.approx(1)


def test_block_influence_is_that_of_the_hidden_states(case):
    _, run, model, sample, table = case
    with torch.no_grad():
        hidden = model(input_ids=sample.tokens, output_hidden_states=True, use_cache=False).hidden_states
    # The last entry is after the final norm in decoders.
    for index, id in enumerate(run.lineage.stack[:-1]):
        cosine = torch.cosine_similarity(hidden[index], hidden[index + 1], dim=-1).mean()
        influence = table[(table.part == id) & (table.ablation == "skip")].iloc[0].block_influence
        assert influence == pytest.approx(1 - float(cosine), abs=1e-6)


def test_padding_is_no_head(case):
    _, run, _, _, table = case
    found = table[table.part_type == "head"].groupby("layer", sort=False).size()
    assert found.to_dict() == {id: len(run.lineage.layers[id].heads) for id in run.lineage.stack}


def test_a_layer_that_begins_as_the_identity_has_no_effect(config_of, tmp_path):
    event = {"at": 2, "index": 1, "initializer": "identity"}
    launch.begin(config_of("gpt2", {"train.steps": 3, "growth.schedule": [event]}), tmp_path / "run").run()
    run = open_run([tmp_path / "run"])
    table = table_of(run, at=2)
    new = table[table.layer == "b"]
    assert run.states[2].lineage.stack == ["a", "b"]
    still = new[new.ablation.isin(["mask", "skip"])]
    assert still.loss_change.abs().max() == 0
    assert new[new.part_type == "head"].head_importance.abs().max() == 0
    assert new[new.ablation == "skip"].iloc[0].block_influence == pytest.approx(0, abs=1e-12)
    assert new[new.ablation == "donor"].iloc[0].loss_change != 0


def test_an_important_head_is_found(runs, tmp_path):
    """A head whose outputs are made ten times as large."""
    folder = shutil.copytree(runs["gpt2"], tmp_path / "run")
    run = open_run([folder])
    path = run.checkpoints[-1].path / run_folder.WEIGHTS
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("h.2.attn.c_proj.weight"))
    weights[name][: weights[name].shape[0] // 2] *= 10
    save_file(weights, path, metadata={"format": "pt"})
    vouch(path)
    table = table_of(open_run([folder]))
    heads = table[table.part_type == "head"]
    planted = f"{run.lineage.stack[2]}.h0"
    assert heads.loc[heads.loss_change.abs().idxmax()].part == planted
    assert heads.loc[heads.head_importance.idxmax()].part == planted


def test_the_second_call_reads_the_cache(runs, monkeypatch):
    run = open_run([runs["gpt2"]])
    first = table_of(run)

    def forbidden(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("pli_analysis.inference.checkpoint_model.model_of", forbidden)
    assert table_of(run).equals(first)
    assert pli_analysis.ablation(run, blocks=BLOCKS).equals(first)
    with pytest.raises(AssertionError):
        ablation(run, blocks=BLOCKS - 1)


def test_intervals_are_about_the_text(runs):
    table = table_of(open_run([runs["gpt2"]]))
    assert (table.loss_change_low <= table.loss_change).all()
    assert (table.loss_change <= table.loss_change_high).all()
    one = ablation(open_run([runs["gpt2"]]), blocks=1)
    assert one.loss_change.notna().all()
    assert all(math.isnan(value) for value in one.loss_change_low)


def test_the_command_writes_a_table_and_a_page(runs, tmp_path):
    words = ["ablation", str(runs["bert"]), "--blocks", "4", "-o", "table.csv", "--html", "page.html"]
    done = call("pli-analyze", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Skipping layer" in done.stderr
    assert (tmp_path / "table.csv").read_text().startswith("run,checkpoint,step,layer,index,age,is_inserted,part_type")
    text = (tmp_path / "page.html").read_text()
    assert "Loss change without each layer" in text
    assert "Loss change without each head" in text


def test_one_layer_has_no_order(config_of, tmp_path):
    launch.begin(config_of("gpt2", {"train.steps": 2, "growth.schedule": ""}), tmp_path / "run").run()
    table = table_of(open_run([tmp_path / "run"]))
    assert set(table.ablation) == {"mask", "skip"}
    assert report.verdict(table) == f"Skipping layer a changes the loss by {change(table, 'a', 'skip'):+.3f}."
    page.write(of_checkpoint(table, report.verdict(table), report.section(table)), tmp_path / "page.html")


def test_a_step_without_checkpoint_is_refused(runs):
    with pytest.raises(BadInput, match="has no checkpoint of step 5; the nearest is of step"):
        ablation(open_run([runs["gpt2"]]), at=5)


@pytest.mark.parametrize(
    ("family", "message"),
    [("vit", "does not read text"), ("t5", "only weights are measured, not outputs or losses")],
)
def test_models_without_a_loss_on_text_are_refused(family, message, tmp_path):
    tiny(family).save_pretrained(tmp_path / "model")
    refused(call("pli-analyze", "ablation", str(tmp_path / "model")), message)


def foreign(family, folder, text, **more):
    """A run of one model folder of a family, a tokenizer of bytes that fits it, and the text: what `ablation` takes."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tiny(family, **more).save_pretrained(folder / "model")
    letters = {letter: number for number, letter in enumerate(["<unk>", *"abcdefghijklmnopqrstuvwxyz ().:_="])}
    words = Tokenizer(models.WordLevel(letters, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder / "words")
    return open_run([folder / "model"]), eval_tokens.Text(text, tokenizer=folder / "words")


@pytest.mark.parametrize("family", ["gemma2", "qwen3"])
def test_layers_keep_their_attention_window_when_they_move(family, corpus, tmp_path):
    more = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
    if family == "qwen3":
        more |= {"use_sliding_window": True, "max_window_layers": 0}
    run, text = foreign(family, tmp_path, corpus, **more)
    table = ablation(run, text, blocks=4)
    sample = eval_tokens.sample_of(run, text, 4)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager").eval()
    before, _ = loss_of(model, sample)
    model.model.layers = torch.nn.ModuleList(reversed(model.model.layers))
    unlike, _ = loss_of(model, sample)
    model.config.layer_types = more["layer_types"][::-1]
    after, _ = loss_of(model, sample)
    assert abs(unlike - after) > 1e-4  # so that the window matters
    assert change(table, "stack", "reverse") == pytest.approx(after - before, abs=2e-6)
    assert ablation(run, text, blocks=4).equals(table)  # the model's config is as before


def test_a_damaged_copy_does_not_change_the_results_of_the_run(runs, tmp_path):
    """The manifest of the copy has the hash of the intact file."""
    copy = shutil.copytree(runs["gpt2"], tmp_path / "copy")
    path = open_run([copy]).checkpoints[-1].path / run_folder.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x40
    path.write_bytes(content)
    damaged = ablation(open_run([copy]), blocks=3)
    intact = ablation(open_run([runs["gpt2"]]), blocks=3)
    assert not np.array_equal(damaged.loss_change, intact.loss_change)


def test_ages_are_those_of_the_step_and_not_of_equal_weights(runs, tmp_path):
    folder = shutil.copytree(runs["gpt2"], tmp_path / "run")
    run = open_run([folder])
    last, earlier = run.checkpoints[-1], run.checkpoints[-2]
    for name in (run_folder.WEIGHTS, run_folder.CONFIG, run_folder.LINEAGE):
        shutil.copy(last.path / name, earlier.path / name)
        vouch(earlier.path / name)
    now, then = (table_of(open_run([folder]), at=checkpoint.step) for checkpoint in (last, earlier))
    assert (now.loss_change == then.loss_change).all()
    assert set(now.age.dropna() - then.age.dropna()) == {last.step - earlier.step}


def test_inserted_layers_are_those_of_events(case):
    _, run, _, _, table = case
    inserted = {id for id, layer in run.lineage.layers.items() if layer.birth.event is not None}
    assert set(table[table.is_inserted.fillna(False)].layer) == inserted


@pytest.mark.parametrize("command", ["ablation", "pruning", "lens"])
def test_a_loss_that_is_not_finite_is_refused(command, runs, tmp_path):
    folder = shutil.copytree(runs["gpt2"], tmp_path / "run")
    path = open_run([folder]).checkpoints[-1].path / run_folder.WEIGHTS
    weights = load_file(path)
    next(values for name, values in weights.items() if name.endswith("h.0.mlp.c_fc.weight"))[0] = math.nan
    save_file(weights, path, metadata={"format": "pt"})
    vouch(path)
    refused(call("pli-analyze", command, str(folder)), "its loss on the text is not finite")


def test_largest_means_largest_in_size(case):
    table = case[4].copy()
    skips = table.ablation == "skip"
    table.loc[skips, "loss_change"] = [-0.5, 0.25, *[0.125] * (skips.sum() - 2)]
    first = table[skips].layer.iloc[0]
    assert f"Skipping layer {first} changes the loss most (-0.500), layer" in report.verdict(table)
    assert f"layer {first} least" not in report.verdict(table)
    table.loc[skips, "loss_change"] = -0.25
    assert report.verdict(table) == "Skipping any layer changes the loss by -0.250."


def test_heads_that_a_lineage_does_not_record_are_those_of_the_config(corpus, tmp_path):
    run, text = foreign("gptj", tmp_path, corpus)
    lineage = run.checkpoints[-1].lineage
    for layer in lineage.layers.values():
        layer.heads.clear()
    table = ablation(run, text, blocks=2)
    assert (table.part_type == "head").sum() == 4 * len(lineage.stack)
