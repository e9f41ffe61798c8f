"""Interleaving (Chang et al. 2018): insert copies above every layer, once.

From L to g·L layers, layer i of the new stack starts as layer i div g of the old one, so that each new layer is right
above its donor. Chang et al. grow residual networks this way, with g = 2; Du et al. 2024 (arXiv 2405.15319) compare it
with stacking.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pli_train.core.lineage import Lineage
from pli_train.growth.schedules.named import CopySchedule, Moment, When, check_deepens
from pli_train.models.config import MOST


class Interleave(CopySchedule):
    """Multiply the depth once, with each copy right above its donor."""

    cites: ClassVar[str] = "Chang et al. 2018, arXiv 1710.10348"

    name: Literal["interleave"] = "interleave"
    growth_factor: int = Field(2, ge=2, le=MOST, description="g: depth after growth ÷ depth before")
    at: When = Field(description="growth moment")

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """Return the one moment. Raises BadInput when there is no layer to copy."""
        check_deepens(depth, self.growth_factor * depth)
        origins = [i // self.growth_factor for i in range(self.growth_factor * depth)]
        return [Moment({"at": self.at}, self.grown(Lineage.begin(depth, heads=0), origins))]
