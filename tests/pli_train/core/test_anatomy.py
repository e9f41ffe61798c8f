import json
import math
import re
import tomllib

import numpy as np
import pytest
import torch
from einops import rearrange
from transformers import AutoConfig

from pli_train.core import anatomy
from pli_train.core.errors import BadInput
from pli_train.models.build import stack_of
from tests.families import ANALYZED, HEADS, LAYERS, OPTIONAL, TINY, UNITS, WIDTH, logits, tiny

GROUPED = [name for name in TINY if "groups" in anatomy.family(name).config]
POST = [name for name in TINY if anatomy.family(name).norm == "post"]
TYPED = [name for name in TINY if anatomy.family(name).layer_type]


@pytest.fixture(params=TINY)
def family(request):
    return request.param


@pytest.fixture
def parts(family):
    return anatomy.family(family)


@pytest.fixture
def model(family):
    return tiny(family)


@pytest.fixture
def sizes(parts, model):
    return parts.sizes(model.config)


def base_of(model):
    return getattr(model, model.base_model_prefix)


def elements(parts, name, parameter, sizes, part):
    """Where in the flattened parameter the elements of a part lie: found by giving each a number of its own."""
    numbered = torch.arange(parameter.numel()).reshape(parameter.shape)
    found = [values.flatten() for owner, values in parts.split(name, numbered, sizes) if owner == part]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.long)


def silence(layer, parts, sizes, part):
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.view(-1)[elements(parts, name, parameter, sizes, part)] = 0


def test_every_family_with_a_table_is_tested_here(family):
    assert set(anatomy.trainable()) == set(TINY)
    assert set(anatomy.families()) == {*TINY, *ANALYZED}
    assert anatomy.family(family).model_type == family


def test_the_table_names_every_tensor_of_a_layer_and_no_other(family, parts, model):
    padded_form = {name for name, _ in stack_of(model, parts)[1].named_parameters()}
    everything = {name for name, _ in stack_of(tiny(family, **OPTIONAL.get(family, {})), parts)[1].named_parameters()}
    assert padded_form <= set(parts.tensors) == everything


