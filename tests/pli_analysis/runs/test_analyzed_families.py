"""Families that are analysed and not trained: their tables against what the models compute, and measures by hand.

Which elements of a parameter belong to a head is found without the table: they are those that the head's part of what
attention hands to its output projection depends on, by its gradient.
"""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pli_analysis import api
from pli_analysis.inference import checkpoint_model
from pli_analysis.metrics.maps.points import points_of
from pli_analysis.metrics.maps.vectors import Weights
from pli_analysis.runs import layer_layout
from pli_analysis.runs.opening import open_run
from pli_train.config import loading
from pli_train.core import anatomy
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from tests.families import ANALYZED, HEADS, TINY, UNITS, VOCABULARY, WIDTH, tiny

STACKS = [(family, stack) for family in ANALYZED for stack in anatomy.family(family).stacks or [None]]
OUT = {"mixtral": "self_attn.o_proj", "dinov2": "attention.o_proj"}
"""Where a table names several, or more than attention's: the projection out of attention."""
READ = [name for name in ANALYZED if anatomy.family(name).task in ("causal-lm", "masked-lm")]


@pytest.fixture(autouse=True)
def without_events(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def table_of(family, stack=None):
    table = anatomy.family(family)
    return table.at(stack) if stack else table


def stack_of(model, table):
    return getattr(model, model.base_model_prefix, model).get_submodule(table.stack)


def run_once(model):
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        return model(pixel_values=torch.rand(2, 1, 8, 8, generator=generator))
    tokens = torch.randint(3, VOCABULARY, (2, 12), generator=generator)
    more = {"decoder_input_ids": tokens.flip(1)} if model.config.is_encoder_decoder else {}
    return model(input_ids=tokens, **more)


def influence(model, table, index=-1):
    """(elements of each parameter that each head depends on: name → (heads, *shape) bool, columns of heads in O)."""
    model = model if table.model_type == "mixtral" else model.double()  # its experts know no float64
    layer = stack_of(model, table)[index]
    if table.model_type == "olmo2":  # one number, the root mean square over all heads, couples them: without it
        for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
            norm.forward = partial(torch.mul, norm.weight)
    out = layer.get_submodule(OUT.get(table.model_type, table.identity["zero"][0]))
    collected = []
    out.register_forward_pre_hook(lambda module, args: collected.append(args[0]))
    run_once(model)
    parameters = dict(layer.named_parameters())
    heads = collected[0].unflatten(-1, (HEADS, -1))
    found = {name: torch.zeros(HEADS, *p.shape, dtype=torch.bool) for name, p in parameters.items()}
    for head in range(HEADS):
        # Random weights of the sum: nothing cancels by symmetry.
        weights = torch.rand(heads[..., head, :].shape, generator=torch.Generator().manual_seed(head)).double()
        grads = torch.autograd.grad(
            (heads[..., head, :] * weights).sum(), list(parameters.values()), retain_graph=True, allow_unused=True
        )
        for name, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                found[name][head] = grad != 0
    projection = next(name for name, module in layer.named_modules() if module is out)
    size = out.weight.shape[1] // HEADS
    for head in range(HEADS):
        found[f"{projection}.weight"][head][:, head * size : (head + 1) * size] = True
    return layer, found


def claimed(table, sizes, name, parameter):
    """part → (shape) bool, as the table says."""
    numbered = torch.arange(parameter.numel()).reshape(parameter.shape)
    found = {}
    for part, values in table.split(name, numbered, sizes):
        mask = torch.zeros(parameter.numel(), dtype=torch.bool)
        mask[values.flatten()] = True
        mask = mask.reshape(parameter.shape)
        found[part] = found[part] | mask if part in found else mask
    return found


def kind_of(parts, name):
    return parts.tensors[parts.rows.get(name, [name])[0]][0]


def labels_of(parts, name, sizes):
    return {label for inner in parts.rows.get(name, [name]) for label in parts.labels(inner, sizes)}


def is_of_all(masks):
    """Whether every head depends on the same elements: a norm before attention, for one."""
    return bool((masks == masks[0]).all())


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_a_heads_elements_are_those_that_the_head_depends_on(family, stack):
    model, table = tiny(family), table_of(family, stack)
    layer, masks = influence(model, table)
    parts = table.naming(masks)
    sizes = parts.sizes(model.config)
    group, message = sizes["member"], set()
    for name, parameter in layer.named_parameters():
        owners = claimed(parts, sizes, name, parameter)
        if name not in parts.rows and not parts.owners(name):
            assert is_of_all(masks[name]) or "layernorm.norms." in name, name  # StableLM: a module a head
            continue
        for part, mask in owners.items():
            number = int(part[1:])
            heads = range(number * group, (number + 1) * group) if part[0] == "g" else [number]
            others = [h for h in range(HEADS) if h not in heads]
            assert not (mask & masks[name][others].any(0)).any(), (name, part)
            reached = (mask & masks[name][list(heads)].any(0)).sum() / mask.sum()
            # A key's bias moves no score against another; a bucket of positions may be of none in a short text.
            assert reached > 0.9 or name.endswith("bias") or "relative_attention_bias" in name, (name, part, reached)
            message.add(part)
    assert {part for part in message if part[0] == "h"} == {f"h{n}" for n in range(HEADS)}
    assert ("g0" in message) == (group > 1)


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_the_table_names_every_tensor_and_its_shape(family, stack):
    """In memory and as saved: stored names may be others."""
    model, table = tiny(family), table_of(family, stack)
    sizes = table.sizes(model.config) | {"dim": WIDTH // HEADS, "model": WIDTH, "unit": UNITS, "inner": WIDTH}
    sizes |= {"unit": 4 * WIDTH} if family in ("bloom", "dinov2") else {}
    for layer in stack_of(model, table):
        parts = table.naming(name for name, _ in layer.named_parameters())
        for name, parameter in layer.named_parameters():
            if name in parts.rows:  # queries of all heads, keys and values of half as many groups
                assert parameter.shape == (2 * WIDTH, WIDTH)
                continue
            axes = re.findall(r"\([^)]*\)|\w+", parts.tensors[name][1])
            assert len(axes) == parameter.ndim, name
            for axis, length in zip(axes, parameter.shape, strict=True):
                factors = re.findall(r"\w+", axis)
                if all(factor in sizes for factor in factors):
                    assert length == np.prod([sizes[factor] for factor in factors]), (name, axis)


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_kinds_are_those_of_the_modules(family, stack):
    model, table = tiny(family), table_of(family, stack)
    layer = stack_of(model, table)[-1]
    parts = table.naming(name for name, _ in layer.named_parameters())
    for name, _ in layer.named_parameters():
        owner, kind = name.rpartition(".")[0], kind_of(parts, name)
        steps = owner.split(".")
        kinds = [type(layer.get_submodule(".".join(steps[: n + 1]))).__name__ for n in range(len(steps))]
        if re.search(r"Norm|LayerScale", kinds[-1]) and not (family == "olmo2" and "Attention" in kinds[0]):
            assert kind == "norms", name
        else:
            assert kind == ("attention" if re.search("Attention", " ".join(kinds)) else "ffn"), (name, kinds)


# --- what is measured -----------------------------------------------------------------------------------------------


def saved(model, folder, steps=(1, 2, 3)):
    """A folder as Trainer's, the model moved at random between checkpoints; the states in memory."""
    states = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        for step in steps:
            model.save_pretrained(folder / f"checkpoint-{step}")
            states.append({name: p.detach().clone().double() for name, p in model.named_parameters()})
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    return states


def relative(pairs):
    """‖now − birth‖ ÷ ‖birth‖ over (now, birth) of some tensors."""
    pairs = list(pairs)
    moved = sum(float(((now - birth) ** 2).sum()) for now, birth in pairs)
    return (moved / sum(float((birth**2).sum()) for _, birth in pairs)) ** 0.5


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_drift_of_layers_heads_and_ffns_is_that_of_the_modules(family, stack, tmp_path):
    model, table = tiny(family), table_of(family, stack)
    first, *_, last = saved(model, tmp_path)
    run = open_run(tmp_path, stack=stack)
    prefix = next(n for n, m in model.named_modules() if m is stack_of(model, table))
    index = len(stack_of(model, table)) - 1
    layer = stack_of(model, table)[index]
    names = {name: f"{prefix}.{index}.{name}" for name, _ in layer.named_parameters()}
    found = api.drift(run, "all").query("step == 3 and index == @index").set_index("part")["relative_l2"]
    id = run.lineage.stack[index]
    assert len(run.lineage.stack) == index + 1
    assert found[id] == pytest.approx(relative((last[full], first[full]) for full in names.values()), rel=1e-5)

    parts = table.naming(names)
    ffn = [full for name, full in names.items() if kind_of(parts, name) == "ffn"]
    assert found[f"{id}.ffn"] == pytest.approx(relative((last[full], first[full]) for full in ffn), rel=1e-5)
    _, masks = influence(model, table)
    sizes = parts.sizes(model.config)
    for head in range(HEADS):
        pairs = []
        for name, full in names.items():
            if f"h{head}" in labels_of(parts, name, sizes):
                others = [h for h in range(HEADS) if h != head]
                rows = masks[name][head] & ~masks[name][others].any(0)
                if rows.ndim == 1 or "relative_attention_bias" in name:  # not all of it is reached: see above
                    rows = claimed(parts, sizes, name, last[full])[f"h{head}"]
                elif not name.startswith(OUT.get(family, table.identity["zero"][0])):
                    rows = rows.any(dim=1, keepdim=True).expand_as(rows)
                pairs.append((last[full][rows], first[full][rows]))
        assert found[f"{id}.h{head}"] == pytest.approx(relative(pairs), rel=1e-5), head


@pytest.mark.parametrize("groups", [1, 2, HEADS])
def test_the_map_and_gauge_of_phi3_see_its_fused_rows_as_llama_sees_them_unfused(groups, tmp_path):
    """The same weights under the names of a Llama give the same numbers."""
    model = tiny("phi3", num_key_value_heads=groups)
    saved(model, tmp_path / "phi3")
    for checkpoint in (tmp_path / "phi3").iterdir():
        state = {}
        for name, tensor in load_file(checkpoint / run_folder.WEIGHTS).items():
            sizes = [WIDTH, groups * 8, groups * 8] if "qkv_proj" in name else [UNITS, UNITS]
            letters = ("q_proj", "k_proj", "v_proj") if "qkv_proj" in name else ("gate_proj", "up_proj")
            fused = next((word for word in ("qkv_proj", "gate_up_proj") if word in name), None)
            segments = tensor.split(sizes) if fused else [tensor]
            relative_distances = [name.replace(fused, letter) for letter in letters] if fused else [name]
            state |= {one: segment.contiguous() for one, segment in zip(relative_distances, segments, strict=True)}
        config = json.loads((checkpoint / run_folder.CONFIG).read_text()) | {"model_type": "llama"}
        other = tmp_path / "llama" / checkpoint.name
        other.mkdir(parents=True)
        (other / run_folder.CONFIG).write_text(json.dumps(config))
        save_file(state, other / run_folder.WEIGHTS)
    mine, theirs = open_run(tmp_path / "phi3"), open_run(tmp_path / "llama")
    columns = ["relative_l2", "cosine_distance", "qk_distance", "ov_distance"]
    tables = [
        api.drift(run, "all", gauge=True).set_index(["part", "step"])[columns].sort_index() for run in (mine, theirs)
    ]
    np.testing.assert_allclose(*(table.to_numpy(float) for table in tables), rtol=1e-6, atol=1e-9)
    assert list(tables[0].index) == list(tables[1].index)
    for of in ("layers", "heads", "ffn"):
        grams = []
        for run in (mine, theirs):
            whole = np.concatenate(list(Weights(points_of(run, of)).blocks()), axis=1)
            grams.append(whole @ whole.T)
        np.testing.assert_allclose(*grams, rtol=1e-9)
    assert mine.confidence["confidence"].min() > 0.99


def as_saved(auto, folder):
    loaded = getattr(transformers, auto).from_pretrained(folder, attn_implementation="eager")
    return loaded.float().eval()


@pytest.mark.parametrize("family", READ)
def test_outputs_are_those_of_plain_transformers(family, tmp_path):
    saved(tiny(family), tmp_path, steps=(1,))
    checkpoint = open_run(tmp_path).checkpoints[0]
    tokens = torch.randint(3, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(1))
    kept = torch.ones_like(tokens, dtype=torch.bool)
    loaded, collected = as_saved("AutoModel", checkpoint.path), []
    for layer in stack_of(loaded, table_of(family)):
        layer.register_forward_hook(lambda m, args, out: collected.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        loaded(input_ids=tokens)
    for mine, theirs in zip(checkpoint_model.outputs_of(checkpoint, "layers", tokens, kept), collected, strict=True):
        np.testing.assert_allclose(mine, theirs.reshape(-1, WIDTH).numpy(), atol=1e-5)
    assert checkpoint_model.outputs_of(checkpoint, "heads", tokens, kept)[0].shape == (36, HEADS, WIDTH // HEADS)
    assert checkpoint_model.outputs_of(checkpoint, "ffn", tokens, kept)[0].shape == (36, WIDTH)


@pytest.mark.parametrize("family", ["t5", "bart", "albert"])
def test_outputs_of_several_stacks_and_of_shared_layers_are_refused(family, tmp_path):
    saved(tiny(family), tmp_path, steps=(1,))
    tokens = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(BadInput, match=f"of a {family} only weights are measured, not outputs or losses"):
        checkpoint_model.outputs_of(open_run(tmp_path).checkpoints[0], "layers", tokens, tokens.bool())


def test_of_two_stacks_the_larger_is_read_and_the_other_reported(tmp_path):
    saved(tiny("t5"), tmp_path, steps=(1, 2))
    run = open_run(tmp_path)
    assert run.checkpoints[0].anatomy.stack == "decoder.block" and len(run.lineage.stack) == 3
    assert "to measure others, use --stack: 'encoder.block' (2 layers)" in run.notes[0]
    other = open_run(tmp_path, stack="encoder.block")
    assert len(other.lineage.stack) == 2 and "'decoder.block' (3 layers)" in other.notes[0]
    with pytest.raises(BadInput, match=r"stack 'middle\.block': there are no layers"):
        _ = open_run(tmp_path, stack="middle.block").lineage


def test_the_stack_of_the_first_checkpoint_is_that_of_all(tmp_path):
    """The encoder outgrows the decoder, and is still not what is followed."""
    for step, depth in ((1, 2), (2, 2), (3, 9)):
        saved(tiny("t5", num_layers=depth), tmp_path, steps=(step,))
    assert [c.anatomy.stack for c in open_run(tmp_path).checkpoints] == ["decoder.block"] * 3


def test_shared_layers_are_said_to_be(tmp_path):
    saved(tiny("albert"), tmp_path, steps=(1, 2))
    run = open_run(tmp_path)
    assert run.lineage.stack == ["a"] and run.notes[0].startswith("an albert shares weights among its layers")


@pytest.mark.parametrize(("partial", "dim", "expected"), [({"rotary_dim": 4}, 8, 0.5), ({"rotary_dim": None}, 8, 1.0)])
def test_gptj_turns_as_many_dimensions_as_its_config_says(partial, dim, expected):
    message = tiny("gptj").config.to_dict() | partial
    assert anatomy.family("gptj").rotated(message) == expected


def test_pairs_of_gptj_are_neighbors(tmp_path):
    """Turning pairs of neighboring dimensions of Q and K by one angle leaves scores at every position, and so `qk`."""
    model = tiny("gptj", rotary_dim=8)
    model.save_pretrained(tmp_path / "checkpoint-1")
    before = run_once(model).logits
    turn = torch.block_diag(*[torch.tensor([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in range(4)])
    with torch.no_grad():
        attention = model.transformer.h[0].attn
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight[:8] = turn.to(projection.weight.dtype) @ projection.weight[:8]
    assert torch.allclose(run_once(model).logits, before, atol=1e-4)
    model.save_pretrained(tmp_path / "checkpoint-2")
    table = api.drift(open_run(tmp_path), "head", gauge=True).query("step == 2").set_index("part")
    assert table.loc["a.h0", "relative_l2"] > 0.1 and table.loc["a.h0", "qk_distance"] < 1e-5


# --- models without the usual head ----------------------------------------------------------------------------------

HEADLESS = [
    ("bert", "AutoModelForSequenceClassification"),
    ("bert", "AutoModelForTokenClassification"),
    ("bert", "AutoModelForQuestionAnswering"),
    ("bert", "AutoModel"),
    ("distilbert", "AutoModelForSequenceClassification"),
    ("electra", "AutoModelForPreTraining"),
    ("deberta-v2", "AutoModelForSequenceClassification"),
    ("llama", "AutoModelForSequenceClassification"),
    ("mistral", "AutoModel"),
]


def headless(family, auto):
    made = tiny(family).config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, auto).from_config(made).eval()


@pytest.mark.parametrize(("family", "auto"), HEADLESS)
def test_outputs_need_no_head_and_losses_say_that_they_do(family, auto, tmp_path, capfd):
    model = headless(family, auto)
    first, last = saved(model, tmp_path, steps=(1, 2))
    run = open_run(tmp_path)
    table = table_of(family)
    inner = [name for name in first if f"{table.stack}.1." in name]
    found = api.drift(run).query("step == 2 and part == 'b'")["relative_l2"].item()
    assert found == pytest.approx(relative((last[name], first[name]) for name in inner), rel=1e-5)
    tokens = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
    capfd.readouterr()
    outputs = checkpoint_model.outputs_of(
        run.checkpoints[0], "layers", tokens, torch.ones_like(tokens, dtype=torch.bool)
    )
    assert capfd.readouterr().err == ""
    loaded = as_saved("AutoModel", run.checkpoints[0].path)
    collected = []
    stack_of(loaded, table)[-1].register_forward_hook(
        lambda m, a, o: collected.append(o[0] if isinstance(o, tuple) else o)
    )
    with torch.no_grad():
        loaded(input_ids=tokens)
    np.testing.assert_allclose(outputs[-1], collected[0].reshape(-1, WIDTH).numpy(), atol=1e-5)
    with pytest.raises(BadInput, match=r"it has no head that predicts tokens.*its weights lack"):
        checkpoint_model.model_of(run.checkpoints[0])


def test_a_bare_model_whose_head_is_tied_has_a_loss(tmp_path):
    saved(headless("gpt2", "AutoModel"), tmp_path, steps=(1,))
    loaded = as_saved("AutoModelForCausalLM", tmp_path / "checkpoint-1")
    tokens = torch.arange(3, 15)[None]
    with torch.no_grad():
        mine, theirs = (
            checkpoint_model.model_of(open_run(tmp_path).checkpoints[0])(tokens).logits,
            loaded(tokens).logits,
        )
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_weights_below_the_head_must_be_there(tmp_path):
    saved(tiny("bert"), tmp_path, steps=(1,))
    path = tmp_path / "checkpoint-1" / run_folder.WEIGHTS
    left = {n: t for n, t in load_file(path).items() if "position_embeddings" not in n}
    save_file(left, path)
    tokens = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(BadInput, match=r"its weights lack embeddings\.position_embeddings\.weight"):
        checkpoint_model.outputs_of(open_run(tmp_path).checkpoints[0], "layers", tokens, tokens.bool())


# --- not for training -----------------------------------------------------------------------------------------------


def test_a_config_that_would_train_one_is_refused_in_words():
    table = {"name": "x", "model": {"family": "gemma"}, "data": {"source": "python"}, "train": {"steps": 1}}
    with pytest.raises(BadInput, match="'gemma' is supported for analysis only: its growth in training is not tested"):
        loading.check(table, "test")


@pytest.mark.parametrize("family", ANALYZED)
def test_a_model_of_one_is_refused_for_training(family):
    assert anatomy.family(family).model_type == family
    with pytest.raises(BadInput, match=f"'{family}' has a table for analysis only"):
        anatomy.to_train(family)
    assert family not in TINY


def test_in_a_loop_of_ones_own_it_still_grows_by_layers():
    from pli_train.api import anatomy_of

    found = anatomy_of(tiny("gemma"))
    assert found.stack == "layers" and not found.tensors


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"multi_query": True}, "the family table of 'falcon' is not for multi_query = True"),
        ({"alibi": False}, "the family table of 'falcon' is not for alibi = False"),
    ],
)
def test_a_config_that_the_table_is_not_written_for_leaves_layers_only(fields, message, tmp_path):
    saved(tiny("falcon", **fields), tmp_path, steps=(1, 2))
    run = open_run(tmp_path)
    assert message in run.notes[0] and layer_layout.PAGE in run.notes[0]
    assert len(api.drift(run)) == 4
    with pytest.raises(BadInput, match="no family table locates the heads of a 'falcon'"):
        api.drift(run, "head")
