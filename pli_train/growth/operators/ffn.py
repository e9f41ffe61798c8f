"""Operator: widen FFNs."""

from __future__ import annotations

from typing import ClassVar, Literal

from pli_train.core.lineage import Lineage
from pli_train.growth.initial_shape import InitialShape
from pli_train.growth.operators.widening import WideningOperator


class WidenFFN(WideningOperator):
    """Layers' FFNs get units until they have `to` of them."""

    operator: Literal["ffn"] = "ffn"

    what: ClassVar[str] = "units"

    def misfit(self, start: InitialShape) -> str | None:
        """A family without a table of its FFN cannot have it widened."""
        return "this family's table names no FFN" if start.slots == 0 else None

    def record(self, lineage: Lineage, step: int) -> None:
        """Write the new width into `lineage`. Raises BadLineage when it cannot be done."""
        counts = self.targets(lineage)
        lineage.widen(counts, step, self.initializer, **self.facts)
