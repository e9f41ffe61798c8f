"""Gradient norms by part: every element counted once, to whom it belongs, from the step of its birth."""

import copy
import json

import pytest
import torch
from torch.nn.utils import clip_grad_norm_
from torch.utils._python_dispatch import TorchDispatchMode

from pli_analysis.scalars.reading import read
from pli_train.api import Growth
from pli_train.commands import fork
from pli_train.config import loading
from pli_train.core import anatomy
from pli_train.core.anatomy.discovery import discover
from pli_train.core.anatomy.parts import GROUPS, Cut, Part
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.optim import grad_norms
from pli_train.optim.grad_norms import GradNorms, clip, norms_of_rows
from pli_train.training import launch
from tests.bare_models import ResidualConvNet, ResidualMLP
from tests.by_hand import SUMS, slow_heads
from tests.conftest import STEPS
from tests.families import HEADS, LAYERS, OPTIONAL, TINY, inputs, tiny
from tests.run_files import content
from tests.thinned import thinned

GROWN = [
    {"at": 1, "index": 1, "initializer": "clone-noise", "noise": 0.1},
    {"at": 2, "operator": "heads", "to": 4, "layers": ["a", "c"], "initializer": "random"},
    {"at": 3, "operator": "ffn", "to": 56, "layers": ["b"]},
    {"at": 4, "operator": "swap", "indices": [1, 2]},
]


def backward(model):
    """Gradients of something that every parameter has a say in."""
    model.zero_grad()
    model(**inputs(model)).logits.square().mean().backward()


def global_norm(model):
    """In float64, from what autograd left; independent of any anatomy."""
    return sum(p.grad.double().square().sum().item() for p in model.parameters() if p.grad is not None) ** 0.5


def measured(norms, step=0):
    """(the total on the device, part → norm)."""
    total = norms.measure(step)
    [(message, _, scalars)] = norms.read()
    assert message == step + 1
    return float(total), {
        Part.of_tag(tag.removeprefix(run_folder.GRAD_NORM)): value
        for tag, value in scalars.items()
        if tag.startswith(run_folder.GRAD_NORM)
    }


def check_sums(model, total, parts):
    """Squares of all parts sum to the global norm's, and those of a layer's parts to the layer's."""
    squares = sum(norm**2 for part, norm in parts.items() if part.level not in SUMS)
    expected = global_norm(model)
    assert squares == pytest.approx(expected**2, rel=1e-5)
    assert total == pytest.approx(expected, rel=1e-6)
    assert parts[Part("total", "")] == pytest.approx(expected, rel=1e-6)
    for part in [part for part in parts if part.level == "layer"]:
        of_it = [norm**2 for other, norm in parts.items() if other.layer == part.name and other.level != "layer"]
        assert sum(of_it) == pytest.approx(parts[part] ** 2, rel=1e-6)


@pytest.mark.parametrize("family", TINY)
def test_squares_of_all_parts_sum_to_the_global_norm(family):
    model = tiny(family, **OPTIONAL.get(family, {}))
    backward(model)
    check_sums(model, *measured(GradNorms(model, anatomy.family(family), Lineage.begin(LAYERS, HEADS), 1)))


@pytest.mark.parametrize("family", TINY)
def test_heads_and_groups_are_as_cut_by_hand(family):
    model, parts = tiny(family, **OPTIONAL.get(family, {})), anatomy.family(family)
    backward(model)
    _, found = measured(GradNorms(model, parts, Lineage.begin(LAYERS, HEADS), 1))
    numbered = {part.name: norm for part, norm in found.items() if "." in part.name}
    expected = slow_heads(model, parts, ["a", "b"])
    assert len([name for name in expected if ".h" in name]) == LAYERS * HEADS
    assert numbered == pytest.approx(expected, rel=1e-5)
    assert len([name for name in numbered if ".g" in name]) == (2 * LAYERS if "groups" in parts.config else 0)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "modernbert", "qwen3"])
