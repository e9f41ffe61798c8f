"""Operator: train on longer sequences (CompoundGrow, arXiv:2010.12562)."""

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


class Context(Operator):
    """Cut blocks into sequences of `to` tokens from now on. Tokens and their order do not change."""

    operator: Literal["context"] = "context"
    to: int = Field(ge=1, description="sequence length: tokens that attend to each other")

    bears: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"{self.time} context → {self.to}"

    def misfit(self, start: InitialShape) -> str | None:
        """Return why blocks cannot be cut into sequences of `to` tokens, or None."""
        if not start.cuttable:
            return "images cannot be cut into shorter blocks"
        if start.block_size is not None and start.block_size % self.to:
            return f"context {self.to} does not divide train.block_size, {start.block_size}"
        return None

    def record(self, lineage: Lineage, step: int) -> None:
        """Add the event to `lineage`."""
        lineage.note("context", step, to=self.to, **self.policies)

    def grow(self, model: nn.Module, anatomy: Anatomy, lineage: Lineage, seed: int) -> list[ParameterOrigin]:
        """Return no origins: the model does not change."""
        return []

    def outcome(self, lineage: Lineage) -> str:
        """Return `tokens`, printed after the number."""
        return "tokens"


def length(lineage: Lineage, block_size: int) -> int:
    """Return the current sequence length: that of the last context event, or else `block_size`."""
    lengths = [event.facts["to"] for event in lineage.events if event.operator == "context"]
    return lengths[-1] if lengths else block_size
