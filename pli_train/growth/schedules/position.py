"""Indices of layers that are inserted one at a time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pli_train.core.errors import BadInput
from pli_train.growth.schedules.named import check_deepens

Position = Literal["start", "end", "middle"] | list[Annotated[int, Field(ge=0)]]
"""Rule for the index of each insertion, or the indices themselves."""


def indices(position: Position, depth: int, layers: int | None) -> list[int]:
    """Return the index of each insertion from `depth` to `layers` layers.

    In a stack of n layers, `start` inserts at 0 (the bottom), `end` at n (the top), `middle` at ⌈n/2⌉. A list has one
    index per insertion, and `layers` may then be None.

    >>> indices("middle", depth=1, layers=7)
    [1, 1, 2, 2, 3, 3]

    Raises:
        BadInput: when an index is outside the stack at that time, or the final depth is missing, too small, or
            different from that of the list.
    """
    if isinstance(position, str):
        if layers is None:
            raise BadInput(f"layers is missing; position '{position}' needs the final depth")
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
            f"position lists {len(position)} insertions, but from {depth} to {layers} layers it needs {layers - depth}"
        )
    if wrong:
        raise BadInput(*wrong)
    return position
