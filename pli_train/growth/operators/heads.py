"""Operator: add attention heads, or whole K/V groups of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pli_train.core.lineage import Lineage
from pli_train.growth.initial_shape import InitialShape
from pli_train.growth.operators.widening import WideningOperator
from pli_train.models.config import MOST


class AddHeads(WideningOperator):
    """Layers get heads until they have `to` of them."""

    operator: Literal["heads"] = "heads"
    to: int = Field(ge=1, le=MOST, description="how many each layer has from then on")

    what: ClassVar[str] = "heads"

    def misfit(self, start: InitialShape) -> str | None:
        """The family decides how many heads fit, and how many share K and V."""
        if start.slots == 0:
            return "this family's table names no heads"
        if start.slots is not None and self.to > start.slots:
            return f"{self.to} heads do not fit: the model's config allows {start.slots}"
        if self.to % start.member:
            return f"{self.to} heads are no whole number of K/V groups of {start.member}"
        return None

    def record(self, lineage: Lineage, step: int) -> None:
        """Write the new heads into `lineage`. Raises BadLineage when it cannot be done."""
        counts = self.targets(lineage)
        donors = {} if self.initializer == "random" else {id: self._donors(lineage, id) for id in counts}
        lineage.add_heads(counts, step, self.initializer, donors, **self.facts)

    def _donors(self, lineage: Lineage, id: str) -> list[str]:
        """New heads copy the old ones in turn; with K/V groups that comes to whole groups in turn."""
        heads = list(lineage.layers[id].heads)
        return [heads[position % len(heads)] for position in range(self.to - len(heads))] if heads else []
