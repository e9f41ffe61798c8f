"""Insertion index of layers that are inserted one at a time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pli_train.core.errors import BadInput
from pli_train.growth.schedules.named import check_deepens

Position = Literal["start", "end", "middle"] | list[Annotated[int, Field(ge=0)]]
"""The rule for each insertion's index, or the indices themselves."""


def indices(position: Position, depth: int, layers: int | None) -> list[int]:
    """The index of each insertion on the way from `depth` to `layers`.

    Into a stack of n layers `start` inserts at 0 (the bottom), `end` at n (the top), `middle` at ⌈n/2⌉; a list gives
    one index for each insertion, and `layers` may then be None.

    >>> indices("middle", depth=1, layers=7)
    [1, 1, 2, 2, 3, 3]

    Raises:
        BadInput: every index outside the stack of its time; a final depth that is missing, too small, or another
            than the list's.
    """
    if isinstance(position, str):
        if layers is None:
            raise BadInput(f"layers is missing; with position '{position}' it says how deep the model gets")
        check_deepens(depth, layers, least=0)
        rule = {"start": lambda n: 0, "end": lambda n: n, "middle": lambda n: (n + 1) // 2}[position]
        return [rule(n) for n in range(depth, layers)]
    wrong = [
        f"position {number} is index {index}, outside the stack, which has {depth + number - 1} layers then"
        for number, index in enumerate(position, 1)
        if index > depth + number - 1
    ]
    if not position:
        wrong.append("position is an empty list")
    if layers is not None and layers != depth + len(position):
        wrong.append(
            f"position lists {len(position)} insertions, but from {depth} to {layers} layers it takes {layers - depth}"
        )
    if wrong:
        raise BadInput(*wrong)
    return position