def test_parts_are_followed_through_growth(family):
    """Layers, heads and units that are born, and places that are swapped: sums hold, and ids stay with the weights."""
    model, parts = tiny(family), anatomy.family(family)
    grown = Growth(GROWN, seed=3).on(model, initial_heads=2)
    norms = GradNorms(model, parts, grown.lineage, 1)
    for step in range(6):
        grown.step(step)
        backward(model)
        total, found = measured(norms, step)
        check_sums(model, total, found)
        assert {part.name for part in found if part.level == "layer"} == set(grown.lineage.stack)
        heads = {head for id in grown.lineage.stack for head in grown.lineage.layers[id].heads}
        assert {part.name for part in found if part.level == "head"} == heads
        expected = slow_heads(model, parts, grown.lineage.stack)
        assert {p.name: norm for p, norm in found.items() if "." in p.name} == pytest.approx(expected, rel=1e-5)
    assert grown.lineage.stack == ["a", "b", "c"] and len(grown.lineage.events) == 4


@pytest.mark.parametrize("make", [ResidualMLP, ResidualConvNet])
def test_any_module_with_a_stack_has_norms_by_layer(make):
    model = make()
    parts = discover(model)
    lineage = Lineage.begin(2 if make is ResidualConvNet else 3, 0)
    x = torch.randn(3, 4) if make is ResidualMLP else torch.randn(2, 1, 8, 8)
    out = model(x)
    sum(o.square().sum() for o in (out if isinstance(out, list) else [out])).backward()
    total, found = measured(GradNorms(model, parts, lineage, 1))
    check_sums(model, total, found)
    stack = model.get_submodule(parts.stack)
    for id, layer in zip(lineage.stack, stack, strict=True):
        assert found[Part("layer", id)] == pytest.approx(global_norm(layer), rel=1e-6)


def test_tied_embeddings_count_once_and_as_embeddings():
    model = tiny("bert")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    backward(model)
    _, found = measured(GradNorms(model, anatomy.family("bert"), Lineage.begin(LAYERS, HEADS), 1))
    names = ["word_embeddings", "position_embeddings", "token_type_embeddings"]
    tables = [getattr(model.bert.embeddings, name).weight.grad for name in names]
    assert found[Part("embeddings", "")] == pytest.approx(torch.cat(tables).norm().item(), rel=1e-6)


