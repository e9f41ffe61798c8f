"""What an event does to the optimizer's groups and state."""

import copy

import pytest
import torch

from pli_train.api import Growth
from pli_train.core import anatomy
from pli_train.core.anatomy.axes import rows as rows_of
from pli_train.core.errors import BadInput
from pli_train.growth.operators.ffn import WidenFFN
from pli_train.growth.operators.heads import AddHeads
from pli_train.growth.operators.insert import Insert
from pli_train.growth.operators.swap import Swap
from pli_train.models import build as models
from pli_train.models import resize
from pli_train.optim import optimizer, row_steps
from pli_train.optim.config import OptimConfig
from tests.families import HEADS, TINY, UNITS, WIDTH, inputs, tiny
from tests.growing import apply_event, begin, few_heads, step_of


@pytest.fixture(params=sorted(TINY))
def family(request):
    return request.param


@pytest.fixture
def parts(family):
    return anatomy.family(family)


def trained(model, parts, steps=2):
    """AdamW after a few real updates."""
    adam = optimizer.build(model, OptimConfig(weight_decay=0.3, lr=1e-3))
    for _ in range(steps):
        step_of(model, adam)
    return adam


EVENTS = {
    "insert": Insert(at=0, index=1),
    "identity": Insert(at=0, index=1, initializer="identity", optimizer_state="copy"),
    "random": Insert(at=0, index=2, initializer="random"),
    "heads": AddHeads(at=0, to=HEADS, initializer="random"),
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
    apply_event(event, model, parts, lineage, adam=adam)
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
    sizes = resize.sizes_of(layer, parts, model.config)
    old = {name: adam.state[p]["exp_avg"].clone() for name, p in layer.named_parameters()}
    apply_event(AddHeads(at=0, to=HEADS, optimizer_state=state), model, parts, lineage, adam=adam)
    grown = resize.sizes_of(layer, parts, model.config)
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
    with pytest.raises(ValueError, match="needs a donor, and initializer 'random' has none"):
        Insert(at=0, index=1, initializer="random", optimizer_state="copy")


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


# --- step counts of rows ----------------------------------------------------------------------------------------------

LR = 1e-3


def grown_late(family, parts, state="zero", **how):
    """A model whose heads and units grow after 2000 updates: (model, optimizer, growth, how to make an update)."""
    model = tiny(family)
    adam = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, **how)
    events = [
        {"at": 1, "operator": what, "to": to, "optimizer_state": state, "initializer": "clone-noise"}
        | {"noise": 0.1, "output": "kept"}
        for what, to in (("heads", HEADS), ("ffn", UNITS + 8))
    ]
    growing = Growth(events).on(model, adam, initial_heads=few_heads(parts))
    growing.step(0)
    step_of(model, adam)
    for each in adam.state.values():
        each["step"].fill_(2000)
    growing.step(1)
    return model, adam, growing


def halves(model, parts, tensors):
    """Of each tensor with rows of both births: (name, what is old, what is newborn), flat."""
    layer = models.stack_of(model, parts)[0]
    sizes, few = resize.sizes_of(layer, parts, model.config), few_heads(parts)
    for name, axes, parameter in [
        *resize.tensors_along(layer, parts, resize.growable(parts, "heads", sizes).factor),
        *resize.tensors_along(layer, parts, "unit"),
    ]:
        factor = "unit" if "unit" in axes else resize.growable(parts, "heads", sizes).factor
        old = {"unit": UNITS, "head": few, "group": 1}[factor]
        rows = rows_of(tensors[parameter].expand(parameter.shape), axes, factor, sizes)
        yield name, rows[:old].flatten(), rows[old:].flatten()


def test_the_first_update_of_a_newborn_row_is_at_most_one_learning_rate_long(family, parts):
    """Divided by the tensor's own bias correction it would be 2.9 of them."""
    model, adam, _ = grown_late(family, parts)
    before = {p: p.detach().clone() for p in model.parameters()}
    step_of(model, adam)
    moved = {p: (p.detach() - before[p]).abs() for p in model.parameters()}
    found = list(halves(model, parts, moved))
    assert len(found) >= 4
    for name, _, newborn in found:
        assert newborn.max() <= LR * (1 + 1e-3), name
        assert newborn.max() > 0.9 * LR or name.endswith("bias"), name  # a key's bias has no gradient


def test_a_copied_row_goes_on_from_its_donor_s_count(family, parts):
    model, adam, _ = grown_late(family, parts, "copy")
    step_of(model, adam)
    assert all(row_steps.ROWS not in state for state in adam.state.values())
    assert {float(state["step"]) for state in adam.state.values()} == {2001}


def test_counts_of_rows_survive_a_state_dict_in_bfloat16():
    """torch casts what it loads to the parameter's dtype, and 2001 is no bfloat16."""
    parts = anatomy.family("llama")
    model, adam, growing = grown_late("llama", parts)
    step_of(model, adam)
    model = model.to(torch.bfloat16)
    other = torch.optim.AdamW(model.parameters(), lr=LR)
    other.load_state_dict(adam.state_dict())
    growing.attach(other)
    step_of(model, other)
    counts = {p: row_steps.of(state, p.shape, p.device) for p, state in other.state.items()}
    for name, old, newborn in halves(model, parts, counts):
        assert (set(old.tolist()), set(newborn.tolist())) == ({2002}, {2}), name


