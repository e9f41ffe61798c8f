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
    """Blocks are cut into pieces of `to` tokens from then on; the tokens and their order stay."""

    operator: Literal["context"] = "context"
    to: int = Field(ge=1, description="tokens that see each other")

    bears: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"{self.time} context → {self.to}"

    def misfit(self, start: InitialShape) -> str | None:
        """Blocks are cut into whole pieces."""
        if not start.cuttable:
            return "images cannot be cut into shorter blocks"
        if start.block_size is not None and start.block_size % self.to:
            return f"context {self.to} does not divide train.block_size, {start.block_size}"
        return None

    def record(self, lineage: Lineage, step: int) -> None:
        """Write it into `lineage`."""
        lineage.note("context", step, to=self.to, **self.policies)

    def grow(self, model: nn.Module, anatomy: Anatomy, lineage: Lineage, seed: int) -> list[ParameterOrigin]:
        """The model stays as it is."""
        return []

    def outcome(self, lineage: Lineage) -> str:
        """`tokens`: the number stands before it."""
        return "tokens"


def length(lineage: Lineage, block_size: int) -> int:
    """Tokens that see each other now: what the last such event says, else the whole block."""
    message = [event.facts["to"] for event in lineage.events if event.operator == "context"]
    return message[-1] if message else block_size
