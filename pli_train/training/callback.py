"""Base class of callbacks, which observe a run without changing its loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pli_train.core.lineage import Event
    from pli_train.training.state import TrainingState

Logged = tuple[int, float | None, dict[str, float]]
"""Updates done, wall time in seconds since 1970 (None: now), values by tag."""


class Callback:
    """Methods that the trainer calls; override those you need.

        class StopWatch(Callback):
            def on_step_end(self, state):
                print(state.step, state.progress.seconds)

        pli_train.train(model="bert", steps=100, callbacks=[StopWatch()])

    A callback reads `state` and leaves it as it is, so that a run with it ends in the same weights as one without.
    """

    def on_train_begin(self, state: TrainingState, total_steps: int) -> None:
        """Training is about to start, or to resume, at `state.step`."""

    def on_gradients(self, state: TrainingState) -> Tensor | None:
        """Gradients are complete, and not clipped yet.

        Returns:
            Their global L2 norm if it was computed, a scalar tensor on the model's device: then clipping uses it.
        """
        return None

    def on_update(self, state: TrainingState) -> None:
        """The optimizer has updated the weights; gradients are still there and `state.step` is not counted up yet."""

    def on_step_end(self, state: TrainingState) -> None:
        """One step is done, and counted in `state.step`."""

    def to_log(self) -> Sequence[Logged]:
        """Return the values to log since the last call. The trainer calls this whenever it logs."""
        return ()

    def on_log(self, state: TrainingState, logged: Logged) -> None:
        """Values were logged: the trainer's own or a callback's."""

    def on_evaluate(self, state: TrainingState, values: dict[str, float]) -> None:
        """An evaluation is done; `values` are losses and standard errors by tag."""

    def on_growth(self, state: TrainingState, event: Event) -> None:
        """The model has grown; `event` is the newest one of the lineage."""

    def on_save(self, state: TrainingState) -> None:
        """A checkpoint is about to be copied to memory."""

    def on_checkpoint(self, state: TrainingState, path: Path) -> None:
        """A checkpoint was copied to memory; a thread writes it to `path`."""

    def on_train_end(self, state: TrainingState) -> None:
        """Training is over, or was stopped, or failed."""
