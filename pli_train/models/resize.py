"""Resize a layer's tensors along heads or FFN units.

Removing heads, padding for plain transformers, adding heads and widening the FFN are all one operation: a selection of
rows. Along a growable factor of a tensor's axes (`head`, `group` for shared K and V, or `unit`), row i of the result is
the old row `sources[i]`, or zero if that is -1. The same operation resizes an optimizer's moments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from pli_train.core.anatomy import axes as views
from pli_train.core.anatomy.axes import each_axis, factors

if TYPE_CHECKING:
    from pli_train.core.anatomy import Anatomy


def take(tensor: Tensor, axes: str, factor: str, sizes: dict[str, int], sources: Sequence[int]) -> Tensor:
    """Select rows along one factor: row i of the result is the old row `sources[i]`, or zero for -1.

    >>> weight = torch.arange(6.0).reshape(6, 1)
    >>> take(weight, "(head dim) model", "head", {"head": 3}, [2, -1]).flatten().tolist()
    [4.0, 5.0, 0.0, 0.0]
    """
    return cast("Tensor", views.take(tensor, axes, factor, sizes, sources)).contiguous()


@dataclass(frozen=True)
class Growable:
    """A growable factor of a layer's tensors, and its current size."""

    factor: str
    count: int


def growable(anatomy: Anatomy, what: str, sizes: dict[str, int]) -> Growable:
    """Return the factor of `heads` (K/V groups if heads share them) or `units`, for a layer of these sizes."""
    if what == "units":
        return Growable("unit", sizes["unit"])
    grouped = any("group" in axes for _, axes in anatomy.tensors.values())
    return Growable("group", sizes["group"]) if grouped else Growable("head", sizes["head"])


def tensors_along(layer: nn.Module, anatomy: Anatomy, factor: str) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield the tensors of a layer that have a factor: (name within the layer, axes, parameter)."""
    for name, parameter in layer.named_parameters():
        _, axes = anatomy.tensors.get(name, ("other", ""))
        if factor in factors(axes):
            yield name, axes, parameter


def shape_by_row(tensor: Tensor, axes: str, factor: str) -> tuple[int, ...]:
    """Return the shape of a broadcastable tensor with one number for each index of the axis with the factor.

    >>> shape_by_row(torch.zeros(5, 12), "model (qkv head dim)", "head")
    (1, 12)
    """
    sizes = zip(tensor.shape, each_axis(axes), strict=True)
    return tuple(length if factor in factors(axis) else 1 for length, axis in sizes)


def lay_out(layer: nn.Module, anatomy: Anatomy, what: str, sizes: dict[str, int], sources: Sequence[int]) -> None:
    """Resize a layer in place: its tensors, and the sizes stored in its modules.

    Args:
        layer: the layer.
        anatomy: anatomy of its model.
        what: `heads` or `units`.
        sizes: current sizes of the layer.
        sources: for each new head (group, unit), the index of the old one, or NOTHING.
    """
    part = growable(anatomy, what, sizes)
    with torch.no_grad():
        for name, axes, parameter in list(tensors_along(layer, anatomy, part.factor)):
            put(layer, name, take(parameter, axes, part.factor, sizes, sources))
    sync_sizes(layer, anatomy, resized(sizes, part.factor, len(sources)))


def sizes_of(layer: nn.Module, anatomy: Anatomy, config: object) -> dict[str, int]:
    """Return the current sizes of a layer: `head`, `group`, `member`, `dim`, `unit`, `qkv` and `gate`.

    Args:
        layer: the layer; its tensors define the number of heads, groups and units.
        anatomy: anatomy of its model.
        config: config of the model, which defines the size of a head and the heads per group.
    """
    sizes = anatomy.sizes(config)
    if not sizes["head"]:
        return sizes
    own = getattr(config, anatomy.config.get("head_dim", ""), None)
    sizes["dim"] = own or getattr(config, anatomy.config["hidden"]) // sizes["head"]
    part = growable(anatomy, "heads", sizes)
    sizes = resized(sizes, part.factor, _count(layer, anatomy, part.factor, sizes))
    return sizes | {"unit": _count(layer, anatomy, "unit", sizes)}


def _count(layer: nn.Module, anatomy: Anatomy, factor: str, sizes: dict[str, int]) -> int:
    for _, axes, parameter in tensors_along(layer, anatomy, factor):
        for length, axis in zip(parameter.shape, re.findall(r"\([^)]*\)|\w+", axes), strict=True):
            names = factors(axis)
            if factor in names:
                return length // math.prod(sizes[name] for name in names if name != factor)
    raise RuntimeError(f"no tensor of this {anatomy.model_type} layer has the factor {factor}")


def resized(sizes: dict[str, int], factor: str, count: int) -> dict[str, int]:
    """Return the sizes of a layer with `count` of a factor; heads and K/V groups change together."""
    if factor == "unit":
        return sizes | {"unit": count}
    groups = count if factor == "group" else count // sizes["member"]
    return sizes | {"group": groups, "head": groups * sizes["member"]}


def put(layer: nn.Module, name: str, value: Tensor) -> nn.Parameter:
    """Replace a parameter of a layer by one of another shape, with the same `requires_grad`."""
    path, _, leaf = name.rpartition(".")
    owner = layer.get_submodule(path)
    new = nn.Parameter(value.detach().clone(), requires_grad=getattr(owner, leaf).requires_grad)
    setattr(owner, leaf, new)
    return new


def sync_sizes(layer: nn.Module, anatomy: Anatomy, sizes: dict[str, int]) -> None:
    """Update the sizes stored in a layer's modules after its tensors have changed."""
    for path, product in anatomy.live.items():
        owner, _, leaf = path.rpartition(".")
        setattr(layer.get_submodule(owner), leaf, math.prod(sizes[name] for name in product.split()))
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif type(module).__name__ == "Conv1D":
            for leaf, size in zip(("nx", "nf"), cast("Tensor", module.weight).shape, strict=True):
                setattr(module, leaf, size)
