"""What an event does to the optimizer's groups and state."""
# ruff: noqa: F811  (fixtures that come from another file are arguments here)

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from pli_train import anatomy, layout, optimizer
from pli_train import model as models
from pli_train.errors import BadInput
from pli_train.growth.ffn import WidenFFN
from pli_train.growth.heads import AddHeads
from pli_train.growth.insert import Insert
from pli_train.growth.swap import Swap
from pli_train.sections import OptimConfig
from tests.families import HEADS, UNITS, inputs, tiny
from tests.pli_train.test_growth import begin, family, few_heads, happen, parts  # noqa: F401  (fixtures among them)


def trained(model, parts, steps=2):
    """AdamW after a few real updates."""
    adam = optimizer.build(model, OptimConfig(weight_decay=0.3, lr=1e-3))
    for _ in range(steps):
        step_of(model, adam)
    return adam


def step_of(model, adam):
    told = model(**inputs(model)).logits.flatten(0, -2)
    cross_entropy(told, torch.arange(len(told)) % told.shape[-1]).backward()
    adam.step()
    adam.zero_grad()


EVENTS = {
    "insert": Insert(at=0, index=1),
    "identity": Insert(at=0, index=1, initialiser="identity", optimizer_state="copy"),
    "random": Insert(at=0, index=2, initialiser="random"),
    "heads": AddHeads(at=0, to=HEADS, initialiser="random"),
    "cloned heads": AddHeads(at=0, to=HEADS, optimizer_state="copy"),
    "ffn": WidenFFN(at=0, to=2 * UNITS, optimizer_state="copy"),
    "swap": Swap(at=0, indices=(1, 2)),
    "forget": Insert(at=0, index=1, optimizer_state="reset-all"),
}


@pytest.mark.parametrize("name", EVENTS)
def test_after_growth_every_parameter_is_in_one_group_with_state_of_its_shape(family, parts, name):
    event, model = EVENTS[name], tiny(family, **{parts.config["depth"]: 3})
    lineage = begin(model, parts, few_heads(parts))
    adam = trained(model, parts)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 / (1 + step))
    before = copy.deepcopy(optimizer.state_tensors(adam, model, parts, lineage.stack))
    happen(event, model, parts, lineage, adam=adam)
    grouped = [id(p) for group in adam.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted({id(p) for p in model.parameters()})
    for group in adam.param_groups:
        assert {p.dim() > 1 for p in group["params"]} == {group["weight_decay"] == 0.3}
    for parameter, state in adam.state.items():
        assert {value.shape for key, value in state.items() if key.startswith("exp_avg")} == {parameter.shape}
    after = optimizer.state_tensors(adam, model, parts, lineage.stack)
    if event.optimizer_state == "reset-all":
        assert not after
    elif event.operator in ("insert", "swap"):
        # By layer id the state is what it was, although layers have moved.
        assert all(torch.equal(after[key], before[key]) for key in before)
        assert any("<d>" in key for key in after) == (event.optimizer_state == "copy")
    step_of(model, adam)
    schedule.step()
    assert {group["lr"] for group in adam.param_groups} == {5e-4}
    assert all(p in adam.state for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("state", ["zero", "copy"])
def test_moments_of_old_heads_stay_and_newborns_have_none_or_their_donors(family, parts, state):
    model, few = tiny(family), few_heads(parts)
    lineage = begin(model, parts, few)
    adam = trained(model, parts)
    layer = models.stack_of(model, parts)[0]
    sizes = layout.sizes_of(layer, parts, model.config)
    old = {name: adam.state[p]["exp_avg"].clone() for name, p in layer.named_parameters()}
    happen(AddHeads(at=0, to=HEADS, optimizer_state=state), model, parts, lineage, adam=adam)
    grown = layout.sizes_of(layer, parts, model.config)
    seen = set()
    for name, parameter in layer.named_parameters():
        before = dict(parts.split(name, old[name], sizes))
        for part, moment in parts.split(name, adam.state[parameter]["exp_avg"], grown):
            if part in before:
                assert torch.equal(moment, before[part]), (name, part)
            else:
                kind = part[0]
                donor = before[f"{kind}{int(part[1:]) % sum(p.startswith(kind) for p in before)}"]
                assert torch.equal(moment, donor if state == "copy" else torch.zeros_like(moment)), (name, part)
                seen.add(part)
    assert f"h{HEADS - 1}" in seen


def test_a_copy_of_moments_needs_a_donor():
    with pytest.raises(ValueError, match="needs a donor, and initialiser 'random' has none"):
        Insert(at=0, index=1, initialiser="random", optimizer_state="copy")


def test_optimizer_state_finds_its_layer_and_not_its_place(family, parts):
    model = tiny(family, **{parts.config["depth"]: 3})
    adam = trained(model, parts)
    kept = optimizer.state_tensors(adam, model, parts, ["a", "b", "c"])
    other = optimizer.build(model, OptimConfig())
    optimizer.load_state(other, model, parts, ["a", "c", "b"], kept)
    first, second = (list(layer.parameters()) for layer in list(models.stack_of(model, parts))[1:3])
    for mine, yours in zip(first, second, strict=True):
        assert torch.equal(other.state[mine]["exp_avg"], adam.state[yours]["exp_avg"])


def test_optimizer_state_for_a_stranger_is_refused():
    parts, model = anatomy.family("gpt2"), tiny("gpt2")
    adam = optimizer.build(model, OptimConfig())
    with pytest.raises(BadInput, match="does not have"):
        optimizer.load_state(adam, model, parts, ["a", "b"], {"exp_avg/nobody": torch.zeros(1)})
