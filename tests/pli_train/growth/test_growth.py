"""What an event does to a model: every operator and initializer, on every family that it applies to."""

import copy

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from pli_train.core import anatomy
from pli_train.core.lineage import Lineage
from pli_train.growth.initializers import INITIALIZERS, InsertionPoint, add_noise
from pli_train.growth.operators.ffn import WidenFFN
from pli_train.growth.operators.heads import AddHeads
from pli_train.growth.operators.insert import Insert
from pli_train.growth.operators.swap import Swap
from pli_train.models import build as models
from pli_train.models import padding, resize
from tests.families import HEADS, LAYERS, TINY, UNITS, inputs, tiny
from tests.growing import apply_event, begin, few_heads, logits

FAMILIES = sorted(TINY)
INDICES = [(family, index) for family in FAMILIES for index in range(LAYERS + 1)]
INDICES = [(family, index) for family, index in INDICES if index or not anatomy.family(family).bottom]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def parts(family):
    return anatomy.family(family)


def reloaded(model, parts, folder):
    """The model as plain transformers loads it from what a checkpoint keeps."""
    model.save_pretrained(folder, state_dict=padding.padded(model, parts))
    auto = getattr(transformers, models.AUTO_CLASS[parts.task])
    return auto.from_pretrained(folder, dtype=next(model.parameters()).dtype).eval()


def head_outputs(model, parts):
    """What each layer's heads say before they are mixed: the input of attention's output projection."""
    outputs = []
    hooks = [
        layer.get_submodule(parts.identity["zero"][0]).register_forward_pre_hook(
            lambda _, args: outputs.append(args[0])
        )
        for layer in models.stack_of(model, parts)
    ]
    logits(model)
    for hook in hooks:
        hook.remove()
    return outputs


# --- identity at birth ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "index"), INDICES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_identity_at_birth_leaves_logits_unchanged(family, parts, index, dtype, bound, tmp_path):
    model = tiny(family).to(dtype)
    lineage, before = begin(model, parts), logits(model)
    apply_event(Insert(at=0, index=index, initializer="identity"), model, parts, lineage)
    assert (logits(model) - before).abs().max() <= bound
    assert (logits(reloaded(model, parts, tmp_path)) - before).abs().max() <= bound
    assert len(models.stack_of(model, parts)) == LAYERS + 1


def test_an_identity_layer_learns(family, parts):
    """Exact at birth is worth nothing if the layer then stays dead: its output projections must get gradients."""
    model = tiny(family)
    lineage = begin(model, parts)
    apply_event(Insert(at=0, index=2, initializer="identity"), model, parts, lineage)
    model(**inputs(model)).logits.square().mean().backward()
    newborn = models.stack_of(model, parts)[2]
    assert all(newborn.get_submodule(path).weight.grad.abs().max() > 0 for path in parts.identity["zero"])


def test_zeroing_the_output_projections_alone_is_no_identity_in_post_ln():
    """The trap that the construction for post-LN is there for: the negative control of the tests above."""
    parts = anatomy.family("bert")
    model = tiny("bert")
    before = logits(model)
    newborn = copy.deepcopy(models.stack_of(model, parts)[0])
    with torch.no_grad():
        for path in parts.identity["zero"]:
            for parameter in newborn.get_submodule(path).parameters():
                parameter.zero_()
    models.put_into_stack(newborn, 1, model, parts, 0)
    assert (logits(model) - before).abs().max() > 1e-2


# --- initializers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "index"), INDICES)
def test_a_clone_equals_its_donor_bit_for_bit_and_touches_nobody_else(family, parts, index):
    model = tiny(family)
    before = [copy.deepcopy(layer.state_dict()) for layer in models.stack_of(model, parts)]
    lineage = begin(model, parts)
    apply_event(Insert(at=0, index=index), model, parts, lineage)
    layers = list(models.stack_of(model, parts))
    newborn, donor = layers.pop(index), before["ab".index(lineage.layers["c"].birth.donor)]
    assert all(torch.equal(newborn.state_dict()[name], donor[name]) for name in donor)
    for layer, old in zip(layers, before, strict=True):
        assert all(torch.equal(layer.state_dict()[name], old[name]) for name in old)
    own = {parameter.data_ptr() for parameter in newborn.parameters()}
    assert own.isdisjoint(p.data_ptr() for layer in layers for p in layer.parameters())


