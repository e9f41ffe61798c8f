"""Configuration section `[growth]`, with `[growth.swapping]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, ValidationError

from pli_train.core.errors import BadInput
from pli_train.growth import schedule as growth_schedule
from pli_train.growth import schedules
from pli_train.growth.initial_shape import InitialShape
from pli_train.growth.operators.base import LearningRate, Operator
from pli_train.growth.operators.insert import Initializer, Insert
from pli_train.growth.operators.widening import Output, PartInitializer, WideningOperator
from pli_train.optim.parameter_origin import OptimizerState
from pli_train.section import Section, lines_of

if TYPE_CHECKING:
    from pli_train.growth.schedules.adaptive import Adaptive
    from pli_train.growth.schedules.named import NamedSchedule

Share = Annotated[float, Field(ge=0, le=1)]


class SwappingConfig(Section):
    """Swap two layers for a single step, as a regularizer."""

    probability: Share = Field(0.0, description="probability that a step runs with two layers swapped")
    pairs: Literal["adjacent", "random"] = Field("adjacent", description="which two layers are swapped")
    anneal: Literal["constant", "linear", "cosine"] = Field("constant", description="how the probability falls to 0")


class GrowthConfig(Section):
    """When and how the model grows. Events take the fields that they leave out from here."""

    schedule: str | list[dict[str, Any]] | dict[str, Any] = Field(
        "", description='`0.1@1 0.2@1`, [[growth.schedule]] tables, or { name = "stackbert", … }'
    )
    initializer: Initializer = Field("clone", description="how the weights of a new layer are initialized")
    donor: str = Field("below", description="layer that a new layer is cloned from: `below`, `above`, or a layer id")
    noise: float = Field(0.0, ge=0, description="clone-noise: standard deviation ÷ that of each weight matrix")
    part_initializer: PartInitializer = Field("clone", description="how new heads and FFN units are initialized")
    part_output: Output = Field("zero", description="output columns of new heads and units")
    optimizer_state: OptimizerState = Field("zero", description="moments of new parts zero or copied, or all reset")
    learning_rate: LearningRate = Field("none", description="how the learning rate changes after an event")
    rewarm_steps: int = Field(100, ge=1, description="rewarm, rewarm-new: number of warm-up steps")
    freeze_steps: int = Field(0, ge=0, description="steps after an event in which only new parts are trained")
    events_kept: int | None = Field(None, ge=0, description="number of events to apply (default: all)")
    swapping: SwappingConfig = SwappingConfig()

    def events(self, start: InitialShape, total_steps: int | None = None) -> list[Operator]:
        """Return the first `events_kept` events of the schedule, in the order written.

        Args:
            start: shape of the model at step 0, as far as it is known.
            total_steps: optimizer updates of the whole training; None when not known.

        Raises:
            BadInput: with one line for each invalid event.
        """
        if isinstance(self.schedule, str):
            tables: Sequence[dict[str, Any]] = growth_schedule.parse_short(self.schedule)
        elif isinstance(self.schedule, dict):
            tables = self._named(self.schedule).events(start.depth, start.heads or None, start.units, total_steps)
        else:
            tables = self.schedule
        try:
            return growth_schedule.read(tables, self._defaults)[: self.events_kept]
        except growth_schedule.Unreadable as error:
            wrong = list(error.wrong)
            for number, operator, mistakes in error.mistakes:
                wrong += lines_of(mistakes, operator, prefix=f"growth.schedule event {number}: ")
            raise BadInput(*wrong) from None

    def plateau(self) -> Adaptive:
        """Return the settings that define a plateau, for events that wait for one."""
        table = self.schedule if isinstance(self.schedule, dict) else {}
        return cast("Adaptive", schedules.read(table if table.get("name") == "adaptive" else {"name": "adaptive"}))

    def named(self) -> NamedSchedule | None:
        """Return the named schedule, or None if events are listed. Raises BadInput when its table is invalid."""
        return self._named(self.schedule) if isinstance(self.schedule, dict) else None

    @staticmethod
    def _named(table: dict[str, Any]) -> NamedSchedule:
        try:
            return schedules.read(table)
        except ValidationError as error:
            raise BadInput(*lines_of(error, schedules.schedule_of(table["name"]), "growth.schedule: ")) from None

    def _defaults(self, operator: type[Operator]) -> dict[str, Any]:
        """Return the values of the fields that events of an operator leave out."""
        facts: dict[str, Any] = {"optimizer_state": self.optimizer_state, "rewarm_steps": self.rewarm_steps}
        if not operator.bears:
            still = self.learning_rate == "rewarm-new"
            return facts | {"learning_rate": "none" if still else self.learning_rate}
        facts |= {"learning_rate": self.learning_rate, "freeze_steps": self.freeze_steps}
        if issubclass(operator, Insert):
            return facts | {"initializer": self.initializer, "donor": self.donor, "noise": self.noise}
        if issubclass(operator, WideningOperator):
            return facts | {"initializer": self.part_initializer, "output": self.part_output, "noise": self.noise}
        return facts
