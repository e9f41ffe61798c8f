"""Which FFN units are copies, and of which units."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from pli_analysis.runs.ancestry import copied_units

if TYPE_CHECKING:
    from pli_train.core.lineage import Layer, Lineage

CLONES = ("clone", "clone-noise")
"""Initializers of widened FFNs whose new units are copies of old ones."""


class Unit(NamedTuple):
    """An FFN unit: its layer's id, and its number in the layer, in the order of birth.

    >>> str(Unit("c", 3))
    'c.u3'
    """

    layer: str
    number: int

    def __str__(self) -> str:
        return f"{self.layer}.u{self.number}"


def unit_donors(lineage: Lineage, layer: str) -> dict[int, Unit]:
    """Return the number of each copied unit of a layer → the unit that it was copied from, if that is in the stack.

    The units of a cloned layer are copies of those with the same number in its donor. A widened FFN copies its old
    units in turn, from the first one on.

    >>> from pli_train.core.lineage import Lineage
    >>> lineage = Lineage.begin(1, heads=1, units=2)
    >>> _ = lineage.insert(1, step=3, initializer="clone", donor="a")
    >>> lineage.widen({"b": 5}, step=4, initializer="clone")
    >>> [f"{number} {unit}" for number, unit in unit_donors(lineage, "b").items()]
    ['0 a.u0', '1 a.u1', '2 b.u0', '3 b.u1', '4 b.u0']
    """
    one = lineage.layers[layer]
    donor = one.birth.donor
    born = copied_units(one) or 0 if donor in lineage.stack else 0
    return {number: Unit(str(donor), number) for number in range(born)} | _widened(lineage, one)


def _widened(lineage: Lineage, layer: Layer) -> dict[int, Unit]:
    """Return number → source of the units that events added to a layer as copies of its own units."""
    found: dict[int, Unit] = {}
    for (_, before), (event, after) in pairwise(layer.widths.items()):
        if lineage.events[event - 1].facts.get("initializer") in CLONES:
            found |= {number: Unit(layer.id, (number - before) % before) for number in range(before, after)}
    return found
