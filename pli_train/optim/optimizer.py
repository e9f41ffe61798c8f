"""AdamW over a growing model, with its state stored by layer id.

Growth changes an optimizer in place: a newborn parameter joins the group of the one it descends from, one that grew
takes the place of the old one, and no group is ever added, so that a scheduler sees what it saw before. On disk the
state is kept by parameter name with the layer's *id* in it: by position, an equal-shaped layer inserted mid-stack would
shift every later moment.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import AdamW

from pli_train.core.errors import BadInput
from pli_train.optim import row_steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from pli_train.core.anatomy import Anatomy
    from pli_train.optim.config import OptimConfig
    from pli_train.optim.parameter_origin import OptimizerState, ParameterOrigin


ROW_STEP = "row_step"
"""The entry on disk for the step counts of a parameter's rows, where they differ (see `row_steps`)."""

ENTRIES = ("step", "exp_avg", "exp_avg_sq", ROW_STEP)
"""What is kept of a parameter: AdamW's own state, and the counts of rows."""


def build(model: nn.Module, optim: OptimConfig) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) in two groups: matrices decay, norms and biases do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    fused = parameters[0].device.type in ("cpu", "cuda")
    return AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=fused)


def grow(optimizer: Optimizer, origins: Sequence[ParameterOrigin], state: OptimizerState) -> None:
    """Take an optimizer along over a growth event, in place. Works for any optimizer of PyTorch's kind.

    Where rows are born inside a tensor whose state is not of its shape (the factors of Adafactor, the blocks of 8-bit
    optimizers), its state starts over.

    Args:
        origins: where each new parameter comes from.
        state: moments and step count of what is newborn: `zero`, or a `copy` of the donor's; `reset-all` forgets
            everybody's. Newborn rows of a tensor have a count of their own in Adam and AdamW; in any other
            optimizer they share the tensor's.

    Raises:
        RuntimeError: when a new parameter belongs to no group.
    """
    for origin in origins:
        group = _group_of(optimizer, origin)
        if origin.replaces:
            locations = [id(p) for p in group["params"]]
            group["params"][locations.index(id(origin.old))] = origin.new
        else:
            group["params"].append(origin.new)
        lay_out = origin.copy if state == "copy" else origin.carry
        moments = optimizer.state.get(origin.old, {}) if origin.old is not None else {}
        starts_over = origin.rows is not None and not _by_element(moments, origin.old)
        if lay_out is not None and moments and not starts_over:
            grown = optimizer.state[origin.new] = {
                entry: lay_out(value) if _like(value, origin.old) else deepcopy(value)
                for entry, value in moments.items()
            }
            if origin.rows is not None and row_steps.counted(optimizer):
                counts = row_steps.of(moments, origin.rows, origin.new.device)
                row_steps.keep(grown, lay_out(counts))
    for origin in origins:
        if origin.replaces and origin.old is not None:
            optimizer.state.pop(origin.old, None)
    if state == "reset-all":
        optimizer.state.clear()


def _group_of(optimizer: Optimizer, origin: ParameterOrigin) -> dict[str, Any]:
    """The group of the parameter that the new one descends from; without one, the group with most of as many axes."""
    for group in optimizer.param_groups:
        if any(p is origin.old for p in group["params"]):
            return group
    if origin.old is None:
        return max(optimizer.param_groups, key=lambda g: sum(p.dim() == origin.new.dim() for p in g["params"]))
    raise RuntimeError("a parameter that grew is in no group of the optimizer")


def _by_element(moments: Mapping[str, Any], parameter: Tensor | None) -> bool:
    """Whether every tensor of a parameter's state is a scalar or has a number for each element."""
    tensors = [value for value in moments.values() if isinstance(value, torch.Tensor)]
    return all(value.dim() == 0 or _like(value, parameter) for value in tensors)


def _like(value: Any, parameter: Tensor | None) -> bool:
    return isinstance(value, torch.Tensor) and parameter is not None and value.shape == parameter.shape


def set_lr(optimizer: AdamW, lr: float) -> None:
    """Give every group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def lr_of_layers(optimizer: AdamW, layers: Sequence[nn.Module], stack: Sequence[str]) -> dict[str, float]:
    """The learning rate that each layer's parameters have in their groups, by layer id.

    Raises:
        RuntimeError: when a layer's parameters are in no group or at more than one rate.
    """
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rates = {}
    for name, layer in zip(stack, layers, strict=True):
        found = {rate.get(id(p)) for p in layer.parameters() if p.requires_grad}
        if len(found) > 1 or None in found:
            raise RuntimeError(f"layer {name}'s parameters have learning rates {found}")
        rates[name] = float(next(iter(found), 0.0) or 0.0)
    return rates


def state_tensors(optimizer: AdamW, model: nn.Module, anatomy: Anatomy, stack: Sequence[str]) -> dict[str, Tensor]:
    """The state as `<entry>/<parameter name by layer id>` → the tensor that the optimizer works on."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for entry, value in _entries(optimizer.state.get(parameter, {})):
            tensors[f"{entry}/{anatomy.by_id(name, stack)}"] = torch.as_tensor(value).detach()
    return tensors


def _entries(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A parameter's state by the names on disk."""
    for entry, value in state.items():
        yield (ROW_STEP, value["step"]) if entry == row_steps.ROWS else (entry, value)


def load_state(
    optimizer: AdamW, model: nn.Module, anatomy: Anatomy, stack: Sequence[str], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `state_tensors` gave.

    A checkpoint that was written before rows had counts has no entry for them: all rows then go on from the tensor's.

    Raises:
        BadInput: when it names something the model does not have, a shape differs, or the counts of rows are not
            between 0 and the tensor's.
    """
    by_name = {anatomy.by_id(name, stack): parameter for name, parameter in model.named_parameters()}
    for key, value in tensors.items():
        entry, _, name = key.partition("/")
        parameter = by_name.get(name)
        if parameter is None:
            raise BadInput(f"the optimizer state names '{name}', which the model does not have")
        fits = _by_row(value, parameter) if entry == ROW_STEP else value.shape in ((), parameter.shape)
        if not fits:
            raise BadInput(f"the optimizer state of '{name}' has shape {tuple(value.shape)}")
        if entry not in ENTRIES or (value.dim() == 0) != (entry == "step") or not value.is_floating_point():
            raise BadInput(f"the optimizer state '{key}' is none that AdamW has")
        if entry == ROW_STEP and not _counts(value, tensors.get(f"step/{name}")):
            raise BadInput(f"the optimizer state '{key}' is no count of updates up to the tensor's own")
        # AdamW's fused form wants its step counters where the parameters are.
        there = value.to(parameter.device, copy=True)
        optimizer.state[parameter] |= {row_steps.ROWS: {"step": there}} if entry == ROW_STEP else {entry: there}


def _by_row(value: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor has one number for each index of one axis of a parameter."""
    shapes = [[n if axis == kept else 1 for axis, n in enumerate(parameter.shape)] for kept in range(parameter.dim())]
    return list(value.shape) in shapes


def _counts(value: Tensor, step: Tensor | None) -> bool:
    return step is not None and bool(((value >= 0) & (value <= step)).all())
