"""Births, donors and live sizes of a layer's parts.

A head (`h3`) has its own birth. The tensors that a group of heads shares (`g1`) have the birth and the donor of the
group's first head. All other parts (`ffn`, `norms`, `attention`) have the birth of their layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pli_train.core.anatomy.parts import number_of

if TYPE_CHECKING:
    from pli_train.core.lineage import Birth, Layer


def alive(sizes: Mapping[str, int], heads: int, units: int | None) -> dict[str, int]:
    """Return the number of live heads, groups and units of a layer; the rest is padding. Without `unit` if unknown.

    >>> alive({"member": 2}, 4, 64), alive({"member": 1}, 4, None)
    ({'head': 4, 'group': 2, 'unit': 64}, {'head': 4, 'group': 4})
    """
    return {"head": heads, "group": heads // sizes["member"]} | ({} if units is None else {"unit": units})


def birth(layer: Layer, label: str, member: int) -> Birth:
    """Return the birth of a part.

    Args:
        label: of the part, as `Anatomy.labels` returns it.
        member: number of heads in a group.

    Raises:
        KeyError: if the layer has no such head.
    """
    number = number_of(label)
    if number is None:
        return layer.birth
    return layer.heads[f"{layer.id}.h{number * (member if label[0] == 'g' else 1)}"]


def donor(layer: Layer, label: str, member: int) -> tuple[str, str] | None:
    """Return the part that a part was copied from as (layer id, label); None if it is not a copy."""
    source = birth(layer, label, member).donor
    if source is None:
        return None
    if number_of(label) is None:
        return source, label
    owner, _, head = source.partition(".")
    number = number_of(head)
    if number is None:
        return None
    return owner, f"g{number // member}" if label[0] == "g" else head


def copied_units(layer: Layer) -> int | None:
    """Return the number of FFN units at a layer's birth, which it shares with its donor; None if unknown."""
    return layer.widths.get(layer.birth.event or 0)
