"""Layers of models without a table: found by names, followed and measured; what is left out is said."""

import csv
import io
import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file

from pli_analysis import api
from pli_analysis.runs.opening import open_run
from pli_train.core.anatomy.names import block_lists
from pli_train.core.errors import BadInput
from tests.commands import call, refused


@pytest.fixture(autouse=True)
def without_events(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def written(folder, states, **config):
    """Checkpoints 1, 2, … of the given tensors."""
    for step, tensors in enumerate(states, 1):
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "config.json").write_text(json.dumps({"model_type": "unheard_of"} | config))
        save_file(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()}, checkpoint / "model.safetensors"
        )
    return folder


def moving(shapes, steps=3, seed=0, size=0.01):
    """The tensors of a model at a few checkpoints."""
    drawn = np.random.default_rng(seed)
    state = {name: drawn.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    states = [state]
    for _ in range(steps - 1):
        state = {n: (t + size * drawn.standard_normal(t.shape)).astype(np.float32) for n, t in state.items()}
        states.append(state)
    return states


def by_hand(first, last, path):
    names = [name for name in first if name.startswith(path)]
    moved = sum(float(((last[n].astype(float) - first[n]) ** 2).sum()) for n in names)
    return (moved / sum(float((first[n].astype(float) ** 2).sum()) for n in names)) ** 0.5


PLAIN = {f"net.blocks.{n}.{name}": shape for n in range(3) for name, shape in {
    "mix.weight": (8, 8), "up.weight": (16, 8), "norm.scale": (8,)}.items()}  # fmt: skip
HYBRID = {
    f"backbone.layers.{n}.{name}": shape
    for n in range(4)
    for name, shape in ({"norm.weight": (8,)} | (
        {"mixer.A": (8, 4), "mixer.conv1d.weight": (8, 1, 4), "mixer.in_proj.weight": (20, 8)} if n % 2 else
        {"attn.qkv.weight": (24, 8), "attn.out.weight": (8, 8)})).items()
}  # fmt: skip
EXPERTS = {f"layers.{n}.experts.{e}.w.weight": (8, 8) for n in range(2) for e in range(5)}
EXPERTS |= {f"layers.{n}.gate.weight": (5, 8) for n in range(2)}
UNEQUAL = {f"layers.{n}.{name}": shape for n in range(3) for name, shape in {
    "norm.weight": (8,), "up.weight": (8 * (n + 1), 8), "down.weight": (8, 8 * (n + 1))}.items()}  # fmt: skip
LAYOUTS = {"plain": (PLAIN, "net.blocks", 3), "hybrid": (HYBRID, "backbone.layers", 4)}
LAYOUTS |= {"experts": (EXPERTS, "layers", 2), "unequal": (UNEQUAL, "layers", 3)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_are_found_followed_and_measured(layout, tmp_path):
    shapes, path, depth = LAYOUTS[layout]
    states = moving(shapes | {"embed.weight": (64, 8)})
    run = open_run(written(tmp_path, states))
    assert run.lineage.stack == ["a", "b", "c", "d"][:depth]
    assert run.notes[0].startswith(
        f"only whole layers are measured, at '{path}': there is no family table for 'unheard_of'"
    )
    assert run.confidence["confidence"].min() > 0.99
    found = api.drift(run).query("step == 3").set_index("part")["relative_l2"]
    for index, id in enumerate(run.lineage.stack):
        assert found[id] == pytest.approx(by_hand(states[0], states[2], f"{path}.{index}."), rel=1e-6)
    every = api.drift(run, "all")
    assert set(every["part_type"]) == {"layer"}
    matrices = api.drift(run, "matrix", spectral=True).query("step == 3")
    assert len(matrices) == len(shapes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_inserted_layer_is_found(layout, tmp_path):
    """A layer above the others, of the kind of the lowest; the old ones keep their ids."""
    shapes, path, depth = LAYOUTS[layout]
    states = moving(shapes)
    born = {
        name.replace(f"{path}.0.", f"{path}.{depth}."): shape for name, shape in shapes.items() if f"{path}.0." in name
    }
    states[2] |= moving(born, steps=1, seed=7)[0]
    lineage = open_run(written(tmp_path, states)).lineage
    assert lineage.stack == ["a", "b", "c", "d", "e"][: depth + 1]
    assert [event.step for event in lineage.events] == [3]


def test_swapped_layers_are_found(tmp_path):
    states = moving(PLAIN)
    names = {f"net.blocks.{n}": f"net.blocks.{m}" for n, m in ((0, 2), (2, 0), (1, 1))}
    states[2] = {names[name[:12]] + name[12:]: tensor for name, tensor in states[2].items()}
    assert open_run(written(tmp_path, states)).lineage.stack == ["c", "b", "a"]


def test_layers_of_a_hybrid_are_not_matched_across_kinds(tmp_path):
    from pli_analysis.runs.weight_comparison import Weights, distances

    run = open_run(written(tmp_path, moving(HYBRID)))
    first, second = (Weights.of(one) for one in run.checkpoints[:2])
    distance = distances(first, second)
    kinds = np.arange(4) % 2
    assert (distance[kinds[:, None] != kinds[None, :]] == 1).all()
    assert (np.diag(distance) < 0.001).all()


def cosine_by_hand(one, other):
    """Mean over the matrices that either has, by name and shape; 0 for one that only one of them has."""
    both = {(n, t.shape) for n, t in one.items() if t.ndim > 1} | {(n, t.shape) for n, t in other.items() if t.ndim > 1}
    message = []
    for name, shape in both:
        x, y = one.get(name), other.get(name)
        there = x is not None and y is not None and x.shape == y.shape == shape
        message.append(float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)) if there else 0.0)
    return np.mean(message), len(message)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("over_time", [False, True])
def test_similarity_by_weights_is_the_cosine_of_matrices(layout, over_time, tmp_path):
    from pli_analysis.metrics.similarity.similarity import by_weights

    shapes, path, depth = LAYOUTS[layout]
    states = moving(shapes)
    run = open_run(written(tmp_path, states))
    table = by_weights(run, None, over_time=over_time)
    assert len(table) == (3 * depth if over_time else depth * (depth + 1) // 2)
    for row in table.itertuples():
        assert not over_time or (row.layer_a == row.layer_b and row.step_b == 1)
        pair = []
        for step, index in ((row.step_a, row.index_a), (row.step_b, row.index_b)):
            prefix = f"{path}.{index}."
            state = states[step - 1].items()
            pair.append({n.removeprefix(prefix): t.astype(float) for n, t in state if n.startswith(prefix)})
        cosine, count = cosine_by_hand(*pair)
        assert (row.cosine_similarity, row.matrices) == (pytest.approx(cosine, abs=1e-6), count)


def test_the_map_of_layers_keeps_their_distances(tmp_path):
    """Of tensors of three axes too."""
    from pli_analysis.metrics.maps.points import points_of
    from pli_analysis.metrics.maps.vectors import Weights

    states = moving(HYBRID)
    run = open_run(written(tmp_path, states))
    points = points_of(run)
    whole = np.concatenate(list(Weights(points).blocks()), axis=1)
    for a, b in ((0, 4), (1, 5), (0, 1)):
        pair = []
        for point in (points[a], points[b]):
            index = run.lineage.index(point.layer)
            prefix = f"backbone.layers.{index}."
            state = states[point.checkpoint.step - 1]
            pair.append({n.removeprefix(prefix): t.astype(float) for n, t in state.items() if n.startswith(prefix)})
        names = pair[0].keys() | pair[1].keys()
        relative_distances = sum(float(((pair[0].get(n, 0.0) - pair[1].get(n, 0.0)) ** 2).sum()) for n in names)
        assert ((whole[a] - whole[b]) ** 2).sum() == pytest.approx(relative_distances, rel=1e-9)
    with pytest.raises(BadInput, match="no family table locates the heads of a 'unheard_of'"):
        points_of(run, "heads")


def test_of_equally_ranked_lists_one_is_taken_and_the_others_are_reported(tmp_path):
    towers = {f"{tower}.layers.{n}.w": (8, 8) for tower in ("text", "vision") for n in range(2)}
    written(tmp_path, moving(towers | {"vision.layers.2.w": (8, 8)}))
    run = open_run(tmp_path)
    assert len(run.lineage.stack) == 3
    assert (
        run.notes[1]
        == "only the layers of 'vision.layers' are measured; to measure others, use --stack: 'text.layers' (2 layers)"
    )
    other = open_run(tmp_path, stack="text.layers")
    assert len(other.lineage.stack) == 2 and "'vision.layers' (3 layers)" in other.notes[1]
    assert api.drift(other)["relative_l2"].iloc[-1] != api.drift(run)["relative_l2"].iloc[-1]  # kept apart in the cache
    with pytest.raises(BadInput, match=r"stack 'text\.layer': there are no layers; did you mean 'text\.layers'\?"):
        _ = open_run(tmp_path, stack="text.layer").lineage


def test_stages_of_one_block_are_reported_and_can_be_chosen(tmp_path):
    """As in Swin and SegFormer, whose stages differ in width and depth."""
    names = ("norm.weight", "q.weight", "k.weight", "v.weight", "o.weight")
    shapes = {f"stages.{s}.blocks.{b}.{n}": (4 + s, 4 + s)[: 1 if n[0] == "n" else 2]
              for s, depth in enumerate((1, 3, 2)) for b in range(depth) for n in names}  # fmt: skip
    written(tmp_path, moving(shapes))
    run = open_run(tmp_path)
    assert run.lineage.stack == ["a", "b", "c"]
    assert run.notes[1].endswith("use --stack: 'stages.2.blocks' (2 layers), 'stages.0.blocks' (1 layer)")
    assert open_run(tmp_path, stack="stages.0.blocks").lineage.stack == ["a"]


def test_a_family_with_a_table_under_another_prefix_is_read_by_its_table(tmp_path):
    """As a text model within a model of text and images is."""
    names = {f"language_model.model.layers.{n}.self_attn.q_proj.weight": (8, 8) for n in range(2)}
    run = open_run(written(tmp_path, moving(names), model_type="llama", num_attention_heads=2))
    assert run.notes[0] == "prefix 'language_model.' (a module that contains the model) removed from tensor names"
    assert run.lineage.stack == ["a", "b"] and set(api.drift(run, "head")["part"]) == {"a.h0", "a.h1", "b.h0", "b.h1"}


def test_tensors_that_a_table_does_not_name_are_reported(tmp_path):
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=64, n_embd=8, n_head=2, n_layer=2))
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    state |= {f"transformer.h.{n}.adapter.down.weight": np.ones((2, 8), np.float32) for n in range(2)}
    state |= {f"transformer.h.{n}.attn.bias": np.ones((1, 1, 4, 4), np.float32) for n in range(2)}  # a mask
    run = open_run(written(tmp_path, [state, state], **model.config.to_dict()))
    assert run.notes[0] == "not in the family table of 'gpt2' and not measured: adapter.down.weight"
    assert set(api.drift(run, "all")["part_type"]) == {"layer", "head", "ffn", "norms", "attention"}


