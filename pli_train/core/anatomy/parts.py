"""Names of a model's parts, and which part each row of a parameter belongs to.

A part is what gradients and updates are told of: a head, what the heads of a layer share, an FFN, a layer's norms; and
outside the layers the embeddings, the norms and the rest. Every element of every parameter belongs to exactly one, so
that squares over all parts sum to the square over the model.
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
"""What can be told: two sums over parts, then the levels of parts, which do not overlap.

`attention` is what a layer's heads share: biases, and the keys and values of a group.
"""
OUTSIDE = "outside"
"""The name, beside those of layers, of norms and other parts that belong to no layer."""


class Part(NamedTuple):
    """A part, or a sum over parts.

    >>> [part.tag for part in (Part("head", "c.h3"), Part("ffn", "c"), Part("total", ""))]
    ['head/c.h3', 'ffn/c', 'total']
    >>> Part.of_tag("attention/c.g0").layer
    'c'
    """

    level: str
    name: str

    @property
    def tag(self) -> str:
        """The part in the name of a scalar."""
        return f"{self.level}/{self.name}" if self.name else self.level

    @property
    def layer(self) -> str | None:
        """The id of the layer it belongs to; None outside the layers."""
        return self.name.partition(".")[0] if self.name not in ("", OUTSIDE) else None

    @classmethod
    def of_tag(cls, tag: str) -> Part:
        """Undo `tag`."""
        level, _, name = tag.partition("/")
        return cls(level, name)


@dataclass(frozen=True)
class Cut:
    """How one tensor falls into parts.

    Attributes:
        shape: of a view of it in which some axes number the parts.
        kept: those axes; none where the whole tensor is of one part.
        parts: the part of each, in order.
    """

    shape: tuple[int, ...]
    kept: tuple[int, ...]
    parts: tuple[Part, ...]


def cut(anatomy: Anatomy, layer: str, name: str, shape: Sequence[int], sizes: Mapping[str, int]) -> Cut:
    """How a tensor of a layer falls into parts.

    Args:
        layer: the layer's id.
        name: the tensor's name within the layer.
        shape: of the tensor, as the layer keeps it now.
        sizes: of the layer, for every factor that stands beside another in one axis.

    >>> from pli_train.core.anatomy import family
    >>> found = cut(family("gpt2"), "c", "attn.c_attn.bias", [24], {"qkv": 3, "head": 2, "dim": 4, "member": 1})
    >>> found.shape, found.kept, [part.name for part in found.parts]
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
    """The part that a parameter outside the layers belongs to: `norms`, `embeddings` or `other`.

    A norm is one wherever it stands; else what stands in a module that is called an embedding belongs to those.

    Args:
        model: a torch.nn.Module, known here by what it offers.
        name: the parameter's full name in it.
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
    """The part of a layer that `Anatomy.split` calls by this label.

    >>> part_of("c", "g0"), part_of("c", "ffn")
    (Part(level='attention', name='c.g0'), Part(level='ffn', name='c'))
    """
    if number_of(label) is not None:
        return Part("head" if label[0] == "h" else "attention", f"{layer}.{label}")
    return Part(label, layer)


def number_of(label: str) -> int | None:
    """The number of the head or group that a label names; None for other parts.

    >>> number_of("h12"), number_of("g0"), number_of("ffn")
    (12, 0, None)
    """
    return int(label[1:]) if label[:1] in ("h", "g") and label[1:].isdecimal() else None


def with_sums(squares: Mapping[Part, float]) -> dict[Part, float]:
    """The total and each layer before the parts whose squares they sum up.

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
    """The length of each factor in turn; one factor of an axis may be missing in `sizes`."""
    found = []
    for length, axis in zip(shape, each_axis(axes), strict=True):
        names = factors(axis)
        known = math.prod(sizes.get(name, 1) for name in names) if len(names) > 1 else 1
        found += [sizes[name] if name in sizes and len(names) > 1 else length // known for name in names]
    return found
