"""The training loop of a model that grows.

Step s means that s optimizer updates are done; growth that is due at s is applied between update s and update s + 1.
Random numbers depend only on the run's seed and the step, so the loop has no random state to save. `launch` creates a
trainer; evaluation, growth and saving are objects that the loop calls; everything else is a callback.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.utils import set_seed

from pli_train.core import learning_rate
from pli_train.core.errors import PliError
from pli_train.core.randomness import derive
from pli_train.core.run_format import run_folder
from pli_train.data.objective import Batch, loss_sum
from pli_train.data.prefetch import BatchPrefetcher
from pli_train.optim import grad_norms, optimizer
from pli_train.training.growth_events import GrowthEvents
from pli_train.training.signals import StopSignal
from pli_train.training.step_log import StepLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    from pli_train.training.callback import Callback
    from pli_train.training.evaluation import Evaluator
    from pli_train.training.run_plan import RunPlan
    from pli_train.training.saving import Saver
    from pli_train.training.state import TrainingState


class Interrupted(PliError):
    """SIGINT or SIGTERM stopped the run after it saved a checkpoint."""

    exit_code = 130


class Trainer:
    """Train a run from its current state to its end.

    Args:
        plan: of the run.
        state: of the run.
        evaluator: evaluates the model.
        saver: saves checkpoints.
        accelerator: runs the model on its devices.
        callbacks: called in this order.
        say: called with one line when SIGINT or SIGTERM arrives.
    """

    def __init__(
        self,
        plan: RunPlan,
        state: TrainingState,
        evaluator: Evaluator,
        saver: Saver,
        accelerator: Accelerator,
        callbacks: Sequence[Callback] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.plan, self.state, self.evaluator, self.saver = plan, state, evaluator, saver
        self.accelerator, self.callbacks = accelerator, callbacks
        self._batches = BatchPrefetcher(plan.blocks, plan.objective, plan.blocks_per_step, plan.config.seed)
        self._growth = GrowthEvents(plan, state)
        self._log = StepLog(accelerator, plan, state.progress.tokens)
        self._stop = StopSignal(say)

    def run(self, until: int | None = None) -> Path:
        """Train to the end and return the last checkpoint's folder.

        Args:
            until: stop after this step if it is before the end: evaluate, and save a checkpoint from which the run
                resumes. Growth events of this step are not applied yet.

        Raises:
            Interrupted: after SIGINT or SIGTERM, when a checkpoint is written.
            PliError: when the loss is not finite, or a checkpoint cannot be written.
        """
        with self._stop:
            try:
                self.saver.open(self.state)
                self._call("on_train_begin", self.plan.total_steps)
                return self._loop(until)
            finally:
                self._batches.close()
                try:
                    self._call("on_train_end")
                finally:
                    self.saver.close()

    def _loop(self, until: int | None) -> Path:
        state, train, total_steps = self.state, self.plan.config.train, self.plan.total_steps
        pause = until if until is not None and until < total_steps else None
        last = None
        if not state.progress.history:
            self._report(self.evaluator.evaluate(state))
            due = bool(self._growth.due())
            if not due or pause == 0:  # growth saves a checkpoint before and after
                last = self._save(after=not due)
        if pause is None or state.step < pause:
            self._grow()
        while state.step < (total_steps if pause is None else pause):
            self._update()
            last = None
            ending = self._stop.asked or state.step == total_steps
            if state.step % train.log_every == 0 or ending:
                self._write_log()
            if state.step % train.eval_every == 0 or self._growth.due() or state.step in (pause, total_steps):
                self._report(self.evaluator.evaluate(state))
            due = bool(self._growth.due())  # after the evaluation, which may show a plateau
            if state.step == total_steps and not due:
                self._report(self.evaluator.in_full(state))
            if ending or state.step == pause or (self.plan.retention.due(state.step) and not due):
                last = self._save(after=not due)
            if self._stop.asked and state.step < total_steps:
                self.saver.wait()
                raise Interrupted(f"stopped at step {state.step}; resume with: pli-train resume {self.saver.folder}")
            if state.step != pause:
                self._grow()
        self.saver.wait()
        return last or self.saver.folder / str(run_folder.CheckpointName(state.step, not self._growth.due()))

    # --- one step --------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Do one optimizer update: `accumulation` batches on each device."""
        config, state, step = self.plan.config, self.state, self.state.step
        began = time.perf_counter()
        batch = self._batches.at(step, state.context)
        scaler = self._growth.update_scaler
        if scaler.hold(step):
            state.model.rewrap()
        state.model.wrapped.train()
        with self.plan.swapping.at(step, state.model.layers):
            loss = self._backward(batch)
        norms = [callback.on_gradients(state) for callback in self.callbacks]
        if config.train.clip_norm:
            norm = next((norm for norm in norms if norm is not None), None)
            grad_norms.clip(state.model.bare.parameters(), config.train.clip_norm, norm)
        rate = learning_rate.at_step(step, self.plan.total_steps, config.optim, state.lineage.events)
        optimizer.set_lr(state.optimizer, rate)
        updates = scaler.before(state.optimizer, step)
        state.optimizer.step()
        scaler.after(updates)
        self._call("on_update")
        state.optimizer.zero_grad(set_to_none=True)
        self._count(batch, time.perf_counter() - began)
        self._log.add(state.step, loss)
        self._call("on_step_end")

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Compute gradients of the mean loss over all targets of the step. Return this rank's part of the mean."""
        accelerator, train, step = self.accelerator, self.plan.config.train, self.state.step
        model = self.state.model.wrapped
        # DDP averages gradients over ranks; this factor turns the average into the sum.
        scale = accelerator.num_processes / max(batch.targets, 1)
        total = torch.zeros((), device=accelerator.device)
        set_seed(derive(self.plan.config.seed, "dropout", step, accelerator.process_index) % 2**32)
        size = len(batch.inputs) // accelerator.num_processes // train.accumulation
        for part in range(train.accumulation):
            start = (accelerator.process_index * train.accumulation + part) * size
            mine = batch.rows(start, start + size, accelerator.device)
            is_last = part == train.accumulation - 1
            with nullcontext() if is_last else accelerator.no_sync(model):
                loss = loss_sum(model, mine) * scale
                accelerator.backward(loss)
            total += loss.detach()
        return total

    def _count(self, batch: Batch, seconds: float) -> None:
        """Count a step's tokens, FLOPs and seconds."""
        state, progress = self.state, self.state.progress
        tokens = len(batch.inputs) * state.context
        progress.step += 1
        progress.tokens += tokens
        progress.flops += tokens * self.plan.size.flops_per_token(state.lineage.shapes(), state.context)
        progress.seconds += seconds

    # --- between steps ---------------------------------------------------------------------------------------------

    def _grow(self) -> None:
        """Apply all events of this step, with a checkpoint right before and right after."""
        due = self._growth.due()
        if not due:
            return
        self._save(after=False)
        for planned in due:
            self._call("on_growth", self._growth.apply(planned))
        if self.state.step:  # before training there is no loss that growth could change
            self._report(self.evaluator.after_event(self.state))
        self._save()

    def _report(self, values: dict[str, float]) -> None:
        """Pass the values of an evaluation to the callbacks."""
        if values:
            self._call("on_evaluate", values)
        self._log.restart_clock(self.state.progress.tokens)

    def _save(self, after: bool = True) -> Path:
        """Save a checkpoint of this step."""
        self._write_log()
        self._call("on_save")
        path = self.saver.save(self.state, after)
        self._log.restart_clock(self.state.progress.tokens)
        self._call("on_checkpoint", path)
        return path

    def _write_log(self) -> None:
        """Log the losses since the last call, the values of callbacks, and the summary of the run."""
        state, last = self.state, None
        for logged in self._log.losses(state):
            self._call("on_log", logged)
            last = logged[2][run_folder.LOSS]
        if last is None:
            return
        for callback in self.callbacks:
            for logged in callback.to_log():
                self._call("on_log", logged)
        values = self._log.summary(state, self._growth.update_scaler)
        state.progress.history.append({"loss": last, "learning_rate": values[run_folder.LR], "step": state.step})
        self._call("on_log", (state.step, None, values))

    def _call(self, method: str, *arguments: object) -> None:
        for callback in self.callbacks:
            getattr(callback, method)(self.state, *arguments)
