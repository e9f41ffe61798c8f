"""Models without some heads, against models whose output projections the tests set to zero themselves."""

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open

from pli_analysis.inference import pruned_model
from pli_analysis.runs.opening import open_run
from pli_train.core.anatomy import family as table_of
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.safe_model import AUTO_CLASS
from pli_train.training import launch
from tests.families import ANALYZED, HEADS, TINY, WIDTH, logits, tiny

READ = [name for name in TINY | ANALYZED if table_of(name).task in ("causal-lm", "masked-lm")]
DEFAULT = ("bert", "gpt2", "llama")
FAMILIES = [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in READ]
UNEQUAL = {
    "llama": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_positions": 32},
    "bert": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 32},
}
GROWN = ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "gpt2"))]
GROWTH = [{"at": 1, "index": 1}, {"operator": "heads", "at": 2, "to": 4, "layers": ["a"]}]


def zeroed(model, heads):
    """Set what reads the outputs of heads to zero: ids such as `b.h1`, for layers `a`, `b`, … in order of the stack."""
    anatomy = table_of(model.config.model_type)
    stack = getattr(model, model.base_model_prefix).get_submodule(anatomy.stack)
    count = anatomy.sizes(model.config)["head"]
    for head in heads:
        layer, number = head.split(".h")
        projection = stack["abc".index(layer)].get_submodule(anatomy.identity["zero"][0])
        weight = projection.weight.data
        weight = weight if type(projection).__name__ == "Conv1D" else weight.T
        width = len(weight) // count
        weight[int(number) * width : (int(number) + 1) * width] = 0
    return model


def loaded(folder, family):
    auto = getattr(transformers, AUTO_CLASS[table_of(family).task])
    return auto.from_pretrained(folder, attn_implementation="eager").eval()


def exported(model, heads, tmp_path):
    """The checkpoint of a model, the pruned model that plain transformers loads, and what was done."""
    model.save_pretrained(tmp_path / "whole")
    checkpoint = open_run([tmp_path / "whole"]).checkpoints[-1]
    done = pruned_model.export(checkpoint, heads, tmp_path, tmp_path / "pruned")
    return checkpoint, loaded(tmp_path / "pruned", model.config.model_type), done


def sizes(tmp_path):
    return [(tmp_path / name / "model.safetensors").stat().st_size for name in ("pruned", "whole")]


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_the_masked_model(family, tmp_path):
    heads = ["a.h0", "a.h1", "b.h1"]
    _, pruned, done = exported(tiny(family), heads, tmp_path)
    model = loaded(tmp_path / "whole", family)
    before = logits(model)
    assert torch.allclose(logits(pruned), logits(zeroed(model, heads)), atol=1e-5)
    assert not torch.allclose(logits(pruned), before, atol=1e-3)
    assert done.summary.startswith("3 of 8 heads pruned: set to zero, not removed, as ")


@pytest.mark.parametrize(
    ("heads", "shape"),
    [
        (["a.h0", "a.h1", "b.h2", "b.h3"], (2, 1)),  # a group in each layer
        (["a.h0", "a.h3", "b.h1", "b.h2"], (2, 2)),  # a head of each group
        (["a.h0", "a.h1", "a.h2", "b.h1", "b.h2", "b.h3"], (1, 1)),
        ([f"{layer}.h{head}" for layer in "ab" for head in range(4)], (1, 1)),
    ],
)
def test_heads_with_shared_keys_are_removed_from_the_weights(heads, shape, tmp_path):
    model = tiny("llama", attention_bias=True)
    checkpoint, pruned, _ = exported(model, heads, tmp_path)
    assert torch.allclose(logits(pruned), logits(zeroed(model, heads)), atol=1e-5)
    assert (pruned.config.num_attention_heads, pruned.config.num_key_value_heads) == shape
    of_head, of_group, dim = HEADS - shape[0], 2 - shape[1], WIDTH // HEADS
    removed = 2 * dim * (2 * WIDTH * (of_head + of_group) + of_head + 2 * of_group)  # of Q and O, K and V, and biases
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in pruned.parameters()) == removed
    smaller, before = sizes(tmp_path)
    assert smaller < before - 3 * removed
    assert checkpoint.config["num_attention_heads"] == HEADS