@pytest.mark.parametrize(
    ("index", "donor", "expected"),
    [(0, "below", "a"), (1, "below", "a"), (3, "below", "c"), (0, "above", "a"), (1, "above", "b"), (2, "a", "a")],
)
def test_the_donor_is_the_neighbor_asked_for(index, donor, expected):
    lineage = Lineage.begin(3, heads=1)
    assert Insert(at=0, index=index, donor=donor).donor_id(lineage) == expected


def insertion_point(model, parts, **more):
    layers = models.stack_of(model, parts)
    return InsertionPoint(model, parts, layers[1], (layers[0], layers[1]), **{"seed": 7, "noise": 0.25, **more})


def test_noise_is_gaussian_of_the_asked_size_and_spares_norms_and_biases(family, parts):
    model = tiny(family)
    donor, newborn = models.stack_of(model, parts)[1], INITIALIZERS["clone-noise"](insertion_point(model, parts))
    standard = []
    for (name, new), old in zip(newborn.named_parameters(), donor.parameters(), strict=True):
        if old.dim() == 1:
            assert torch.equal(new, old), name
            continue
        noise = ((new - old) / old.std()).detach().flatten()
        count = noise.numel()
        # Four standard errors for each of a dozen statistics, three for the two of all tensors together.
        assert abs(noise.mean()) < 4 * 0.25 / count**0.5, name
        assert abs(noise.std() - 0.25) < 4 * 0.25 / (2 * count) ** 0.5, name
        standard.append(noise / 0.25)
    pooled = torch.cat(standard)
    assert abs(pooled.mean()) < 3 / pooled.numel() ** 0.5
    assert abs(pooled.std() - 1) < 3 / (2 * pooled.numel()) ** 0.5
    # Uniform noise, the seed's mistake, has no tail: its kurtosis is 1.8 and a Gaussian's is 3.
    assert abs((pooled**4).mean() - 3) < 3 * (96 / pooled.numel()) ** 0.5
    assert pooled.abs().max() > 3


def test_noise_of_zero_is_the_weight_itself():
    weight = torch.randn(5, 7)
    assert torch.equal(add_noise(weight, 0.0, torch.Generator().manual_seed(0)), weight)


def test_a_random_layer_is_drawn_as_the_family_draws_its_own(family, parts):
    model = tiny(family)
    newborn = INITIALIZERS["random"](insertion_point(model, parts))
    torch.manual_seed(99)
    auto = getattr(transformers, models.AUTO_CLASS[parts.task])
    fresh = models.stack_of(auto.from_config(model.config), parts)[1]
    for (name, new), reference in zip(newborn.named_parameters(), fresh.parameters(), strict=True):
        if reference.dim() == 1:
            assert torch.equal(new, reference), name
        else:
            assert not torch.equal(new, reference), name
            assert new.std().item() == pytest.approx(reference.std().item(), rel=6 / (2 * new.numel()) ** 0.5), name


def test_average_is_the_mean_of_the_layers_around(family, parts):
    model = tiny(family)
    lineage = begin(model, parts)
    apply_event(Insert(at=0, index=1, initializer="average"), model, parts, lineage)
    below, newborn, above = (layer.state_dict() for layer in models.stack_of(model, parts))
    for name in newborn:
        if name in below:  # ModernBERT's bottom layer lacks a norm
            assert torch.allclose(newborn[name], (below[name] + above[name]) / 2, atol=1e-6), name
    assert lineage.layers["c"].birth.donor is None
    assert lineage.events[-1].facts["donors"] == "a b"


