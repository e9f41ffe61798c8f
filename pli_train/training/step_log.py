"""Log losses, learning rates, model size and throughput every few steps."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import torch

from pli_train.core.errors import PliError
from pli_train.core.run_format import run_folder
from pli_train.optim import optimizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator

    from pli_train.optim.update_scaler import UpdateScaler
    from pli_train.training.callback import Logged
    from pli_train.training.run_plan import RunPlan
    from pli_train.training.state import TrainingState


class StepLog:
    """Collect losses on the device until they are logged, so that the host waits for the device only then.

    Args:
        accelerator: of the run.
        plan: of the run.
        tokens: training tokens so far.
    """

    def __init__(self, accelerator: Accelerator, plan: RunPlan, tokens: int) -> None:
        self._accelerator, self._plan = accelerator, plan
        self._losses: list[tuple[int, float, torch.Tensor]] = []
        self.restart_clock(tokens)

    def restart_clock(self, tokens: int) -> None:
        """Measure throughput from now on, so that evaluations and checkpoints are excluded."""
        self._since = time.perf_counter(), tokens

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Store the loss of a step: this process's part of the mean over all targets."""
        self._losses.append((step, time.time(), loss))

    def losses(self, state: TrainingState) -> Iterator[Logged]:
        """Yield the stored losses, in nats per prediction, and remove them.

        Raises:
            PliError: when a loss is not finite, after yielding it.
        """
        kept, self._losses = self._losses, []
        if not kept:
            return
        began = time.perf_counter()
        losses = self._accelerator.reduce(torch.stack([loss for *_, loss in kept]), "mean").tolist()
        state.progress.seconds += time.perf_counter() - began
        for (step, wall_time, _), loss in zip(kept, losses, strict=True):
            yield step, wall_time, {run_folder.LOSS: loss, **self._plan.swapping.scalars(step, len(state.model.layers))}
            if not math.isfinite(loss):
                raise PliError(_not_finite(state, step, loss))

    def summary(self, state: TrainingState, scaler: UpdateScaler) -> dict[str, float]:
        """Return learning rates, model size, throughput, and tokens, FLOPs and seconds so far."""
        progress, layers = state.progress, state.model.layers
        began, tokens = self._since
        throughput = (progress.tokens - tokens) / max(time.perf_counter() - began, 1e-9)
        self.restart_clock(progress.tokens)
        rates = optimizer.lr_of_layers(state.optimizer, list(layers), state.lineage.stack)
        rates = {id: rate * scaler.of_layer(id, state.step - 1) for id, rate in rates.items()}
        shapes = state.lineage.shapes()
        return {
            run_folder.LR: state.optimizer.param_groups[0]["lr"],
            **{run_folder.LR_OF_LAYER + id: rate for id, rate in rates.items()},
            run_folder.LAYERS: len(layers),
            run_folder.PARAMETERS: self._plan.size.parameters(shapes),
            run_folder.HEADS: sum(heads for heads, _ in shapes),
            run_folder.CONTEXT: state.context,
            run_folder.TOKENS: progress.tokens,
            run_folder.FLOPS: progress.flops,
            run_folder.SECONDS: progress.seconds,
            run_folder.TOKENS_PER_SECOND: throughput,
        }


def _not_finite(state: TrainingState, step: int, loss: float) -> str:
    earlier = [event for event in state.lineage.events if event.step < step]
    where = f"after growth event {earlier[-1].number} (step {earlier[-1].step})" if earlier else "before any growth"
    return (
        f"the loss is {loss} at step {step}, {where}; the checkpoints of earlier steps are kept. "
        "A lower optim.lr or a longer optim.warmup_ratio may help"
    )