def test_counts_of_rows_come_to_their_parameter_s_device():
    """Loading a state dict that lies on the CPU leaves `step` there, as unfused Adam wants it."""
    state = {row_steps.ROWS: {"step": torch.ones(3, 1)}}
    assert row_steps.of(state, (3, 1), torch.device("meta")).device.type == "meta"


def test_an_update_that_a_gradient_scaler_skips_counts_for_no_row():
    parts = anatomy.family("gpt2")
    model, adam, _ = grown_late("gpt2", parts, fused=True)
    step_of(model, adam)
    before = copy.deepcopy((model.state_dict(), optimizer.state_tensors(adam, model, parts, ["a", "b"])))
    adam.grad_scale, adam.found_inf = torch.ones(()), torch.ones(())  # what GradScaler tells a fused optimizer
    step_of(model, adam)
    after = model.state_dict(), optimizer.state_tensors(adam, model, parts, ["a", "b"])
    assert any(key.startswith("row_step/") for key in before[1])
    for was, now in zip(before, after, strict=True):
        assert all(torch.equal(was[key], now[key]) for key in was)


def test_rows_freeze_under_an_optimizer_of_another_kind():
    parts, model = anatomy.family("gpt2"), tiny("gpt2")
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    events = [{"at": 2, "operator": "heads", "to": HEADS, "output": "kept", "freeze_steps": 3}]
    growing = Growth(events).on(model, sgd, initial_heads=1)
    kept = []
    for step in range(6):
        growing.step(step)
        kept.append({p: (p.detach().clone(), state["momentum_buffer"].clone()) for p, state in sgd.state.items()})
        step_of(model, sgd)
    layer = models.stack_of(model, parts)[0]
    sizes = resize.sizes_of(layer, parts, model.config)
    for name, axes, parameter in resize.tensors_along(layer, parts, "head"):
        for was, now in zip(kept[2][parameter], kept[5][parameter], strict=True):
            old, new = (rows_of(tensor, axes, "head", sizes) for tensor in (was, now))
            assert torch.equal(old[:1], new[:1]), name
            assert not torch.equal(old[1:], new[1:]), name


def test_a_factored_state_starts_over_where_rows_are_born():
    """Adafactor's row and column factors have other shapes than the tensor, and cannot be laid out with it."""
    model = tiny("gpt2")
    adafactor = torch.optim.Adafactor(model.parameters(), lr=1e-2)
    growing = Growth([{"at": 1, "operator": "ffn", "to": 2 * UNITS, "initializer": "random"}]).on(model, adafactor)
    for step in range(3):
        growing.step(step)
        model(**inputs(model)).logits.square().mean().backward()
        adafactor.step()
    named = dict(model.named_parameters())
    counts = {name: int(adafactor.state[parameter]["step"]) for name, parameter in named.items()}
    grown = {name for name in counts if name.endswith(("mlp.c_fc.weight", "mlp.c_proj.weight"))}
    assert grown and all(count == (2 if name in grown else 3) for name, count in counts.items())


def test_counts_of_rows_that_cannot_be_are_refused():
    parts = anatomy.family("gpt2")
    model, adam, _ = grown_late("gpt2", parts)
    kept = optimizer.state_tensors(adam, model, parts, ["a", "b"])
    key = "row_step/transformer.h.<a>.attn.c_attn.weight"
    for wrong, line in [
        (kept[key][:, :-1], "has shape"),
        (kept[key].expand(WIDTH, -1), "has shape"),
        (kept[key] + 1, "step counts outside 0 to that of the tensor"),
        (kept[key] - 1, "step counts outside 0 to that of the tensor"),
        (kept[key].long(), "not a valid entry of AdamW"),
    ]:
        with pytest.raises(BadInput, match=line):
            optimizer.load_state(optimizer.build(model, OptimConfig()), model, parts, ["a", "b"], kept | {key: wrong})
    with pytest.raises(BadInput, match="step counts outside 0"):
        alone = {key: kept[key]}
        optimizer.load_state(optimizer.build(model, OptimConfig()), model, parts, ["a", "b"], alone)


def test_a_state_from_before_rows_had_counts_goes_on_from_the_tensors():
    parts = anatomy.family("gpt2")
    model, adam, _ = grown_late("gpt2", parts)
    kept = optimizer.state_tensors(adam, model, parts, ["a", "b"])
    old = {key: value for key, value in kept.items() if not key.startswith("row_step/")}
    again = optimizer.build(model, OptimConfig())
    optimizer.load_state(again, model, parts, ["a", "b"], old)
    assert old.keys() < kept.keys() and all(row_steps.ROWS not in state for state in again.state.values())
