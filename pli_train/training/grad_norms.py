"""Callback: log gradient norms by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_train.optim.grad_norms import GradNorms
from pli_train.training.callback import Callback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pli_train.config.schema import TrainConfig
    from pli_train.training.callback import Logged
    from pli_train.training.state import TrainingState


class GradientNorms(Callback):
    """Measure gradient norms by part every `train.grad_norms_every` steps. See `optim.grad_norms`."""

    def __init__(self, train: TrainConfig) -> None:
        self._train = train

    def on_train_begin(self, state: TrainingState, total_steps: int) -> None:
        """Prepare to measure the model."""
        train, model = self._train, state.model.bare
        groups, updates = train.grad_norm_groups, train.update_ratios
        self._norms = GradNorms(model, state.anatomy, state.lineage, train.grad_norms_every, groups, updates)

    def on_gradients(self, state: TrainingState) -> Tensor | None:
        """Measure the gradients if this step is due, and return the global norm."""
        return self._norms.measure(state.step)

    def on_update(self, state: TrainingState) -> None:
        """Measure the update if its gradients were measured."""
        self._norms.updated()

    def to_log(self) -> Sequence[Logged]:
        """Return what was measured since the last call."""
        return self._norms.read()
