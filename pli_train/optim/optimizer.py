"""AdamW for a growing model, with its state stored by layer id.

Growth changes an optimizer in place: a new parameter joins the group of the one it was made from, an enlarged parameter
replaces the old one, and no group is added, so that learning-rate schedulers keep working. On disk the state is stored
by parameter name with the layer's *id* in it: if it were stored by index, a layer inserted in the middle of the stack
would shift the state of all layers above.
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
"""Name on disk of the step counts of a parameter's rows, stored if they differ (see `row_steps`)."""

ENTRIES = ("step", "exp_avg", "exp_avg_sq", ROW_STEP)
"""Entries stored for a parameter: AdamW's state, and the step counts of rows."""


def build(model: nn.Module, optim: OptimConfig) -> AdamW:
    """Return AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with weight decay for matrices only."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    fused = parameters[0].device.type in ("cpu", "cuda")
    return AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=fused)


def grow(optimizer: Optimizer, origins: Sequence[ParameterOrigin], state: OptimizerState) -> None:
    """Update an optimizer after a growth event, in place. Works for any subclass of PyTorch's Optimizer.

    If a tensor gets new rows and its state has another shape (factors of Adafactor, blocks of 8-bit optimizers), its
    state is reset.

    Args:
        optimizer: holds the parameters before the event.
        origins: origin of each new parameter.
        state: moments and step count of new parts: `zero`, or a `copy` of the donor's; `reset-all` clears the state of
            all parameters. New rows of a tensor have their own step counts in Adam and AdamW; in other optimizers
            they share that of the tensor.

    Raises:
        RuntimeError: when an enlarged parameter is in no group.
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
    """Return the group of the old parameter; if there is none, the group with most parameters of equal dimension."""
    for group in optimizer.param_groups:
        if any(p is origin.old for p in group["params"]):
            return group
    if origin.old is None:
        return max(optimizer.param_groups, key=lambda g: sum(p.dim() == origin.new.dim() for p in g["params"]))
    raise RuntimeError("an enlarged parameter is in no group of the optimizer")


def _by_element(moments: Mapping[str, Any], parameter: Tensor | None) -> bool:
    """Return whether every tensor of a parameter's state is a scalar or has the parameter's shape."""
    tensors = [value for value in moments.values() if isinstance(value, torch.Tensor)]
    return all(value.dim() == 0 or _like(value, parameter) for value in tensors)


def _like(value: Any, parameter: Tensor | None) -> bool:
    return isinstance(value, torch.Tensor) and parameter is not None and value.shape == parameter.shape


def set_lr(optimizer: AdamW, lr: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def lr_of_layers(optimizer: AdamW, layers: Sequence[nn.Module], stack: Sequence[str]) -> dict[str, float]:
    """Return layer id → learning rate of the layer's parameters.

    Raises:
        RuntimeError: when a layer's parameters are in no group, or have different learning rates.
    """
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rates = {}
    for name, layer in zip(stack, layers, strict=True):
        values = {rate.get(id(p)) for p in layer.parameters() if p.requires_grad}
        if len(values) > 1 or None in values:
            raise RuntimeError(f"layer {name}'s parameters have learning rates {values}")
        rates[name] = float(next(iter(values), 0.0) or 0.0)
    return rates


def state_tensors(optimizer: AdamW, model: nn.Module, anatomy: Anatomy, stack: Sequence[str]) -> dict[str, Tensor]:
    """Return `<entry>/<parameter name with layer id>` → the optimizer's own tensor."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for entry, value in _entries(optimizer.state.get(parameter, {})):
            tensors[f"{entry}/{anatomy.by_id(name, stack)}"] = torch.as_tensor(value).detach()
    return tensors


def _entries(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a parameter's state as (name on disk, value)."""
    for entry, value in state.items():
        yield (ROW_STEP, value["step"]) if entry == row_steps.ROWS else (entry, value)


def load_state(
    optimizer: AdamW, model: nn.Module, anatomy: Anatomy, stack: Sequence[str], tensors: Mapping[str, Tensor]
) -> None:
    """Load the tensors of `state_tensors`.

    Checkpoints of older versions have no step counts of rows: then all rows use the count of their tensor.

    Raises:
        BadInput: when a parameter is unknown, a shape differs, or the count of a row is not between 0 and that of
            its tensor.
    """
    by_name = {anatomy.by_id(name, stack): parameter for name, parameter in model.named_parameters()}
    for key, value in tensors.items():
        entry, _, name = key.partition("/")
        parameter = by_name.get(name)
        if parameter is None:
            raise BadInput(f"the optimizer state has '{name}', which the model does not have")
        fits = _by_row(value, parameter) if entry == ROW_STEP else value.shape in ((), parameter.shape)
        if not fits:
            shapes = f"{tuple(value.shape)}, and the parameter {tuple(parameter.shape)}"
            raise BadInput(f"the optimizer state of '{name}' has shape {shapes}")
        if entry not in ENTRIES or (value.dim() == 0) != (entry == "step") or not value.is_floating_point():
            raise BadInput(f"the optimizer state '{key}' is not a valid entry of AdamW")
        if entry == ROW_STEP and not _counts(value, tensors.get(f"step/{name}")):
            raise BadInput(f"the optimizer state '{key}' has step counts outside 0 to that of the tensor")
        # Fused AdamW needs its step counters on the device of the parameters.
        moved = value.to(parameter.device, copy=True)
        optimizer.state[parameter] |= {row_steps.ROWS: {"step": moved}} if entry == ROW_STEP else {entry: moved}


def _by_row(value: Tensor, parameter: Tensor) -> bool:
    """Return whether a tensor has one value for each index of one axis of a parameter."""
    shapes = [[n if axis == kept else 1 for axis, n in enumerate(parameter.shape)] for kept in range(parameter.dim())]
    return list(value.shape) in shapes


def _counts(value: Tensor, step: Tensor | None) -> bool:
    return step is not None and bool(((value >= 0) & (value <= step)).all())