@pytest.mark.parametrize(
    "shapes",
    [{"w": (8, 8)}, {"layers.1.w": (8, 8), "layers.2.w": (8, 8)}, {"layers.0.w": (8, 8), "layers.1.w": (4, 4)}],
    ids=["none", "gap", "nothing in common"],
)
def test_a_model_without_layers_is_refused_in_a_line(shapes, tmp_path):
    written(tmp_path, moving(shapes))
    with pytest.raises(BadInput, match=r"checkpoint-1.*: no layers found: no tensor names are numbered from 0"):
        _ = open_run(tmp_path).lineage


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_quantized_weights_are_refused_in_a_line(dtype, tmp_path):
    """As bitsandbytes and GPTQ save them: their distances would mean nothing."""
    shapes = {f"blocks.{n}.norm.weight": (8,) for n in range(2)}
    packed = {f"blocks.{n}.up.weight": np.ones((32, 1), dtype) for n in range(2)}
    written(tmp_path, [state | packed for state in moving(shapes)])
    with pytest.raises(BadInput, match=r"is quantized \([UI]\d+\).*: 'blocks\.0\.up\.weight' has type [UI]\d+"):
        api.drift(open_run(tmp_path))


def test_counters_and_masks_among_weights_are_not_taken_for_quantized_ones(tmp_path):
    more = {"net.blocks.0.steps": np.array([3]), "net.blocks.1.mask": np.ones((1, 1, 4, 4), np.uint8)}
    assert len(api.drift(open_run(written(tmp_path, [state | more for state in moving(PLAIN)])))) == 9


