"""Origin of each parameter of a grown model, used to update the optimizer's groups and state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

OptimizerState = Literal["zero", "copy", "reset-all"]


@dataclass(frozen=True)
class ParameterOrigin:
    """Origin of one parameter of a grown model.

    Attributes:
        new: the new parameter.
        old: the parameter whose group it joins; None when there is none.
        replaces: whether `new` replaces `old` in the model.
        carry: maps a moment of `old` to the shape of `new`, with zeros for new elements; None when all are new.
        copy: the same with the donors' moments for new elements; None when there is no donor.
        rows: when `old` gets new rows, the shape of a tensor with one value per row: that of `old` with 1 for every
            other axis. `carry` and `copy` accept this shape too.
    """

    new: nn.Parameter
    old: nn.Parameter | None
    replaces: bool = False
    carry: Callable[[Tensor], Tensor] | None = None
    copy: Callable[[Tensor], Tensor] | None = None
    rows: tuple[int, ...] | None = None