def test_layers_that_keep_fewer_heads_than_others_are_filled_with_zeros(tmp_path):
    heads = ["a.h0", "a.h1", "a.h2", "b.h0", "b.h1"]
    model = tiny("llama")
    _, pruned, done = exported(model, heads, tmp_path)
    assert done.summary == (
        "5 of 8 heads pruned: each layer has 2 heads in 1 group instead of 4; 1 of them are zero, as all layers of a "
        "llama have the same number"
    )
    assert done.slots == [([3, -1], [1]), ([2, 3], [1])]
    assert torch.allclose(logits(pruned), logits(zeroed(model, heads)), atol=1e-5)


@pytest.mark.parametrize(("family", "kept"), [("llama", 4), ("mistral", 3)])
def test_a_config_may_need_a_number_of_heads_that_divides_the_width(family, kept, tmp_path):
    heads = ["a.h3", "b.h1"]
    model = tiny(family, num_key_value_heads=4)
    _, pruned, _ = exported(model, heads, tmp_path)
    assert pruned.config.num_attention_heads == kept
    assert torch.allclose(logits(pruned), logits(zeroed(model, heads)), atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_any_heads_of_many_groups_can_be_pruned(seed, tmp_path):
    model = tiny("mistral", num_attention_heads=6, num_key_value_heads=3, head_dim=8)
    random = np.random.default_rng(seed)
    heads = [f"{layer}.h{head}" for layer in "ab" for head in range(6) if random.random() < 0.6]
    _, pruned, done = exported(model, heads, tmp_path)
    assert torch.allclose(logits(pruned), logits(zeroed(model, heads)), atol=1e-5)
    for slots, layer in zip(done.slots, "ab", strict=True):
        assert sorted({*slots.heads} - {-1}) == [head for head in range(6) if f"{layer}.h{head}" not in heads]


@pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "gpt2"))]
)
def test_grown_layers_with_unequal_heads(family, config_of, tmp_path):
    wanted = {"train.steps": 3, "model.initial_heads": 2, "growth.schedule": GROWTH, "model.config": UNEQUAL[family]}
    launch.begin(config_of(family, wanted), tmp_path / "run").run()
    run = open_run([tmp_path / "run"])
    checkpoint = run.checkpoints[-1]
    assert checkpoint.heads == [4, 2]
    whole, tokens = loaded(checkpoint.path, family), torch.arange(12)[None] + 5
    heads = ["a.h0", "a.h1"]
    done = pruned_model.export(checkpoint, heads, run.tokenizer, tmp_path / "pruned")
    pruned = loaded(tmp_path / "pruned", family)
    with torch.no_grad():
        expected = zeroed(whole, heads)(input_ids=tokens).logits
        assert torch.allclose(pruned(input_ids=tokens).logits, expected, atol=1e-5)

    lineage = Lineage.read(tmp_path / "pruned" / "lineage.json")
    assert (lineage.events[-1].operator, lineage.events[-1].facts["heads"]) == ("prune", heads)
    assert {id: layer.birth for id, layer in lineage.layers.items()} == {
        id: layer.birth for id, layer in checkpoint.lineage.layers.items()
    }

    again = open_run([tmp_path / "pruned"]).checkpoints[-1]
    if family == "llama":  # one group is left in each layer
        assert done.is_smaller and again.heads == [2, 2]
        assert lineage.events[-1].facts["slots"] == {"a": ["a.h2", "a.h3"], "b": ["b.h0", "b.h1"]}
        assert (tmp_path / "pruned/model.safetensors").stat().st_size < checkpoint.files[
            "lm_head.weight"
        ].stat().st_size
    else:
        assert not done.is_smaller and again.heads == [4, 2] and again.lineage.layers == checkpoint.lineage.layers
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "pruned")
    assert tokenizer.vocab_size == 300


def test_narrow_weights_stay_narrow(tmp_path):
    model = tiny("llama").to(torch.bfloat16)
    exported(model, ["a.h0", "a.h1", "b.h0", "b.h1"], tmp_path)
    with safe_open(tmp_path / "pruned" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    smaller, before = sizes(tmp_path)
    assert smaller < before


def test_what_cannot_be_exported_is_refused(tmp_path):
    tiny("gpt2").save_pretrained(tmp_path / "whole")
    checkpoint = open_run([tmp_path / "whole"]).checkpoints[-1]
    with pytest.raises(BadInput, match=r"whole: has no head a\.h4"):
        pruned_model.export(checkpoint, ["a.h4"], tmp_path, tmp_path / "pruned")
    assert not (tmp_path / "pruned").exists()
    (tmp_path / "pruned").mkdir()
    with pytest.raises(BadInput, match="pruned: already exists; name another folder, or remove it first"):
        pruned_model.export(checkpoint, ["a.h3"], tmp_path, tmp_path / "pruned")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pruned", "whole"]
