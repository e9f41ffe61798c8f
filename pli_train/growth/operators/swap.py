"""Operator: swap two layers permanently."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pli_train.core.lineage import Lineage
from pli_train.growth.initial_shape import InitialShape
from pli_train.growth.operators.base import Operator
from pli_train.optim.parameter_origin import ParameterOrigin

if TYPE_CHECKING:
    from torch import nn

    from pli_train.core.anatomy import Anatomy


class Swap(Operator):
    """Swap two layers permanently."""

    operator: Literal["swap"] = "swap"
    indices: tuple[int, int] = Field(description="indices of the two layers, 0 at the bottom")

    bears: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"{self.time} swap {self.indices[0]} {self.indices[1]}"

    def misfit(self, start: InitialShape) -> str | None:
        """Return why an index is impossible in this family, or None."""
        if min(self.indices) < start.first_index:
            return f"index {min(self.indices)} is reserved in this model family; use {start.first_index} or higher"
        return None

    def record(self, lineage: Lineage, step: int) -> None:
        """Add the swap to `lineage`. Raises BadLineage when the event is impossible."""
        lineage.swap(*self.indices, step, **self.policies)

    def grow(self, model: nn.Module, anatomy: Anatomy, lineage: Lineage, seed: int) -> list[ParameterOrigin]:
        """Swap the two layers of `model`."""
        from pli_train.models import build as models

        models.swap_in_stack(*self.indices, model, anatomy)
        return []

    def outcome(self, lineage: Lineage) -> str:
        """Return for example `a and b swapped`."""
        first, second = lineage.events[-1].facts["layer"].split()
        return f"{first} and {second} swapped"
