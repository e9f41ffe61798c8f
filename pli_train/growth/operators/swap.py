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
    """One permanent swap of a schedule."""

    operator: Literal["swap"] = "swap"
    indices: tuple[int, int] = Field(description="the two places, 0 at the bottom")

    bears: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"{self.time} swap {self.indices[0]} {self.indices[1]}"

    def misfit(self, start: InitialShape) -> str | None:
        """Families fix some places."""
        if min(self.indices) < start.first_index:
            return f"index {min(self.indices)} is taken for good in this family: use {start.first_index} or higher"
        return None

    def record(self, lineage: Lineage, step: int) -> None:
        """Write the swap into `lineage`. Raises BadLineage when it cannot be done."""
        lineage.swap(*self.indices, step, **self.policies)

    def grow(self, model: nn.Module, anatomy: Anatomy, lineage: Lineage, seed: int) -> list[ParameterOrigin]:
        """Swap the two."""
        from pli_train.models import build as models

        models.swap_in_stack(*self.indices, model, anatomy)
        return []

    def outcome(self, lineage: Lineage) -> str:
        """`a and b change places`."""
        first, second = lineage.events[-1].facts["layer"].split()
        return f"{first} and {second} change places"
