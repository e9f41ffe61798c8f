"""Progressive layer increase (PLI): insert one layer at a time, evenly spaced.

N insertions are done at fractions first + (last − first)·i/(N − 1) of training, i = 0 … N−1. Positions are a rule or a
list; from one layer, the list 1 1 2 2 2 3 3 3 4 with first 0.1 and last 0.9 is `0.1@1 0.2@1 0.3@2 … 0.9@4` and results
in the stack `a c f i j h g e d b`. The config sets how new layers are initialized.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pli_train.growth.schedules.named import Moment, NamedSchedule, Share, evenly
from pli_train.growth.schedules.position import Position, indices
from pli_train.models.config import MOST


class Pli(NamedSchedule):
    """Insert one layer at each of several evenly spaced moments."""

    cites: ClassVar[str] = "progressive layer increase (PLI)"

    name: Literal["pli"] = "pli"
    layers: int | None = Field(None, ge=1, le=MOST, description="final depth; optional if positions are listed")
    position: Position = Field("middle", description="start (bottom), end (top), middle, or the indices")
    first: Share = Field(0.1, description="fraction of training at the first insertion")
    last: Share = Field(0.9, description="fraction of training at the last insertion")

    @model_validator(mode="after")
    def _in_order(self) -> Pli:
        if self.last < self.first:
            raise ValueError("`last` comes before `first`")
        return self

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """Return one insertion per moment. Raises BadInput when positions and depths disagree."""
        locations = indices(self.position, depth, self.layers)
        times = evenly(self.first, self.last, len(locations))
        return [
            Moment({"at": at}, [{"operator": "insert", "index": index}])
            for at, index in zip(times, locations, strict=True)
        ]