def test_large_tensors_keep_their_digits():
    """Summed up in a few float32 lanes, as PyTorch does a whole tensor on a CPU, this one is off by a thousandth."""
    torch.manual_seed(0)
    tensor, out = torch.randn(30522, 768), torch.zeros(1)
    norms_of_rows(tensor, Cut((30522, 768), (), (Part("embeddings", ""),)), out)
    assert float(out) == pytest.approx(float(tensor.norm(dtype=torch.float64)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_in_float32_or_better(dtype):
    grad = torch.full((300, 300), 200.0).to(dtype)  # squares overflow float16
    out = torch.zeros(1, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    norms_of_rows(grad, Cut((300, 300), (), (Part("other", "outside"),)), out)
    assert float(out) == pytest.approx(60000.0, rel=1e-6)


def test_clipping_by_the_vector_is_clipping():
    model, other = tiny("gpt2"), tiny("gpt2")
    for each in (model, other):
        backward(each)
    norms = GradNorms(model, anatomy.family("gpt2"), Lineage.begin(LAYERS, HEADS), 1)
    raw = global_norm(model)
    clip(model.parameters(), raw / 3, norms.measure(0))
    clip_grad_norm_(other.parameters(), raw / 3)
    assert global_norm(model) == pytest.approx(raw / 3, rel=1e-5)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=0)
    [(_, _, scalars)] = norms.read()
    assert scalars["grad_norm/total"] == pytest.approx(raw, rel=1e-6)  # measured before


class Ops(TorchDispatchMode):
    """Names of all operations that reach a device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.seen.append(str(op))
        return op(*args, **(kwargs or {}))


def test_no_work_between_and_no_wait_on_a_measured_step():
    model = tiny("gpt2")
    backward(model)
    norms = GradNorms(model, anatomy.family("gpt2"), Lineage.begin(LAYERS, HEADS), 10)
    with Ops() as between:
        assert [norms.measure(step) for step in range(1, 9)] == [None] * 8
        norms.updated()
    assert not between.seen
    with Ops() as on:
        clip(model.parameters(), 1.0, norms.measure(9))
    copies = [op for op in on.seen if "_to_copy" in op]
    assert copies == ["aten._to_copy.default"]  # all numbers leave the device together, once
    assert not [op for op in on.seen if "_local_scalar_dense" in op or "nonzero" in op]  # what makes a host wait


def test_measured_are_multiples_the_first_and_the_first_after_each_event():
    lineage = Lineage.begin(1, 2)
    norms = GradNorms(tiny("gpt2"), anatomy.family("gpt2"), lineage, 5)
    assert [step + 1 for step in range(12) if norms.due(step)] == [1, 5, 10]
    lineage.insert(1, 7, "random")
    assert [step + 1 for step in range(7, 12) if norms.due(step)] == [8, 10]
    never = GradNorms(tiny("gpt2"), anatomy.family("gpt2"), lineage, 0)
    assert not any(never.due(step) for step in range(12))


def test_a_sparse_gradient_counts_repeated_rows_as_their_sum():
    model = ResidualMLP()
    model.begin = torch.nn.Embedding(9, 8, sparse=True)
    model(torch.tensor([1, 1, 4])).square().sum().backward()
    assert model.begin.weight.grad.is_sparse
    _, found = measured(GradNorms(model, discover(model), Lineage.begin(3, 0), 1))
    expected = model.begin.weight.grad.to_dense().norm().item()
    assert found[Part("embeddings", "")] == pytest.approx(expected, rel=1e-6)


def test_groups_choose_what_is_logged():
    model = tiny("llama")
    backward(model)
    norms = GradNorms(model, anatomy.family("llama"), Lineage.begin(LAYERS, HEADS), 1, groups=("head", "total"))
    _, found = measured(norms)
    assert [part.level for part in found] == ["total"] + ["head"] * LAYERS * HEADS


def test_a_part_without_a_gradient_is_not_logged_and_one_that_has_it_again_is():
    model = tiny("gpt2")
    norms = GradNorms(model, anatomy.family("gpt2"), Lineage.begin(LAYERS, HEADS), 1)
    model.transformer.h[0].mlp.requires_grad_(False)
    backward(model)
    total, found = measured(norms)
    assert Part("ffn", "a") not in found and Part("ffn", "b") in found
    assert total == pytest.approx(global_norm(model), rel=1e-6)
    model.transformer.h[0].mlp.requires_grad_(True)
    backward(model)
    assert Part("ffn", "a") in measured(norms, 1)[1]


def test_a_part_that_learns_in_part_has_the_norm_of_what_learns(family="llama"):
    """Heads and units that are born beside frozen ones; by hand on a twin of the model in which nothing is frozen."""
    model, parts = tiny(family), anatomy.family(family)
    events = [{"at": 1, "operator": what, "to": to, "freeze_steps": 2} for what, to in (("heads", 4), ("ffn", 56))]
    growing = Growth([{**event, "output": "kept", "layers": ["a"]} for event in events]).on(model, initial_heads=2)
    norms = GradNorms(model, parts, growing.lineage, 1)
    growing.step(1)
    twin = copy.deepcopy(model).requires_grad_(True)
    for each in (model, twin):
        backward(each)
    total, found = measured(norms, 1)
    grads = {name: p.grad for name, p in twin.model.layers[0].named_parameters()}
    heads = slow_heads(twin, parts, ["a", "b"])
    units = [grads["mlp.gate_proj.weight"][48:], grads["mlp.up_proj.weight"][48:], grads["mlp.down_proj.weight"].T[48:]]
    expected = {name: heads[name] for name in ("a.h2", "a.h3", "a.g1")} | {"a": torch.cat(units).norm().item()}
    message = {part.name: norm for part, norm in found.items() if part.level not in SUMS}
    assert message == pytest.approx(expected, rel=1e-5)
    assert {part.level for part in found} == {"head", "attention", "ffn", "layer", "total"}
    check_sums(model, total, found)
    clip(model.parameters(), total / 2, None)
    assert global_norm(model) == pytest.approx(total / 2, rel=1e-5)


def test_updates_over_weights_by_part():
    """AdamW's update against a copy made by hand; parts by the anatomy's own slow cut, in float64."""
    model, parts = tiny("qwen3"), anatomy.family("qwen3")
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    norms = GradNorms(model, parts, Lineage.begin(LAYERS, HEADS), 1, updates=True)
    backward(model)
    before = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    norms.measure(0)
    adam.step()
    norms.updated()
    [(_, _, scalars)] = norms.read()
    sums = {}
    for name, parameter in model.named_parameters():
        position = parts.locate(name)
        moved = parameter.detach().double() - before[name]
        for key, tensor in (("moved", moved), ("weights", before[name])):
            for label, segment in parts.split(position[2], tensor, parts.sizes(model.config)) if position else []:
                owner = f"{'ab'[position[1]]}.{label}"
                sums.setdefault(owner, {"moved": 0, "weights": 0})[key] += segment.square().sum().item()
    for level, part, key in (("head", "b.h3", "b.h3"), ("attention", "a.g1", "a.g1"), ("ffn", "a", "a.ffn")):
        expected = (sums[key]["moved"] / sums[key]["weights"]) ** 0.5
        assert scalars[f"update_ratio/{level}/{part}"] == pytest.approx(expected, rel=1e-4)
    assert {tag.split("/", 1)[1] for tag in scalars if tag.startswith("grad_norm/")} == {
        tag.split("/", 1)[1] for tag in scalars if tag.startswith("update_ratio/")
    }


def test_parameters_on_two_devices_are_refused_in_one_line():
    model = tiny("gpt2")
    model.transformer.ln_f.to("meta")
    with pytest.raises(BadInput, match="are on 2 devices, but only one is supported"):
        GradNorms(model, anatomy.family("gpt2"), Lineage.begin(LAYERS, HEADS), 1).measure(0)


# --- in a run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def logged(request, config_of, tmp_path_factory):
    """A run that measures every third update, beside global norms taken by hand: (folder, step → norm)."""
    overrides = {"train.grad_norms_every": 3, "train.update_ratios": True, "train.clip_norm": 0.05}
    settings, folder, by_hand = config_of(request.param, overrides), tmp_path_factory.mktemp("runs") / "run", {}
    made = launch.begin(settings, folder)
    original = grad_norms.clip

    def on_progress(parameters, most, total):
        by_hand[made.state.progress.step + 1] = global_norm(made.state.model.bare)
        original(parameters, most, total)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grad_norms, "clip", on_progress)
        made.run()
    return folder, by_hand


def test_a_run_logs_norms_under_the_step_they_are_of(logged):
    folder, by_hand = logged
    values = read(folder).values
    total = {step: value for step, (_, value) in values["grad_norm/total"].items()}
    assert sorted(total) == [1, 3, 4, 6, 7, 9, 10, 12]
    assert total == pytest.approx({step: by_hand[step] for step in total}, rel=1e-5)
    assert min(total.values()) > 0.05  # clipped they would be below
    lineage = Lineage.read(folder / run_folder.LINEAGE)
    for id, layer in lineage.layers.items():
        steps = sorted(values[f"grad_norm/head/{id}.h1"])
        assert steps == [step for step in sorted(total) if step > layer.birth.step]
        assert steps[0] == layer.birth.step + 1
        assert f"update_ratio/ffn/{id}" in values
    for step, norm in total.items():
        parts = [points[step][1] for tag, points in values.items() if step in points and is_part(tag)]
        assert sum(part**2 for part in parts) == pytest.approx(norm**2, rel=1e-5)


def is_part(tag):
    return tag.startswith("grad_norm/") and tag.split("/")[1] not in SUMS


@pytest.mark.slow
@pytest.mark.parametrize("at", thinned([3, 2, 4, 6, 8]))
def test_a_resumed_run_has_the_same_norms_and_bits(logged, tmp_path, at):
    folder, _ = logged
    twin = tmp_path / "twin"
    fork.fork(folder, at, twin).run()
    mine, theirs = content(twin), content(folder)
    final = f"checkpoint-{STEPS}/{run_folder.WEIGHTS}"
    assert mine[final] == theirs[final]
    tags = [tag for tag in theirs if tag.startswith(("grad_norm/", "update_ratio/"))]
    assert len(tags) > 30
    for tag in tags:
        assert mine.get(tag, {}) == {step: value for step, value in theirs[tag].items() if step > at}


def test_settings_are_checked_at_the_door():
    with pytest.raises(BadInput, match=r"train.grad_norm_groups.0: input should be 'total', 'layer'"):
        loading.load("tiny", ['train.grad_norm_groups=["heads"]'])
    assert loading.load("tiny").train.grad_norm_groups == GROUPS
    assert json.loads(loading.load("tiny").model_dump_json())["train"]["grad_norms_every"] == 10
