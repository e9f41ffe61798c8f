"""Widen the FFNs of layers that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pli_train.growth.operator import Descent
from pli_train.growth.parts import MoreParts
from pli_train.growth.start import Start
from pli_train.lineage import Lineage
from pli_train.randomness import derive

if TYPE_CHECKING:
    from torch import nn

    from pli_train.anatomy import Anatomy


class WidenFFN(MoreParts):
    """Layers' FFNs get units until they have `to` of them."""

    operator: Literal["ffn"] = "ffn"

    def misfit(self, start: Start) -> str | None:
        """A family without a table of its FFN cannot have it widened."""
        return "this family's table names no FFN" if start.slots == 0 else None

    def record(self, lineage: Lineage, step: int) -> None:
        """Write the new width into `lineage`. Raises BadLineage when it cannot be done."""
        counts = self.targets(lineage, {id: lineage.shape(id)[1] for id in lineage.stack})
        lineage.widen(counts, step, self.initialiser, **self.facts)

    def grow(self, model: nn.Module, anatomy: Anatomy, lineage: Lineage, seed: int) -> list[Descent]:
        """Give the FFNs their units."""
        from pli_train import model as models

        layers, descents = models.stack_of(model, anatomy), []
        for id in self.targets(lineage, {id: lineage.shape(id)[1] for id in lineage.stack}):
            layer, own = layers[lineage.index(id)], derive(seed, id)
            descents += self.enlarge(layer, model, anatomy, "units", own)
        models.settle(model, anatomy)
        return descents

    def outcome(self, lineage: Lineage) -> str:
        """`a b: clone, output zero`."""
        return f"{lineage.events[-1].facts['layer']}: {self.initialiser}, output {self.output}"
