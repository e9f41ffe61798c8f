"""Births, donors and live sizes of a layer's parts.

A head (`h3`) has a birth of its own. What a group of heads shares (`g1`) was born, and copied, with the first of them.
Everything else (`ffn`, `norms`, `attention`) came with the layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pli_train.core.anatomy.parts import number_of

if TYPE_CHECKING:
    from pli_train.core.lineage import Birth, Layer


def alive(sizes: Mapping[str, int], heads: int, units: int | None) -> dict[str, int]:
    """How many heads, groups and units a layer has, beyond which a checkpoint only pads; no `unit` where not known.

    >>> alive({"member": 2}, 4, 64), alive({"member": 1}, 4, None)
    ({'head': 4, 'group': 2, 'unit': 64}, {'head': 4, 'group': 4})
    """
    return {"head": heads, "group": heads // sizes["member"]} | ({} if units is None else {"unit": units})


def birth(layer: Layer, label: str, member: int) -> Birth:
    """How a part came to be.

    Args:
        label: of the part, as `Anatomy.labels` gives it.
        member: heads in a group.

    Raises:
        KeyError: when the layer has no such head.
    """
    number = number_of(label)
    if number is None:
        return layer.birth
    return layer.heads[f"{layer.id}.h{number * (member if label[0] == 'g' else 1)}"]


def donor(layer: Layer, label: str, member: int) -> tuple[str, str] | None:
    """The part that a part was copied from: (its layer's id, its label); None where it was not copied."""
    found = birth(layer, label, member).donor
    if found is None:
        return None
    if number_of(label) is None:
        return found, label
    owner, _, head = found.partition(".")
    number = number_of(head)
    if number is None:
        return None
    return owner, f"g{number // member}" if label[0] == "g" else head


def copied_units(layer: Layer) -> int | None:
    """How many FFN units a layer was born with, and has in common with its donor; None where that is not known."""
    return layer.widths.get(layer.birth.event or 0)