def test_models_of_transformers_without_a_table_are_read(tmp_path):
    config = transformers.MambaConfig(vocab_size=64, hidden_size=8, state_size=4, num_hidden_layers=2)
    model = transformers.MambaForCausalLM(config)
    states = []
    for step in (1, 2):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
        states.append({n: p.detach().clone().numpy() for n, p in model.named_parameters()})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    found = api.drift(open_run(tmp_path)).query("step == 2").set_index("part")["relative_l2"]
    for index, id in enumerate("ab"):
        assert found[id] == pytest.approx(by_hand(*states, f"backbone.layers.{index}."), rel=1e-5)


def test_all_commands_read_it_or_say_why_not(tmp_path):
    made = written(tmp_path / "run", moving(HYBRID))
    drift = call("pli-analyze", "drift", made, "--format", "csv")
    assert drift.returncode == 0 and drift.stderr.startswith("only whole layers are measured, at 'backbone.layers'")
    assert len(list(csv.DictReader(io.StringIO(drift.stdout)))) == 12
    for words in (["lineage", made], ["embed", made]):
        done = call("pli-analyze", *words)
        assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr
    page = call("pli-analyze", "report", made, "--html", tmp_path / "page.html")
    assert page.returncode == 0 and "Relative L2 drift of each layer" in (tmp_path / "page.html").read_text()
    alike = call("pli-analyze", "similarity", made, "--space", "weights", "--format", "csv")
    assert alike.returncode == 0 and len(alike.stdout.splitlines()) == 11
    message = "only weights are measured, not outputs or losses"
    assert message in refused(call("pli-analyze", "similarity", made), message)[-1]
    message = "no family table locates the {} of a 'unheard_of'"
    assert len(refused(call("pli-analyze", "drift", made, "--of", "head"), message.format("heads"))) == 3
    assert len(refused(call("pli-analyze", "embed", made, "--of", "ffn"), message.format("FFNs"))) == 3