def test_the_pattern_of_every_tensor_has_its_shape(parts, model, sizes):
    known = sizes | {"dim": WIDTH // HEADS, "unit": UNITS, "model": WIDTH}
    for name, parameter in stack_of(model, parts)[1].named_parameters():
        axes = re.findall(r"\([^)]*\)|\w+", parts.tensors[name][1])
        assert [math.prod(known[factor] for factor in re.findall(r"\w+", axis)) for axis in axes] == [*parameter.shape]


def test_what_the_bottom_layer_lacks_is_what_the_table_says(parts, model):
    lowest, other = stack_of(model, parts)[:2]
    lacking = {name for name, _ in other.named_parameters()} - {name for name, _ in lowest.named_parameters()}
    missing = parts.bottom.get("missing", {})
    assert {name.rpartition(".")[0] for name in lacking} == set(missing)
    for module, like in missing.items():
        one, another = other.get_submodule(module).state_dict(), other.get_submodule(like).state_dict()
        assert {name: t.shape for name, t in one.items()} == {name: t.shape for name, t in another.items()}


def test_parts_share_out_every_element_exactly_once(family, parts, model, sizes):
    counted, total = {}, 0
    for name, parameter in stack_of(model, parts)[1].named_parameters():
        # Every element carries a number of its own: none may be lost and none may come twice.
        numbered = np.arange(total, total + parameter.numel()).reshape(parameter.shape)
        total += parameter.numel()
        for part, values in parts.split(name, numbered, sizes):
            counted.setdefault(part, []).append(np.asarray(values).ravel())
    expected = {"h0", "h1", "h2", "h3", "attention", "ffn", "norms"} | ({"g0", "g1"} if family in GROUPED else set())
    nothing_shared = family in GROUPED or family == "modernbert"  # without biases, all of attention is some head's
    assert set(counted) == expected - ({"attention"} if nothing_shared else set())
    everything = np.concatenate([chunk for chunks in counted.values() for chunk in chunks])
    assert np.array_equal(np.sort(everything), np.arange(total))


@pytest.fixture
def output(model, parts):
    """What attention of the upper layer adds to the residual stream for one input, whatever its weights are now."""
    seen = {}
    projection = stack_of(model, parts)[1].get_submodule(parts.identity["zero"][0])
    projection.register_forward_hook(lambda module, args, result: seen.update(result=result))

    def run():
        logits(model)
        return seen["result"]

    return run


@pytest.fixture
def layer(model, parts):
    """The upper layer, its biases zero: what attention gives is then the sum over its heads."""
    layer = stack_of(model, parts)[1]
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return layer


def test_a_heads_slice_is_what_that_head_computes_with(parts, layer, sizes, output):
    """Silencing the slices of all heads but one leaves that head's contribution to attention's output, exactly."""
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    whole, alone = output(), []
    for kept in range(sizes["head"]):
        layer.load_state_dict(state)
        for head in set(range(sizes["head"])) - {kept}:
            silence(layer, parts, sizes, f"h{head}")
        alone.append(output())
    assert torch.allclose(sum(alone), whole, atol=1e-5)
    assert all(part.abs().max() > 1e-3 for part in alone)


@pytest.mark.parametrize("family", GROUPED)
def test_a_groups_slice_is_what_its_heads_share(parts, layer, sizes, output):
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    silence(layer, parts, sizes, "g0")
    without_group = output()
    layer.load_state_dict(state)
    silence(layer, parts, sizes, "h0")
    silence(layer, parts, sizes, "h1")
    assert torch.allclose(without_group, output(), atol=1e-6)


@pytest.mark.parametrize("family", GROUPED)
def test_a_group_of_one_is_its_head(family, parts):
    model = tiny(family, num_key_value_heads=HEADS)
    sizes = parts.sizes(model.config)
    names = [name for name, _ in stack_of(model, parts)[1].named_parameters()]
    kinds = {part for name in names for part, _ in parts.split(name, model_tensor(model, parts, name), sizes)}
    assert kinds == {"h0", "h1", "h2", "h3", "ffn", "norms"}


def model_tensor(model, parts, name):
    return stack_of(model, parts)[1].get_parameter(name)


def test_live_sizes_are_the_products_of_their_factors(parts, model, sizes):
    known = sizes | {"dim": WIDTH // HEADS, "unit": UNITS}
    for layer in stack_of(model, parts):
        for path, product in parts.live.items():
            owner, _, leaf = path.rpartition(".")
            value = getattr(layer.get_submodule(owner), leaf)
            assert value == math.prod(known[factor] for factor in product.split()), path


def test_a_layer_of_half_the_heads_runs_once_its_live_sizes_say_so(parts, model, sizes):
    """It computes what the whole layer does with the other half's heads silent."""
    layer = stack_of(model, parts)[1]
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    gone = [f"h{head}" for head in range(sizes["head"] // 2, sizes["head"])]
    gone += [f"g{group}" for group in range(sizes["group"] // 2, sizes["group"])]
    for part in gone:
        silence(layer, parts, sizes, part)
    expected = logits(model)
    layer.load_state_dict(state)

    half = sizes | {"head": sizes["head"] // 2, "group": sizes["group"] // 2}
    for name, parameter in layer.named_parameters():
        axes = parts.tensors[name][1]
        factors = re.findall(r"\w+", axes)
        owner = next((factor for factor in ("head", "group") if factor in factors), None)
        if owner:
            flat = f"{owner} {' '.join(factor for factor in factors if factor != owner)}"
            rows = rearrange(parameter.data, f"{axes} -> {flat}", **{f: sizes[f] for f in factors if f in sizes})
            parameter.data = rearrange(rows[: half[owner]], f"{flat} -> {axes}")
    for path, product in parts.live.items():
        owner, _, leaf = path.rpartition(".")
        known = half | {"dim": WIDTH // HEADS, "unit": UNITS}
        setattr(layer.get_submodule(owner), leaf, math.prod(known[factor] for factor in product.split()))
    for module in layer.modules():
        if type(module).__name__ == "Conv1D":
            module.nf = module.weight.shape[1]
    assert torch.allclose(logits(model), expected, atol=1e-5)


def test_sizes_are_the_same_from_a_config_and_from_its_json(family, parts, model, sizes):
    groups = 2 if family in GROUPED else HEADS
    assert sizes == {"head": HEADS, "group": groups, "member": HEADS // groups, "qkv": 3, "gate": 2}
    assert parts.sizes(json.loads(model.config.to_json_string())) == sizes


def test_a_config_without_heads_is_refused(parts):
    with pytest.raises(BadInput, match=f"gives {parts.config['heads']} = None"):
        parts.sizes({})


def test_the_config_has_what_the_table_names(family, parts, model):
    config = model.config
    for role, name in parts.config.items():
        assert hasattr(config, name) or role == "head_dim", name
    message = {role: getattr(config, name, None) for role, name in parts.config.items()}
    assert (message["depth"], message["hidden"], message["heads"], message["units"]) == (LAYERS, WIDTH, HEADS, UNITS)
    assert all(getattr(config, name) == value for name, value in parts.given.items())


@pytest.mark.parametrize("family", [name for name in TINY if "head_dim" in anatomy.family(name).config])
def test_a_head_size_of_its_own_is_heeded_and_kept(family, parts, tmp_path):
    model = tiny(family, head_dim=16)
    query = next(name for name in parts.tensors if "q_proj.weight" in name)
    assert model_tensor(model, parts, query).shape == (HEADS * 16, WIDTH)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(type(model).from_pretrained(tmp_path).eval()), logits(model))


@pytest.mark.parametrize("family", [name for name in TINY if "positions" in anatomy.family(name).config])
def test_a_block_of_all_positions_fits(parts, model):
    length = parts.positions(model.config)
    assert parts.positions(json.loads(model.config.to_json_string())) == length
    assert logits(model, count=1, length=length).shape[1] == length


def test_a_table_with_a_list_of_layer_types_says_where_a_layer_keeps_its_own(family, parts, model):
    assert (family in TYPED) == ("layer_types" in parts.config) == hasattr(model.config, "layer_types")


@pytest.mark.parametrize("family", TYPED)
def test_layers_keep_their_type_where_the_table_says(family, parts, model):
    owner, _, leaf = parts.layer_type.rpartition(".")
    types = [getattr(layer.get_submodule(owner), leaf) for layer in stack_of(model, parts)]
    assert types == getattr(model.config, parts.config["layer_types"])


def test_the_stack_is_named_alike_with_and_without_a_head(parts, model):
    inner = {name for name, _ in stack_of(model, parts)[1].named_parameters()}
    for module in (model, base_of(model)):
        assert {found[2] for name, _ in module.named_parameters() if (found := parts.locate(name))} >= inner
    located = [found for name, _ in model.named_parameters() if (found := parts.locate(name))]
    assert len(located) == sum(len(list(layer.parameters())) for layer in stack_of(model, parts))


def test_names_by_id_follow_the_layer_and_not_the_place(parts, model):
    names = [name for name, _ in model.named_parameters()]
    before = {parts.by_id(name, ["a", "b"]) for name in names}
    assert len(before) == len(names)
    moved = parts.by_id(next(n for n in names if parts.locate(n) and parts.locate(n)[1] == 1), ["c", "a"])
    assert moved.replace("<a>", "<b>") in before


def zero(layer, parts):
    with torch.no_grad():
        for path in parts.identity["zero"]:
            for parameter in layer.get_submodule(path).parameters():
                parameter.zero_()


def passed(model, module):
    """What goes into a module and what comes out of it."""
    seen = {}
    hook = module.register_forward_hook(lambda module, args, result: seen.update(went=args[0], came=result))
    logits(model)
    hook.remove()
    return seen["went"], seen["came"]


def test_a_silent_layer_is_the_identity(parts, model):
    """Pre-LN: as it is. Post-LN: on what is normalized already, with its own norms bare."""
    layer = stack_of(model, parts)[1]
    before = passed(model, layer)
    assert not torch.allclose(*before, atol=0.1)
    zero(layer, parts)
    if parts.norm == "post":
        lower = stack_of(model, parts)[0].get_submodule(parts.identity["last_norm"])
        with torch.no_grad():
            for norm in (lower, *(layer.get_submodule(parts.identity[n]) for n in ("first_norm", "last_norm"))):
                norm.weight.fill_(1)
                norm.bias.zero_()
    went, came = passed(model, layer)
    assert torch.equal(went, came) if parts.norm == "pre" else torch.allclose(went, came, atol=1e-6)


def test_only_post_norm_families_name_norms_to_take_over(family, parts):
    assert set(parts.identity) == ({"zero", "first_norm", "last_norm", "below"} if family in POST else {"zero"})


@pytest.mark.parametrize("family", POST)
def test_what_leaves_the_norm_below_enters_the_stack(family, parts, model):
    below = base_of(model).get_submodule(parts.identity["below"])
    lowest = stack_of(model, parts)[0]
    assert torch.equal(passed(model, below)[1], passed(model, lowest)[0])
    last = lowest.get_submodule(parts.identity["last_norm"])
    assert torch.equal(passed(model, last)[1], passed(model, lowest)[1])


def test_a_family_without_a_table_is_named_with_its_neighbor(family):
    with pytest.raises(BadInput, match=f"did you mean '{family}'"):
        anatomy.family(f"{family}x")


def test_a_default_config_is_one_the_table_holds_for(family, parts):
    config = AutoConfig.for_model(family)
    assert all(getattr(config, name) == value for name, value in parts.given.items())


def test_the_table_in_the_documentation_is_mistrals():
    page = (anatomy.TABLES.parents[2] / "docs/families.md").read_text(encoding="utf-8")
    shown = tomllib.loads(page.partition("```anatomy\n")[2].partition("```")[0])
    assert shown == tomllib.loads((anatomy.TABLES / "mistral.toml").read_text(encoding="utf-8"))