@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_one_seed_makes_one_newborn_and_leaves_the_worlds_randomness_alone(initializer):
    parts, model = anatomy.family("gpt2"), tiny("gpt2")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (INITIALIZERS[initializer](insertion_point(model, parts)).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_layer_is_born_where_there_was_none(tmp_path):
    """Single-shot growth begins with an empty stack."""
    parts = anatomy.family("gpt2")
    config = AutoConfig.for_model("gpt2", **{**TINY["gpt2"], "n_layer": 0})
    model = AutoModelForCausalLM.from_config(config).eval()
    lineage = Lineage.begin(0, heads=2, units=24)
    apply_event(Insert(at=0, index=0, initializer="random"), model, parts, lineage)
    apply_event(Insert(at=0, index=1, initializer="clone"), model, parts, lineage)
    assert lineage.shapes() == [(2, 24), (2, 24)]
    assert [resize.sizes_of(layer, parts, model.config)["head"] for layer in models.stack_of(model, parts)] == [2, 2]
    assert (logits(reloaded(model, parts, tmp_path)) - logits(model)).abs().max() <= 1e-5


@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_a_grown_model_reloads_to_the_same_logits(family, parts, tmp_path, initializer):
    model = tiny(family)
    apply_event(Insert(at=0, index=1, initializer=initializer, noise=0.1), model, parts, begin(model, parts))
    loaded = reloaded(model, parts, tmp_path)
    assert torch.allclose(logits(loaded), logits(model), atol=1e-6)
    locations = [
        m.layer_idx for layer in models.stack_of(model, parts) for m in layer.modules() if hasattr(m, "layer_idx")
    ]
    assert locations == [
        m.layer_idx for layer in models.stack_of(loaded, parts) for m in layer.modules() if hasattr(m, "layer_idx")
    ]


# --- heads and FFN units ----------------------------------------------------------------------------------------------

EXACT = [("random", "zero"), ("clone", "zero"), ("clone-noise", "zero"), ("clone", "split")]


@pytest.mark.parametrize(("initializer", "output"), EXACT)
def test_new_heads_leave_logits_and_old_heads_unchanged(family, parts, initializer, output, tmp_path):
    model = tiny(family).double()
    lineage = begin(model, parts, few_heads(parts))
    before, said = logits(model), head_outputs(model, parts)
    event = AddHeads(at=0, to=HEADS, initializer=initializer, output=output, noise=0.1)
    apply_event(event, model, parts, lineage)
    assert (logits(model) - before).abs().max() <= 1e-10
    assert (logits(reloaded(model, parts, tmp_path)) - before).abs().max() <= 1e-10
    # Another layer's input may differ in its last bit where an output is split, and so may what its heads say.
    for old, new in zip(said, head_outputs(model, parts), strict=True):
        assert (new[..., : old.shape[-1]] - old).abs().max() <= 1e-12
        assert new.shape[-1] == old.shape[-1] * HEADS // few_heads(parts)
    assert lineage.shapes() == [(HEADS, UNITS)] * LAYERS


@pytest.mark.parametrize("family", [family for family in FAMILIES if "groups" not in anatomy.family(family).config])
def test_one_head_becomes_twelve_in_one_event(family, parts):
    named = parts.config
    wide = {named["hidden"]: 48, named["heads"]: 12}
    model = tiny(family, **wide)
    lineage, before = begin(model, parts, 1), None
    before = logits(model)
    apply_event(AddHeads(at=0, to=12), model, parts, lineage)
    assert (logits(model) - before).abs().max() <= 1e-5
    assert list(lineage.layers["a"].heads) == [f"a.h{n}" for n in range(12)]
    assert all(birth.donor == "a.h0" for head, birth in lineage.layers["a"].heads.items() if head != "a.h0")


def test_a_familys_free_number_of_heads_grows_past_its_config(tmp_path):
    """Llama's config states the size of a head: twice the heads, more than the model is wide."""
    parts, model = anatomy.family("llama"), tiny("llama").double()
    lineage, before = begin(model, parts), logits(model)
    apply_event(AddHeads(at=0, to=10, initializer="random"), model, parts, lineage)
    loaded = reloaded(model, parts, tmp_path)
    # Llama wants the number to divide its width, 32: in the checkpoint ten heads are padded to sixteen.
    assert lineage.shapes() == [(10, UNITS)] * LAYERS
    assert (loaded.config.num_attention_heads, loaded.config.num_key_value_heads) == (16, 8)
    assert (logits(loaded) - before).abs().max() <= 1e-10


def test_kept_outputs_change_the_logits(family, parts):
    """The negative control: parts whose output columns are kept as drawn do speak."""
    model = tiny(family).double()
    lineage, before = begin(model, parts, few_heads(parts)), logits(model)
    apply_event(AddHeads(at=0, to=HEADS, output="kept"), model, parts, lineage)
    assert (logits(model) - before).abs().max() > 1e-4


@pytest.mark.parametrize(("initializer", "output"), EXACT)
def test_a_wider_ffn_leaves_logits_unchanged(family, parts, initializer, output, tmp_path):
    model = tiny(family).double()
    lineage, before = begin(model, parts), logits(model)
    apply_event(WidenFFN(at=0, to=5 * UNITS // 2, initializer=initializer, output=output), model, parts, lineage)
    assert (logits(model) - before).abs().max() <= 1e-10
    assert (logits(reloaded(model, parts, tmp_path)) - before).abs().max() <= 1e-10


def test_layers_of_different_shapes_are_padded_and_slimmed_back(family, parts, tmp_path):
    model, few = tiny(family).double(), few_heads(parts)
    lineage = begin(model, parts, few)
    apply_event(AddHeads(at=0, to=2 * few, layers=["b"], initializer="random", output="kept"), model, parts, lineage)
    apply_event(WidenFFN(at=0, to=UNITS + 5, layers=["a"], output="kept"), model, parts, lineage)
    assert lineage.shapes() == [(few, UNITS + 5), (2 * few, UNITS)]
    loaded = reloaded(model, parts, tmp_path)
    assert (logits(loaded) - logits(model)).abs().max() <= 1e-10
    models.shrink(loaded, parts, lineage.shapes())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(logits(loaded), logits(model))


def test_copies_of_a_head_are_its_rows(family, parts):
    model, few = tiny(family), few_heads(parts)
    lineage = begin(model, parts, few)
    old = copy.deepcopy(models.stack_of(model, parts)[0])
    sizes = resize.sizes_of(old, parts, model.config)
    apply_event(AddHeads(at=0, to=HEADS, output="kept"), model, parts, lineage)
    new = dict(models.stack_of(model, parts)[0].named_parameters())
    grown = resize.sizes_of(models.stack_of(model, parts)[0], parts, model.config)
    for name, parameter in old.named_parameters():
        before = dict(parts.split(name, parameter, sizes))
        for part, values in parts.split(name, new[name], grown):
            kind, number = part[0], part[1:]
            if kind in "hg" and number.isdigit():
                count = sum(other.startswith(kind) for other in before)
                assert torch.equal(values, before[f"{kind}{int(number) % count}"]), (name, part)


# --- swaps ------------------------------------------------------------------------------------------------------------


def test_a_permanent_swap_moves_identities_and_nothing_else(family, parts, tmp_path):
    model = tiny(family, **{parts.config["depth"]: 3})
    lineage = begin(model, parts)
    before = [copy.deepcopy(layer.state_dict()) for layer in models.stack_of(model, parts)]
    outside = {n: p.clone() for n, p in model.named_parameters() if parts.locate(n) is None}
    assert apply_event(Swap(at=0, indices=(1, 2)), model, parts, lineage) == []
    assert lineage.stack == ["a", "c", "b"]
    for layer, position in zip(models.stack_of(model, parts), (0, 2, 1), strict=True):
        assert all(torch.equal(layer.state_dict()[name], before[position][name]) for name in before[position])
    assert all(torch.equal(p, outside[n]) for n, p in model.named_parameters() if n in outside)
    assert (logits(reloaded(model, parts, tmp_path)) - logits(model)).abs().max() <= 1e-6
    apply_event(Swap(at=0, indices=(1, 2)), model, parts, lineage)
    assert lineage.stack == ["a", "b", "c"]
