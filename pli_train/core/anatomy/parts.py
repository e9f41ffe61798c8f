"""Names of a model's parts, and which part each row of a parameter belongs to.

Gradients and updates are measured per part: a head, the tensors shared by a layer's heads, an FFN, a layer's norms;
outside the layers, the embeddings, the norms and the rest. Every element of every parameter belongs to exactly one
part, so the squared norms of all parts sum to the squared norm of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from pli_train.core.anatomy.axes import each_axis, factors

if TYPE_CHECKING:
    from pli_train.core.anatomy import Anatomy

Group = Literal["total", "layer", "head", "attention", "ffn", "norms", "embeddings", "other"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""Levels of measurement: two sums over parts (total, layer), then the levels of parts, which do not overlap.

`attention` is shared by a layer's heads: biases, and the keys and values of a group.
"""
OUTSIDE = "outside"
"""The name, in place of a layer's id, of norms and other parts outside the layers."""


class Part(NamedTuple):
    """A part, or a sum of parts.

    >>> [part.tag for part in (Part("head", "c.h3"), Part("ffn", "c"), Part("total", ""))]
    ['head/c.h3', 'ffn/c', 'total']
    >>> Part.of_tag("attention/c.g0").layer
    'c'
    """

    level: str
    name: str

    @property
    def tag(self) -> str:
        """The part as it appears in the name of a scalar."""
        return f"{self.level}/{self.name}" if self.name else self.level

    @property
    def layer(self) -> str | None:
        """The id of the part's layer; None outside the layers."""
        return self.name.partition(".")[0] if self.name not in ("", OUTSIDE) else None

    @classmethod
    def of_tag(cls, tag: str) -> Part:
        """Parse a `tag`."""
        level, _, name = tag.partition("/")
        return cls(level, name)


@dataclass(frozen=True)
class Cut:
    """How one tensor is divided into parts.

    Attributes:
        shape: shape of a view of the tensor in which some axes number the parts.
        kept: those axes; empty if the whole tensor is one part.
        parts: the parts along those axes, in order.
    """

    shape: tuple[int, ...]
    kept: tuple[int, ...]
    parts: tuple[Part, ...]


def cut(anatomy: Anatomy, layer: str, name: str, shape: Sequence[int], sizes: Mapping[str, int]) -> Cut:
    """Return how a tensor of a layer is divided into parts.

    Args:
        layer: the layer's id.
        name: the tensor's name within the layer.
        shape: the tensor's current shape.
        sizes: factor → size in this layer, for all but one of the factors that share an axis.

    >>> from pli_train.core.anatomy import family
    >>> bias = cut(family("gpt2"), "c", "attn.c_attn.bias", [24], {"qkv": 3, "head": 2, "dim": 4, "member": 1})
    >>> bias.shape, bias.kept, [part.name for part in bias.parts]
    ((3, 2, 4), (1,), ['c.h0', 'c.h1'])
    """
    labels = anatomy.labels(name, sizes)
    parts = tuple(part_of(layer, label) for label in labels)
    owners = anatomy.owners(name)
    if not owners:
        return Cut(tuple(shape), (), parts)
    axes = anatomy.tensors[name][1]
    factored = lengths(axes, shape, sizes)
    kept = tuple(number for number, factor in enumerate(factors(axes)) if factor in owners)
    return Cut(tuple(factored), kept, parts)


def outside(model: Any, name: str) -> Part:
    """Return the part of a parameter outside the layers: `norms`, `embeddings` or `other`.

    A norm within an embedding module belongs to `norms`.

    Args:
        model: a torch.nn.Module, typed as Any because this module does not import torch.
        name: the parameter's full name in the model.
    """
    *path, _ = name.split(".")
    kinds, module = [], model
    for step in path:
        module = getattr(module, step)
        kinds.append(type(module).__name__)
    if kinds and "Norm" in kinds[-1]:
        return Part("norms", OUTSIDE)
    return Part("embeddings", "") if any("Embedding" in kind for kind in kinds) else Part("other", OUTSIDE)


def part_of(layer: str, label: str) -> Part:
    """Return the part of a layer with a label of `Anatomy.split`.

    >>> part_of("c", "g0"), part_of("c", "ffn")
    (Part(level='attention', name='c.g0'), Part(level='ffn', name='c'))
    """
    if number_of(label) is not None:
        return Part("head" if label[0] == "h" else "attention", f"{layer}.{label}")
    return Part(label, layer)


def number_of(label: str) -> int | None:
    """Return the number of the head or group in a label; None for other parts.

    >>> number_of("h12"), number_of("g0"), number_of("ffn")
    (12, 0, None)
    """
    return int(label[1:]) if label[:1] in ("h", "g") and label[1:].isdecimal() else None


def with_sums(squares: Mapping[Part, float]) -> dict[Part, float]:
    """Return the squares with the sums for the model and for each layer put first.

    >>> {part.tag: square for part, square in with_sums({Part("ffn", "a"): 2.0, Part("embeddings", ""): 1.0}).items()}
    {'total': 3.0, 'layer/a': 2.0, 'ffn/a': 2.0, 'embeddings': 1.0}
    """
    sums = {Part("total", ""): sum(squares.values())}
    for part, square in squares.items():
        if part.layer is not None:
            layer = Part("layer", part.layer)
            sums[layer] = sums.get(layer, 0.0) + square
    return {**sums, **squares}


def lengths(axes: str, shape: Sequence[int], sizes: Mapping[str, int]) -> list[int]:
    """Return the length of each factor, in order; one factor of an axis may be missing in `sizes`."""
    result = []
    for length, axis in zip(shape, each_axis(axes), strict=True):
        names = factors(axis)
        known = math.prod(sizes.get(name, 1) for name in names) if len(names) > 1 else 1
        result += [sizes[name] if name in sizes and len(names) > 1 else length // known for name in names]
    return result
