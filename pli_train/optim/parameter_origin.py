"""Where each parameter of a grown model comes from, for the optimizer's groups and state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

OptimizerState = Literal["zero", "copy", "reset-all"]


@dataclass(frozen=True)
class ParameterOrigin:
    """Where a parameter of the grown model comes from, for an optimizer's groups and moments.

    Attributes:
        new: the parameter.
        old: the one whose group it joins; None when there was none like it.
        replaces: whether `old` is gone and `new` stands for it.
        carry: lays a moment of `old`'s shape out for `new`, zero for newborn elements; None when all are newborn.
        copy: the same with a newborn element's donor's moment; None when there is no donor.
        rows: where rows are born inside `old`, the shape of a tensor with one number for each of its rows: that of
            `old`, with 1 for every other axis. `carry` and `copy` lay it out too.
    """

    new: nn.Parameter
    old: nn.Parameter | None
    replaces: bool = False
    carry: Callable[[Tensor], Tensor] | None = None
    copy: Callable[[Tensor], Tensor] | None = None
    rows: tuple[int, ...] | None = None
