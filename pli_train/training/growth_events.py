"""Apply the growth events that are due at a step."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from pli_train.growth import grower
from pli_train.growth.schedules.adaptive import ready
from pli_train.optim.update_scaler import UpdateScaler

if TYPE_CHECKING:
    from pli_train.core.lineage import Event
    from pli_train.growth.schedule import ScheduledEvent
    from pli_train.training.run_plan import RunPlan
    from pli_train.training.state import TrainingState


class GrowthEvents:
    """Apply the growth events of a plan.

    Args:
        plan: of the run.
        state: of the run; its model, lineage and optimizer grow in place.

    Attributes:
        update_scaler: scales the updates of new parts and freezes old ones, according to the lineage.
    """

    def __init__(self, plan: RunPlan, state: TrainingState) -> None:
        self._plan, self._state = plan, state
        self._plateau = plan.config.growth.plateau()
        self.update_scaler = UpdateScaler(state.model.bare, state.anatomy, state.lineage)

    def due(self) -> list[ScheduledEvent]:
        """Return the events of this step that are not applied yet."""
        coming = self._plan.events[len(self._state.lineage.events) :]
        due = list(takewhile(lambda planned: planned.step == self._state.step, coming))
        if not due and coming and coming[0].event.when == "plateau" and self._is_flat():
            due = [coming[0]]
        return due

    def apply(self, planned: ScheduledEvent) -> Event:
        """Apply one event: grow the model, update the lineage and the optimizer state, and wrap the model again."""
        state = self._state
        self.update_scaler.release()
        model = state.model.unwrap()
        seed = self._plan.config.seed
        grower.apply_event(planned.event, state.step, model, state.anatomy, state.lineage, state.optimizer, seed)
        state.model.wrap(model)
        self.update_scaler = UpdateScaler(state.model.bare, state.anatomy, state.lineage)
        return state.lineage.events[-1]

    def _is_flat(self) -> bool:
        """Return whether the loss is on a plateau. It uses only the history, so a resumed run decides the same."""
        history = self._state.progress.history
        evaluations = [(int(e["step"]), e["flops"], e["eval_loss"]) for e in history if "eval_loss" in e]
        events = self._state.lineage.events
        since = events[-1].step if events else 0
        newest = evaluations[-1][0] if evaluations else -1
        return newest == self._state.step and ready(evaluations, since, self._plateau, self._plan.total_steps)
