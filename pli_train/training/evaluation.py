"""Evaluate the loss on held-out blocks during a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pli_train.core.run_format import run_folder
from pli_train.data.held_out import HeldOut

if TYPE_CHECKING:
    from accelerate import Accelerator

    from pli_train.training.run_plan import RunPlan
    from pli_train.training.state import TrainingState


class Evaluator:
    """Evaluate the model of a run and append the losses to the run's history.

    Args:
        plan: of the run.
        accelerator: of the run.

    Attributes:
        held_out: the held-out blocks and the random sample of them.
    """

    def __init__(self, plan: RunPlan, accelerator: Accelerator) -> None:
        train = plan.config.train
        self.held_out = HeldOut(plan.corpus, train.block_size, train.eval_blocks, plan.objective, plan.config.seed)
        self._plan, self._accelerator = plan, accelerator

    def evaluate(self, state: TrainingState) -> dict[str, float]:
        """Evaluate on the sampled blocks.

        Returns:
            `eval/loss` in nats per prediction, its standard error, and, if the run swaps layers, the loss with two
            layers swapped.
        """
        loss = self.held_out.loss(*self._arguments(state))
        values = {run_folder.EVAL_LOSS: loss.value}
        entry = {"eval_loss": loss.value, "flops": float(state.progress.flops), "step": state.step}
        if math.isfinite(loss.error):
            values[run_folder.EVAL_LOSS_SE] = entry["eval_loss_se"] = loss.error
        state.progress.history.append(entry)
        if self._plan.swapping.on:
            with self._plan.swapping.pair_of(state.step, state.model.layers):
                values[run_folder.EVAL_LOSS_SWAPPED] = self.held_out.loss(*self._arguments(state)).value
        return values

    def after_event(self, state: TrainingState) -> dict[str, float]:
        """Evaluate right after growth, on the same blocks. The history does not include this loss."""
        return {run_folder.EVAL_LOSS_AFTER_EVENT: self.held_out.loss(*self._arguments(state)).value}

    def in_full(self, state: TrainingState) -> dict[str, float]:
        """Evaluate on all held-out blocks. Return {} if this exceeds the limit of `train.eval_full`."""
        plan = self._plan
        if self.held_out.count > plan.config.train.eval_full * plan.total_steps * plan.blocks_per_step:
            return {}
        loss, tokens = self.held_out.full_loss(*self._arguments(state))
        state.progress.history.append({"eval_loss_full": loss.value, "step": state.step})
        return {run_folder.EVAL_LOSS_FULL: loss.value, run_folder.EVAL_TOKENS_FULL: float(tokens)}

    def _arguments(self, state: TrainingState) -> tuple:
        return state.model.bare, self._accelerator, state.context, self._plan.config.train.batch_size
