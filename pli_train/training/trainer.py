"""The training loop: a model that grows while it learns.

`launch` puts the pieces together, `Trainer.run` is the loop. Step s means that s optimizer updates are done; growth due
at s happens between update s and update s + 1. Everything random is a function of the run's seed and the step, so the
loop carries no random state.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from pli_train.checkpointing import disk
from pli_train.checkpointing.lock import Lock
from pli_train.checkpointing.retention import Retention
from pli_train.checkpointing.trainer_state import Progress
from pli_train.checkpointing.writer import Writer
from pli_train.core import learning_rate
from pli_train.core.errors import PliError
from pli_train.core.lineage import Lineage
from pli_train.core.randomness import derive
from pli_train.core.run_format import run_folder
from pli_train.data.blocks import Blocks
from pli_train.data.held_out import HeldOut
from pli_train.data.objective import Batch, Objective, loss_sum
from pli_train.data.prefetch import Batches
from pli_train.growth import grower
from pli_train.growth import schedule as growth_schedule
from pli_train.growth.initial_shape import Start, start_of
from pli_train.growth.operators.context import length as context_length
from pli_train.growth.schedules.adaptive import ready
from pli_train.growth.swap_regularizer import Swapping
from pli_train.models import build as models
from pli_train.models import flops, kernels
from pli_train.optim import grad_norms, optimizer
from pli_train.optim.update_scaler import Paces
from pli_train.training import allocator
from pli_train.training.progress import Silent
from pli_train.training.signals import Stop
from pli_train.training.tensorboard import Scalars

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pli_train.checkpointing.disk import DiskUse
    from pli_train.config.schema import RunConfig
    from pli_train.core.anatomy import Anatomy
    from pli_train.data.sources.digits import Images
    from pli_train.data.tokenization import Tokens


class Interrupted(PliError):
    """The user, or the system, asked the run to stop. It has checkpointed."""

    exit_code = 130


def make_accelerator(config: RunConfig) -> Accelerator:
    """Devices and precision: bf16 on a GPU unless told otherwise."""
    wanted = config.train.precision
    bf16 = wanted == "bf16" or (wanted == "auto" and torch.cuda.is_available())
    made = Accelerator(mixed_precision="bf16" if bf16 else "no")
    if made.device.type == "cpu":
        allocator.keep()
    if config.train.compile:
        kernels.require_compiler(made.device)
    return made


def start_of_run(config: RunConfig, text: Tokens | Images) -> tuple[Start, flops.Size]:
    """What the run begins with, and the size of its model at any shape."""
    depth, skeleton, anatomy = models.skeleton(config.model, text.vocabulary, config.train.block_size)
    start = start_of(skeleton, anatomy, depth, config.model.initial_heads, config.train.block_size)
    return start, flops.measure(skeleton, anatomy)


class Trainer:
    """One run, from where it stands to its end."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        text: Tokens | Images,
        model: PreTrainedModel,
        anatomy: Anatomy,
        lineage: Lineage,
        progress: Progress,
        show: Silent,
    ) -> None:
        train, accelerator = config.train, make_accelerator(config)
        self.config, self.folder, self.accelerator, self.show = config, folder, accelerator, show
        self.anatomy, self.lineage, self.progress = anatomy, lineage, progress
        text.check(anatomy.task, model.config)
        self.blocks = Blocks(text.train, train.block_size, derive(config.seed, "order"), "training text")
        self.objective = Objective(anatomy.task, text.tokenizer, train.mlm_probability)
        self.held_out = HeldOut(text, train.block_size, train.eval_blocks, self.objective, config.seed)
        self.rank_blocks = train.batch_size * train.accumulation
        self.step_blocks = self.rank_blocks * accelerator.num_processes
        self.batches = Batches(self.blocks, self.objective, self.step_blocks, config.seed)
        self.total_steps = train.steps or max(1, math.ceil((train.epochs or 0) * self.blocks.count / self.step_blocks))
        self.start, self.size = start_of_run(config, text)
        events = config.growth.events(self.start, self.total_steps)
        self.planned = growth_schedule.plan(events, self.start, self.total_steps)
        self.plateau = config.growth.plateau()
        self.swapping = Swapping(config.growth.swapping, config.seed, self.total_steps, anatomy.first_index)
        self.retention = Retention(**config.checkpoint.model_dump(), total_steps=self.total_steps)
        self.writer = Writer(folder, self.retention)
        self.scalars = Scalars(None)
        self.lock: Lock | None = None
        self.at: run_folder.CheckpointName | None = None
        self.model = self._wrapped(model)
        self.optimizer = optimizer.build(self.bare, config.optim)
        self.paces = Paces(self.bare, anatomy, lineage)
        self.norms = grad_norms.GradNorms(
            self.bare, anatomy, lineage, train.grad_norms_every, train.grad_norm_groups, train.update_ratios
        )
        self._losses: list[tuple[int, float, torch.Tensor]] = []
        self._mark = (time.perf_counter(), progress.tokens)
        self.stop = Stop(show.say)

    def disk_use(self) -> DiskUse:
        """What this run's checkpoints from here on will take."""
        stages = disk.stages(self.size, self.start.lineage(), self.planned)
        return disk.use(self.retention, stages, after=self.at)

    @property
    def bare(self) -> PreTrainedModel:
        """The model without what accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def context(self) -> int:
        """Tokens that see each other now."""
        return context_length(self.lineage, self.config.train.block_size)

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The stack."""
        return models.stack_of(self.bare, self.anatomy)

    def moved_to(self, folder: Path) -> None:
        """Go on in a folder that the run's has been renamed to."""
        self.folder = self.writer.run = folder

    def run(self) -> Path:
        """Train to the end and return the last checkpoint.

        Raises:
            Interrupted: after SIGINT or SIGTERM, once a checkpoint is written.
            PliError: when the loss is no longer a finite number, or a checkpoint cannot be written.
        """
        with self.stop:
            try:
                self._open()
                self.show.begin(self.progress.step, self.total_steps)
                return self._loop()
            finally:
                self.show.end()
                self.batches.close()
                self.writer.settle()
                self.scalars.close()
                if self.lock is not None:
                    self.lock.release()

    def _open(self) -> None:
        """Start writing scalars from the step that comes next, and clear what a killed process left half done."""
        if self.accelerator.is_main_process:
            self.writer.open(self.lineage, self.at)
            if self.config.tracking.tensorboard:
                fresh = not self.progress.history
                self.scalars = Scalars(self.folder, from_step=0 if fresh else self.progress.step + 1)
                if fresh:
                    self.scalars.hparams(self.config.model_dump())
        self.accelerator.wait_for_everyone()

    def _loop(self) -> Path:
        progress = self.progress
        last = None
        if not progress.history:
            self._evaluate(run_folder.EVAL_LOSS)
            if not self._due():  # growth saves before and after itself
                last = self._save()
        self._grow()
        while progress.step < self.total_steps:
            self._update()
            last = None
            ending = self.stop.asked or progress.step == self.total_steps
            if progress.step % self.config.train.log_every == 0 or ending:
                self._log()
            if progress.step % self.config.train.eval_every == 0 or self._due() or progress.step == self.total_steps:
                self._evaluate(run_folder.EVAL_LOSS)
            due = bool(self._due())
            if progress.step == self.total_steps and not due:
                self._evaluate_in_full()
            if ending or (self.retention.due(progress.step) and not due):
                last = self._save(after=not due)
            if self.stop.asked and progress.step < self.total_steps:
                self.writer.wait()
                raise Interrupted(f"stopped at step {progress.step}; go on with: pli-train resume {self.folder}")
            self._grow()
        self.writer.wait()
        return last or self.folder / str(run_folder.CheckpointName(progress.step))

    # --- one step --------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        """One optimizer update: `accumulation` batches on each device."""
        config, step = self.config, self.progress.step
        began = time.perf_counter()
        batch = self.batches.at(step, self.context)
        if self.paces.hold(step):
            self._rewrap()
        self.model.train()
        with self.swapping.at(step, self.layers):
            total = self._backward(batch)
        norm = self.norms.measure(step)
        if config.train.clip_norm:
            grad_norms.clip(self.bare.parameters(), config.train.clip_norm, norm)
        rate = learning_rate.at_step(step, self.total_steps, config.optim, self.lineage.events)
        optimizer.set_lr(self.optimizer, rate)
        updates = self.paces.before(self.optimizer, step)
        self.optimizer.step()
        self.paces.after(updates)
        self.norms.updated()
        self.optimizer.zero_grad(set_to_none=True)

        self.progress.step += 1
        tokens = len(batch.inputs) * self.context
        self.progress.tokens += tokens
        self.progress.flops += tokens * self.size.flops_per_token(self.lineage.shapes(), self.context)
        self.progress.seconds += time.perf_counter() - began
        self._losses.append((self.progress.step, time.time(), total))

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Gradients of the mean over the targets of the whole step; returns this rank's part of it."""
        accelerator, train, step = self.accelerator, self.config.train, self.progress.step
        # DDP averages over ranks, which this takes back.
        scale = accelerator.num_processes / max(batch.targets, 1)
        total = torch.zeros((), device=accelerator.device)
        set_seed(derive(self.config.seed, "dropout", step, accelerator.process_index) % 2**32)
        size = len(batch.inputs) // accelerator.num_processes // train.accumulation
        for part in range(train.accumulation):
            start = (accelerator.process_index * train.accumulation + part) * size
            mine = batch.rows(start, start + size, accelerator.device)
            last = part == train.accumulation - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                loss = loss_sum(self.model, mine) * scale
                accelerator.backward(loss)
            total += loss.detach()
        return total

    def _log(self) -> None:
        """Write the losses since the last time, and where the run stands. The only wait for the device."""
        progress = self.progress
        if not self._losses:
            return
        began = time.perf_counter()
        losses = self.accelerator.reduce(torch.stack([loss for *_, loss in self._losses]), "mean").tolist()
        progress.seconds += time.perf_counter() - began
        for (step, wall_time, _), loss in zip(self._losses, losses, strict=True):
            self.scalars.add(step, {run_folder.LOSS: loss, **self.swapping.scalars(step, len(self.layers))}, wall_time)
            if not math.isfinite(loss):
                raise PliError(self._not_finite(step, loss))
        self._losses.clear()
        for step, wall_time, norms in self.norms.read():
            self.scalars.add(step, norms, wall_time)
        now, seen = self._mark
        rate = (progress.tokens - seen) / max(time.perf_counter() - now, 1e-9)
        self._mark = (time.perf_counter(), progress.tokens)
        rates = optimizer.lr_of_layers(self.optimizer, list(self.layers), self.lineage.stack)
        rates = {id: rate * self.paces.of_layer(id, progress.step - 1) for id, rate in rates.items()}
        lr = self.optimizer.param_groups[0]["lr"]
        self.scalars.add(
            progress.step,
            {
                run_folder.LR: lr,
                **{run_folder.LR_OF_LAYER + layer: rate for layer, rate in rates.items()},
                run_folder.LAYERS: len(self.layers),
                run_folder.PARAMETERS: self.size.parameters(self.lineage.shapes()),
                run_folder.HEADS: sum(heads for heads, _ in self.lineage.shapes()),
                run_folder.CONTEXT: self.context,
                run_folder.TOKENS: progress.tokens,
                run_folder.FLOPS: progress.flops,
                run_folder.SECONDS: progress.seconds,
                run_folder.TOKENS_PER_SECOND: rate,
            },
        )
        progress.history.append({"loss": losses[-1], "learning_rate": lr, "step": progress.step})
        self.show.step(progress.step, f"loss {losses[-1]:.3f}  {len(self.layers)} layers  {rate:,.0f} tokens/s")

    def _evaluate(self, tag: str) -> float:
        """The mean loss over the held-out text, of the same blocks and masks every time."""
        found = self.held_out.loss(self.bare, self.accelerator, self.context, self.config.train.batch_size)
        self.scalars.add(self.progress.step, {tag: found.value})
        if tag == run_folder.EVAL_LOSS:
            entry = {"eval_loss": found.value, "flops": float(self.progress.flops), "step": self.progress.step}
            if math.isfinite(found.error):
                self.scalars.add(self.progress.step, {run_folder.EVAL_LOSS_SE: found.error})
                entry["eval_loss_se"] = found.error
            self.progress.history.append(entry)
            if self.swapping.on:
                with self.swapping.pair_of(self.progress.step, self.layers):
                    self._evaluate(run_folder.EVAL_LOSS_SWAPPED)
        self._mark = (time.perf_counter(), self.progress.tokens)
        return found.value

    def _evaluate_in_full(self) -> None:
        """At the end: the mean loss over all held-out text, unless that takes long beside the training."""
        train, step = self.config.train, self.progress.step
        if self.held_out.count > train.eval_full * self.total_steps * self.step_blocks:
            return
        found, tokens = self.held_out.full_loss(self.bare, self.accelerator, self.context, train.batch_size)
        self.scalars.add(step, {run_folder.EVAL_LOSS_FULL: found.value, run_folder.EVAL_TOKENS_FULL: tokens})
        self.progress.history.append({"eval_loss_full": found.value, "step": step})

    # --- growth ----------------------------------------------------------------------------------------------------

    def _due(self) -> list[growth_schedule.Planned]:
        """The events of this step that have not happened yet."""
        coming = self.planned[len(self.lineage.events) :]
        due = list(takewhile(lambda planned: planned.step == self.progress.step, coming))
        if not due and coming and coming[0].event.when == "plateau" and self._flat():
            due = coming[:1]
        return due

    def _flat(self) -> bool:
        """Whether the loss has flattened since the last event. Asked of the history alone: a resumed run agrees."""
        evals = [(int(e["step"]), e["flops"], e["eval_loss"]) for e in self.progress.history if "eval_loss" in e]
        since = self.lineage.events[-1].step if self.lineage.events else 0
        newest = evals[-1][0] if evals else -1
        return newest == self.progress.step and ready(evals, since, self.plateau, self.total_steps)

    def _grow(self) -> None:
        """Let every event of this step happen, with a checkpoint right before and right after."""
        due = self._due()
        if not due:
            return
        self._log()
        self._save(after=False)
        before = [entry["eval_loss"] for entry in self.progress.history if "eval_loss" in entry][-1]
        for planned in due:
            self._apply(planned)
        after = self._evaluate(run_folder.EVAL_LOSS_AFTER_EVENT)
        now = f"{len(self.layers)} layers ({self.lineage}), eval loss {before:.3f} → {after:.3f}"
        self.show.say(f"step {self.progress.step}: {now}")
        self._save()

    def _apply(self, planned: growth_schedule.Planned) -> None:
        """One event: grow the bare model, write the lineage, take the optimizer along, wrap again."""
        self.paces.release()
        model, step = self._unwrapped(), self.progress.step
        grower.happen(planned.event, step, model, self.anatomy, self.lineage, self.optimizer, self.config.seed)
        self.scalars.mark(self.lineage.events[-1])
        self.model = self._wrapped(model)
        self.paces = Paces(self.bare, self.anatomy, self.lineage)

    def _rewrap(self) -> None:
        """Wrap the model anew: what accelerate put around it remembers which parameters learn."""
        self.model = self._wrapped(self._unwrapped())

    def _wrapped(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model as it trains: fast, and on this process's device among others."""
        kernels.fuse(model)
        if self.config.train.compile:
            kernels.compile_layers(models.stack_of(model, self.anatomy))
        return self.accelerator.prepare(model)

    def _unwrapped(self) -> PreTrainedModel:
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        if model is not self.model:
            self.accelerator.free_memory()  # forgets the wrapper, which no longer fits
        return model

    # --- keeping ---------------------------------------------------------------------------------------------------

    def _save(self, after: bool = True) -> Path:
        """Checkpoint this step, from a copy in memory; `Writer.wait` says when it is on disk."""
        name = run_folder.CheckpointName(self.progress.step, after)
        self._log()
        self.scalars.flush()
        # Right after a resume the checkpoint is there: written anew, it would be missing for a moment.
        there, self.at = name == self.at, None
        if self.accelerator.is_main_process and not there:
            epochs = self.step_blocks / self.blocks.count
            state = self.progress.to_trainer_state(self.config, self.total_steps, epochs)
            self.writer.save(name, self.bare, self.anatomy, self.optimizer, self.lineage, state)
        self.accelerator.wait_for_everyone()
        self._mark = (time.perf_counter(), self.progress.tokens)
        return self.folder / str(name)

    def _not_finite(self, step: int, loss: float) -> str:
        born = [event for event in self.lineage.events if event.step < step]
        event = f"after growth event {born[-1].number} (step {born[-1].step})" if born else "before any growth"
        return (
            f"the loss is {loss} at step {step}, {event}; the checkpoints of earlier steps are kept. "
            "A lower optim.lr or a longer optim.warmup_ratio may help"
        )
