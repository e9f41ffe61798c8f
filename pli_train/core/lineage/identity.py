"""Ids, births and growth events.

A layer's *id* (`a`, `b`, … `z`, `aa`, …) is assigned at birth, in order of birth, and never reused. Its *index* is its
current place in the stack. A head's id is its layer's id and its order of birth in that layer: `c.h3`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pli_train.core.errors import BadInput


class BadLineage(BadInput):
    """An invalid or inconsistent lineage. Exit code 2."""


def layer_id(number: int) -> str:
    """Return the id of the `number`-th layer ever created, counting from 0.

    >>> [layer_id(n) for n in (0, 1, 25, 26, 27, 701, 702)]
    ['a', 'b', 'z', 'aa', 'ab', 'zz', 'aaa']
    """
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return letters


@dataclass(frozen=True)
class Birth:
    """The birth of a layer or a head.

    Attributes:
        step: number of optimizer updates before its birth; 0 for the initial layers.
        event: number of the growth event that created it (from 1), or None for the initial layers.
        donor: id of the layer or head it was copied from, or None.
        initializer: how its weights were initialized (`random`, `clone`, `clone-noise`, `pretrained`, …).
    """

    step: int
    event: int | None
    donor: str | None
    initializer: str


@dataclass(frozen=True)
class Layer:
    """One layer over the whole run.

    Attributes:
        id: its id.
        birth: its birth.
        heads: head id → birth, in the order of the heads in the layer.
        widths: number of the event that set the width (0 for the initial one) → units of its FFN from then on;
            empty if unknown.
    """

    id: str
    birth: Birth
    heads: dict[str, Birth]
    widths: dict[int, int] = field(default_factory=dict)

    @property
    def units(self) -> int | None:
        """Current number of units of its FFN, or None if unknown."""
        return next(reversed(self.widths.values()), None)


@dataclass(frozen=True)
class Event:
    """A growth event: its number (from 1), step and operator, the stack after it, and facts of the operator."""

    number: int
    step: int
    operator: str
    stack: tuple[str, ...]
    facts: dict[str, Any]

    def __str__(self) -> str:
        facts = ", ".join(f"{key} {value}" for key, value in self.facts.items() if value is not None)
        return f"step {self.step}: {self.operator} {facts} → {' '.join(self.stack)}"
