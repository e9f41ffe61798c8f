"""Base class of growth operators.

`record` adds the event to a lineage, which is enough to plan a schedule; `grow` changes a model. To add an operator,
write one file here and one line in `schedule.OPERATORS`.
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
    at: int | float | None = Field(None, description="time: a whole number of steps, or a fraction of training")
    when: Literal["plateau"] | None = Field(None, description="in place of `at`: when the loss reaches a plateau")
    optimizer_state: OptimizerState = Field("zero", description="moments of new parts zero or copied, or all reset")
    learning_rate: LearningRate = Field("none", description="how the learning rate changes after the event")
    rewarm_steps: int = Field(100, ge=1, description="rewarm, rewarm-new: number of warm-up steps")
    freeze_steps: int = Field(0, ge=0, description="steps after the event in which only new parts are trained")

    bears: ClassVar[bool] = True
    """Whether the operator adds layers, heads or FFN units."""

    @model_validator(mode="after")
    def _one_time(self) -> Operator:
        if (self.at is None) == (self.when is None):
            raise ValueError("give exactly one of `at` and `when`")
        if not self.bears and (self.freeze_steps or self.learning_rate == "rewarm-new"):
            raise ValueError(f"'{self.operator}' adds no parameters: remove `freeze_steps` and `rewarm-new`")
        if self.optimizer_state == "copy" and self.donorless:
            raise ValueError(f'`optimizer_state = "copy"` needs a donor, and {self.donorless} has none')
        return self

    @property
    def donorless(self) -> str:
        """Why the new parts have no donor; empty when they have one."""
        return ""

    @property
    def policies(self) -> dict[str, Any]:
        """Settings of optimizer and learning rate that the lineage records."""
        facts: dict[str, Any] = {"optimizer_state": self.optimizer_state, "learning_rate": self.learning_rate}
        if self.learning_rate in ("rewarm", "rewarm-new"):
            facts["rewarm_steps"] = self.rewarm_steps
        if self.freeze_steps:
            facts["freeze_steps"] = self.freeze_steps
        return facts

    def __str__(self) -> str:
        """Return a short description of the event, without its outcome."""
        return f"{self.time} {self.operator}"

    @property
    def time(self) -> str:
        """Time of the event as text: `0.25`, `500` or `plateau`."""
        return f"{self.at:.4g}" if isinstance(self.at, float) else str(self.when if self.at is None else self.at)

    def misfit(self, start: InitialShape) -> str | None:
        """Return why a model with this initial shape cannot have the event, or None if it can."""
        return None

    def record(self, lineage: Lineage, step: int) -> None:
        """Add the event to `lineage`. Raises BadLineage when the event is impossible."""
        raise NotImplementedError

    def grow(self, model: nn.Module, anatomy: Anatomy, lineage: Lineage, seed: int) -> list[ParameterOrigin]:
        """Apply the event to `model` and return the origin of each new parameter.

        Args:
            model: bare model, changed in place.
            anatomy: parameter table of its family.
            lineage: as it was before the event.
            seed: the only source of random numbers.
        """
        raise NotImplementedError

    def outcome(self, lineage: Lineage) -> str:
        """Return a short description of the result. `lineage` includes the event."""
        raise NotImplementedError
