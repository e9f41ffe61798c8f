"""Base class of growth operators.

`record` writes the event into a lineage and is all that a rehearsal on paper needs; `grow` does it to a model. An
operator is one file here and one line in `schedule.OPERATORS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pli_train.core.lineage import Lineage
from pli_train.growth.initial_shape import InitialShape
from pli_train.optim.parameter_origin import OptimizerState, ParameterOrigin

if TYPE_CHECKING:
    from torch import nn

    from pli_train.core.anatomy import Anatomy

LearningRate = Literal["none", "rewarm", "rewarm-new", "rewind"]


class Operator(BaseModel):
    """A growth event of a schedule."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operator: str
    at: int | float | None = Field(None, description="when: a whole number of steps, or a fraction of training")
    when: Literal["plateau"] | None = Field(None, description="instead of `at`: when the loss has flattened")
    optimizer_state: OptimizerState = Field("zero", description="moments of what is newborn, or of everything")
    learning_rate: LearningRate = Field("none", description="what the event does to the learning rate")
    rewarm_steps: int = Field(100, ge=1, description="rewarm, rewarm-new: steps of the climb")
    freeze_steps: int = Field(0, ge=0, description="steps in which only newborn parts learn")

    bears: ClassVar[bool] = True
    """Whether parts are born of it."""

    @model_validator(mode="after")
    def _one_time(self) -> Operator:
        if (self.at is None) == (self.when is None):
            raise ValueError("give exactly one of `at` and `when`")
        if not self.bears and (self.freeze_steps or self.learning_rate == "rewarm-new"):
            raise ValueError(f"nothing is born of '{self.operator}' that `freeze_steps` or `rewarm-new` could speak of")
        if self.optimizer_state == "copy" and self.donorless:
            raise ValueError(f'`optimizer_state = "copy"` needs a donor, and {self.donorless} has none')
        return self

    @property
    def donorless(self) -> str:
        """What it is about this operator that leaves newborns without a donor; empty when they have one."""
        return ""

    @property
    def policies(self) -> dict[str, Any]:
        """What the lineage keeps of the choices around the event."""
        message: dict[str, Any] = {"optimizer_state": self.optimizer_state, "learning_rate": self.learning_rate}
        if self.learning_rate in ("rewarm", "rewarm-new"):
            message["rewarm_steps"] = self.rewarm_steps
        if self.freeze_steps:
            message["freeze_steps"] = self.freeze_steps
        return message

    def __str__(self) -> str:
        """The event in a few words, without its outcome."""
        return f"{self.time} {self.operator}"

    @property
    def time(self) -> str:
        """`0.25`, `500` or `plateau`."""
        return f"{self.at:.4g}" if isinstance(self.at, float) else str(self.when if self.at is None else self.at)

    def misfit(self, start: InitialShape) -> str | None:
        """Why the event cannot happen to a run that begins like this, or None."""
        return None

    def record(self, lineage: Lineage, step: int) -> None:
        """Write the event into `lineage`. Raises BadLineage when it cannot be done."""
        raise NotImplementedError

    def grow(self, model: nn.Module, anatomy: Anatomy, lineage: Lineage, seed: int) -> list[ParameterOrigin]:
        """Do it to `model`. `lineage` is the one before the event; random numbers come from `seed` alone."""
        raise NotImplementedError

    def outcome(self, lineage: Lineage) -> str:
        """What the event came to, in a few words. `lineage` is the one after it."""
        raise NotImplementedError
