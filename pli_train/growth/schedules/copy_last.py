"""Gradual stacking (Reddi et al. 2023): insert copies of the top layer on top.

A stack of L layers becomes one of L+m, whose layer i starts as layer min(i, L−1) of the old one. Growth moments are
evenly spaced, as in `pli`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.growth.schedules.named import CopySchedule, Moment, Share, check_deepens, evenly
from pli_train.models.config import MOST


class CopyLast(CopySchedule):
    """Insert copies of the top layer on top, a few layers at a time."""

    cites: ClassVar[str] = "Reddi et al. 2023, proceedings.mlr.press/v202/j-reddi23a"

    name: Literal["copy-last"] = "copy-last"
    layers: int = Field(ge=2, le=MOST, description="final depth")
    layers_per_moment: int = Field(1, ge=1, le=MOST, description="m: copies of the top layer at each growth moment")
    first: Share = Field(0.1, description="fraction of training at the first growth moment")
    last: Share = Field(0.9, description="fraction of training at the last growth moment")

    @model_validator(mode="after")
    def _in_order(self) -> CopyLast:
        if self.last < self.first:
            raise ValueError("`last` comes before `first`")
        return self

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """Return the same number of layers at each moment. Raises BadInput when they cannot be divided evenly."""
        check_deepens(depth, self.layers)
        count, rest = divmod(self.layers - depth, self.layers_per_moment)
        if rest:
            raise BadInput(
                f"from {depth} to {self.layers} layers is no multiple of layers_per_moment, {self.layers_per_moment}"
            )
        lineage = Lineage.begin(depth, heads=0)
        moments = []
        for at in evenly(self.first, self.last, count):
            top = len(lineage.stack) - 1
            origins = [*range(top), *[top] * (1 + self.layers_per_moment)]
            moments.append(Moment({"at": at}, self.grown(lineage, origins)))
        return moments
