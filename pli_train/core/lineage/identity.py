"""Ids, births and growth events.

A layer's *id* (`a`, `b`, … `z`, `aa`, …) is given at birth, in order of birth, and never reused; its *index* is
where it sits in the stack at the moment. A head's id is its layer's id and its order of birth there: `c.h3`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pli_train.core.errors import BadInput


class BadLineage(BadInput):
    """A lineage that contradicts itself, or a file that holds none. Its text says what and where; exit code 2."""


def layer_id(number: int) -> str:
    """The id of the `number`-th layer ever born, counting from 0.

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
    """How a layer or a head came to be.

    Attributes:
        step: optimizer updates done before it existed; 0 for what the run began with.
        event: number of the growth event that made it (from 1), or None for what the run began with.
        donor: id of the layer or head it was copied from, or None.
        initializer: how its weights were made (`random`, `clone`, `clone-noise`, `pretrained`, …).
    """

    step: int
    event: int | None
    donor: str | None
    initializer: str


@dataclass(frozen=True)
class Layer:
    """One layer for as long as the run lives.

    Attributes:
        id: its name.
        birth: how it came to be.
        heads: its heads in the order they sit in.
        widths: number of the event that set it (0 for what the run began with) → units of its FFN from then on;
            empty where that is not known.
    """

    id: str
    birth: Birth
    heads: dict[str, Birth]
    widths: dict[int, int] = field(default_factory=dict)

    @property
    def units(self) -> int | None:
        """Units of its FFN now."""
        return next(reversed(self.widths.values()), None)


@dataclass(frozen=True)
class Event:
    """A growth event: its number (from 1), its step, the operator, the stack it left, and the operator's own facts."""

    number: int
    step: int
    operator: str
    stack: tuple[str, ...]
    facts: dict[str, Any]

    def __str__(self) -> str:
        message = ", ".join(f"{key} {value}" for key, value in self.facts.items() if value is not None)
        return f"step {self.step}: {self.operator} {message} → {' '.join(self.stack)}"
