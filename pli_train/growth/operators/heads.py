"""Operator: add attention heads, or whole K/V groups of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pli_train.core.lineage import Lineage
from pli_train.growth.initial_shape import InitialShape
from pli_train.growth.operators.widening import WideningOperator
from pli_train.models.config import MOST


class AddHeads(WideningOperator):
    """Add heads to layers until each has `to` of them."""

    operator: Literal["heads"] = "heads"
    to: int = Field(ge=1, le=MOST, description="number of heads of each layer after the event")

    what: ClassVar[str] = "heads"

    def misfit(self, start: InitialShape) -> str | None:
        """Return why layers of this family cannot have `to` heads, or None."""
        if start.slots == 0:
            return "this family's parameter table has no heads"
        if start.slots is not None and self.to > start.slots:
            return f"{self.to} heads do not fit: the model's config allows {start.slots}"
        if self.to % start.member:
            return f"{self.to} heads cannot be divided into K/V groups of {start.member}"
        return None

    def record(self, lineage: Lineage, step: int) -> None:
        """Add the new heads to `lineage`. Raises BadLineage when the event is impossible."""
        counts = self.targets(lineage)
        donors = {} if self.initializer == "random" else {id: self._donors(lineage, id) for id in counts}
        lineage.add_heads(counts, step, self.initializer, donors, **self.facts)

    def _donors(self, lineage: Lineage, id: str) -> list[str]:
        """Return the donor of each new head: the old heads in turn, so K/V groups are copied as a whole."""
        heads = list(lineage.layers[id].heads)
        return [heads[position % len(heads)] for position in range(self.to - len(heads))] if heads else []
