"""Operator: widen FFNs."""

from __future__ import annotations

from typing import ClassVar, Literal

from pli_train.core.lineage import Lineage
from pli_train.growth.initial_shape import InitialShape
from pli_train.growth.operators.widening import WideningOperator


class WidenFFN(WideningOperator):
    """Add FFN units to layers until each has `to` of them."""

    operator: Literal["ffn"] = "ffn"

    what: ClassVar[str] = "units"

    def misfit(self, start: InitialShape) -> str | None:
        """Return why FFNs of this family cannot be widened, or None."""
        return "this family's parameter table has no FFN" if start.slots == 0 else None

    def record(self, lineage: Lineage, step: int) -> None:
        """Add the new width to `lineage`. Raises BadLineage when the event is impossible."""
        counts = self.targets(lineage)
        lineage.widen(counts, step, self.initializer, **self.facts)
