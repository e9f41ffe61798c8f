import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from pli_train import anatomy, optimizer
from pli_train.config import OptimConfig
from pli_train.errors import BadInput
from pli_train.growth import schedule
from pli_train.growth.initialisers import INITIALISERS, add_noise
from pli_train.growth.insert import Insert
from pli_train.lineage import Lineage
from pli_train.model import stack_of

AUTO = {"masked-lm": AutoModelForMaskedLM, "causal-lm": AutoModelForCausalLM}
SMALL = {
    "bert": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "num_hidden_layers": 3},
    "gpt2": {"n_embd": 64, "n_head": 4, "n_layer": 3},
}


@pytest.fixture
def parts(family):
    return anatomy.family(family)


@pytest.fixture
def model(family, parts):
    torch.manual_seed(0)
    made = AUTO[parts.task].from_config(AutoConfig.for_model(family, vocab_size=50, **SMALL[family]))
    with torch.no_grad():
        for parameter in made.parameters():  # move everything off its fresh value, norms and biases too
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(40).reshape(2, 20)).logits


def grow(model, parts, **event):
    lineage = Lineage.begin(len(stack_of(model, parts)), heads=4)
    insert = Insert(at=0, **event)
    insert.grow(model, parts, lineage, seed=1)
    insert.record(lineage, step=0)
    return lineage


@pytest.mark.parametrize("index", range(4))
def test_a_clone_equals_its_donor_bit_for_bit_and_touches_nobody_else(model, parts, index):
    before = [copy.deepcopy(layer.state_dict()) for layer in stack_of(model, parts)]
    lineage = grow(model, parts, index=index, initialiser="clone")
    layers = stack_of(model, parts)
    newborn = layers.pop(index)
    donor = before["abc".index(lineage.layers["d"].birth.donor)]
    assert all(torch.equal(newborn.state_dict()[name], donor[name]) for name in donor)
    for layer, old in zip(layers, before, strict=True):
        assert all(torch.equal(layer.state_dict()[name], old[name]) for name in old)
    own = {parameter.data_ptr() for parameter in newborn.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in layers.parameters())


@pytest.mark.parametrize(
    ("index", "donor", "expected"),
    [(0, "below", "a"), (1, "below", "a"), (3, "below", "c"), (0, "above", "a"), (1, "above", "b"), (2, "a", "a")],
)
def test_the_donor_is_the_neighbour_asked_for(index, donor, expected):
    lineage = Lineage.begin(3, heads=1)
    assert Insert(at=0, index=index, donor=donor).donor_id(lineage) == expected


def test_noise_is_gaussian_of_the_asked_size_and_spares_norms_and_biases(model, parts):
    donor = stack_of(model, parts)[0]
    newborn = INITIALISERS["clone-noise"](donor, model, 7, 0.25)
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


def test_a_random_layer_is_drawn_as_the_family_draws_its_own(family, model, parts):
    newborn = INITIALISERS["random"](stack_of(model, parts)[1], model, 3, 0.0)
    torch.manual_seed(99)
    fresh = stack_of(AUTO[parts.task].from_config(model.config), parts)[1]
    for (name, new), reference in zip(newborn.named_parameters(), fresh.parameters(), strict=True):
        if reference.dim() == 1:
            assert torch.equal(new, reference), name
        else:
            assert not torch.equal(new, reference), name
            assert new.std().item() == pytest.approx(reference.std().item(), rel=6 / (2 * new.numel()) ** 0.5), name


@pytest.mark.parametrize("initialiser", INITIALISERS)
def test_one_seed_makes_one_newborn_and_leaves_the_worlds_randomness_alone(model, parts, initialiser):
    donor = stack_of(model, parts)[0]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (INITIALISERS[initialiser](donor, model, 11, 0.1).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("initialiser", INITIALISERS)
def test_a_grown_model_reloads_to_the_same_logits(family, model, parts, tmp_path, initialiser):
    grow(model, parts, index=1, initialiser=initialiser, noise=0.1)
    model.save_pretrained(tmp_path)
    reloaded = AUTO[parts.task].from_pretrained(tmp_path).eval()
    assert len(stack_of(reloaded, parts)) == 4
    assert torch.allclose(logits(reloaded), logits(model), atol=1e-6)
    places = [m.layer_idx for layer in stack_of(model, parts) for m in layer.modules() if hasattr(m, "layer_idx")]
    expected = [m.layer_idx for layer in stack_of(reloaded, parts) for m in layer.modules() if hasattr(m, "layer_idx")]
    assert places == expected


def test_after_growth_every_parameter_is_in_one_group_and_old_ones_keep_their_moments(model, parts):
    optim = OptimConfig(weight_decay=0.3)
    adam = optimizer.build(model, optim)
    model(input_ids=torch.arange(40).reshape(2, 20)).logits.square().mean().backward()
    adam.step()
    before = optimizer.state_tensors(adam, model, parts, ["a", "b", "c"])
    lineage = grow(model, parts, index=1, initialiser="clone")
    adam = optimizer.rebuilt(adam, model, optim)
    grouped = [id(p) for group in adam.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted({id(p) for p in model.parameters()})
    for group in adam.param_groups:
        assert {p.dim() > 1 for p in group["params"]} == {group["weight_decay"] == 0.3}
    after = optimizer.state_tensors(adam, model, parts, lineage.stack)
    # By layer id the state is what it was, although layers b and c have moved up; the newborn has none.
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(".<d>." in name for name in after)


def test_optimizer_state_finds_its_layer_and_not_its_place(model, parts):
    adam = optimizer.build(model, OptimConfig())
    model(input_ids=torch.arange(40).reshape(2, 20)).logits.square().mean().backward()
    adam.step()
    kept = optimizer.state_tensors(adam, model, parts, ["a", "b", "c"])
    other = optimizer.build(model, OptimConfig())
    optimizer.load_state(other, model, parts, ["b", "a", "c"], kept)
    first, second = (list(layer.parameters()) for layer in stack_of(model, parts)[:2])
    for mine, yours in zip(first, second, strict=True):
        assert torch.equal(other.state[mine]["exp_avg"], adam.state[yours]["exp_avg"])


def test_optimizer_state_for_a_stranger_is_refused(model, parts):
    adam = optimizer.build(model, OptimConfig())
    with pytest.raises(BadInput, match="does not have"):
        optimizer.load_state(adam, model, parts, ["a", "b", "c"], {"exp_avg/nobody": torch.zeros(1)})


def test_a_schedule_places_its_events_at_steps_and_rehearses_the_stack():
    events = [Insert(at=at, index=index) for at, index in ((0.1, 1), (0.5, 0), (90, 1))]
    planned = schedule.plan(events, initial_layers=1, total_steps=100)
    assert [p.step for p in planned] == [10, 50, 90]
    assert [p.layer for p in planned] == ["b", "c", "d"]
    assert planned[-1].stack == ("c", "d", "a", "b")


def test_fractions_and_steps_can_only_be_ordered_when_the_length_is_known():
    events = [Insert(at=0.5, index=1), Insert(at=10, index=1)]
    schedule.plan(events, initial_layers=1, total_steps=None)
    with pytest.raises(BadInput, match="comes before"):
        schedule.plan(events, initial_layers=1, total_steps=100)
