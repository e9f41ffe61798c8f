"""Make models of checkpoints with equal configs from one template, which is faster than loading each anew.

A template is a copy of the first such model, made before anything uses it, without memory for the tensors that are read
from checkpoints. Each model is a new object: hooks, gates and settings of one never reach another.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from pli_train.core import safe_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel


class Template(NamedTuple):
    """A model to copy.

    Attributes:
        outline: what it was made from, which equal configs share; see `pli_train.core.safe_model.outline`.
        names: names of all tensors of a checkpoint.
        model: the model; parameters and buffers that a checkpoint's tensors fill are on the meta device.
        filled: name of a tensor → the parameter or buffer of `model` that it fills.
        report: transformers' report of missing and unexpected names.
    """

    outline: PreTrainedModel
    names: frozenset[str]
    model: PreTrainedModel
    filled: dict[str, Tensor]
    report: dict[str, Any]


_kept: deque[Template] = deque(maxlen=4)
"""Templates of the last configs: with and without a head, before and after an event."""


def filled(
    outline: PreTrainedModel, config: PretrainedConfig, tensors: dict[str, Tensor]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load tensors into a model's outline, as `pli_train.core.safe_model.fill` does, with eager attention."""
    names = frozenset(tensors)
    for template in _kept:
        if template.outline is outline and template.names == names:
            return _copied(template, tensors), template.report
    model, report = safe_model.fill(outline, config, tensors, attn_implementation="eager")
    found = _entries(model, tensors, set(report["unexpected_keys"]))
    if found is not None:
        empty = {name: _with_values(entry, entry.detach().to("meta")) for name, entry in found.items()}
        memo: dict[int, Any] = {id(entry): empty[name] for name, entry in found.items()}
        _kept.append(Template(outline, names, copy.deepcopy(model, memo), empty, report))
    return model, report


def _copied(template: Template, tensors: Mapping[str, Tensor]) -> PreTrainedModel:
    """Return a copy with these tensors. Tied parameters are one object in the template, and in the copy."""
    memo: dict[int, Any] = {id(entry): _with_values(entry, tensors[name]) for name, entry in template.filled.items()}
    return copy.deepcopy(template.model, memo)


def _entries(model: PreTrainedModel, tensors: Mapping[str, Tensor], unused: set[str]) -> dict[str, Tensor] | None:
    """Return name of a tensor → the parameter or buffer that it fills.

    None if one of them was not loaded as it is: transformers converts the weights of some families. Then models cannot
    be made from a template.
    """
    import torch

    prefix = f"{model.base_model_prefix}."
    entries = {name.removeprefix(prefix): entry for name, entry in _named(model)}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in unused:
            continue
        entry = entries.get(name.removeprefix(prefix))
        if entry is None or entry.dtype != tensor.dtype or not torch.equal(entry, tensor):
            return None
        found[name] = entry
    return found if len({id(entry) for entry in found.values()}) == len(found) else None


def _named(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters and buffers; tied ones under each of their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _with_values(entry: Tensor, values: Tensor) -> Tensor:
    """Return a parameter with these values if `entry` is one, otherwise the values."""
    from torch.nn import Parameter

    return Parameter(values, entry.requires_grad) if isinstance(entry, Parameter) else values