# --- the lists themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ({"h.0.w": (2, 2), "h.1.w": (2, 2)}, [("h", 2, 8)]),
        ({"h.0.w": (2, 2)}, [("h", 1, 4)]),
        ({"h.0.w": (2, 2), "head.0.w": (9, 9), "head.1.w": (9, 9)}, [("head", 2, 162)]),
        ({"h.0.e.0.w": (2, 2), "h.0.e.1.w": (2, 2), "h.1.e.0.w": (2, 2)}, [("h", 2, 12)]),
        ({f"s.{s}.b.{b}.w": (2 + s, 2) for s in (0, 1) for b in (0, 1)}, [("s.1.b", 2, 12), ("s.0.b", 2, 8)]),
        ({"h.00000000.w": (2, 2), "h.x.w": (1,), "0.w": (1,), "h.5": (1,)}, []),
        ({"h.0.inv_freq": (2,), "h.1.inv_freq": (2,)}, []),
        ({f"h.{n}.w": (1,) for n in range(12)}, [("h", 12, 12)]),
    ],
    ids=["two", "one", "longer goes first", "experts", "stages", "odd names", "buffers", "order of numbers"],
)  # fmt: skip
def test_lists_of_blocks(shapes, found):
    assert [(one.path, one.depth, one.numbers) for one in block_lists(shapes)] == found


def test_a_model_of_one_layer_with_experts():
    shapes = {f"h.0.e.{n}.w": (2, 2) for n in range(3)}
    assert block_lists(shapes)[0].path == "h.0.e"
    assert block_lists(shapes, single=True)[0].path == "h"
