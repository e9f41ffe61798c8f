"""Grow a model and its optimizer in place, in any training loop.

This is growth without the rest of a run, for a custom loop or Hugging Face's Trainer. Events that change the learning
rate or freeze parameters act through hooks on the optimizer's step, so the loop and its learning-rate scheduler need no
changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import save_model
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from pli_train.core import output
from pli_train.core.errors import BadInput, PliError
from pli_train.core.learning_rate import climb
from pli_train.core.randomness import derive
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName
from pli_train.models import build as models
from pli_train.models import resize
from pli_train.optim import optimizer
from pli_train.optim.parameter_origin import ParameterOrigin
from pli_train.optim.update_scaler import UpdateScaler

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from pli_train.core.anatomy import Anatomy
    from pli_train.core.lineage import Lineage
    from pli_train.growth.initial_shape import InitialShape
    from pli_train.growth.operators.base import Operator
    from pli_train.growth.schedule import ScheduledEvent

WRAPPERS = {
    "DataParallel",
    "DistributedDataParallel",
    "FullyShardedDataParallel",
    "FSDPModule",
    "OptimizedModule",
    "DeepSpeedEngine",
    "PeftModel",
}
"""Classes that wrap a model and keep references to its parameters."""


def apply_event(
    event: Operator,
    step: int,
    model: nn.Module,
    anatomy: Anatomy,
    lineage: Lineage,
    optim: Optimizer | None,
    seed: int,
) -> None:
    """Apply one growth event: grow the bare model, update the lineage and the optimizer. All in place.

    Args:
        step: optimizer updates done.
        optim: None while there is no optimizer yet.
        seed: of the run; the event draws random numbers from (seed, number of the event).
    """
    number = len(lineage.events) + 1
    origins = event.grow(model, anatomy, lineage, derive(seed, "growth", number))
    event.record(lineage, step)
    if optim is not None:
        held = {id(p) for group in optim.param_groups for p in group["params"]}
        # Parameters that the user froze and never gave to the optimizer stay out of it.
        learning = [d for d in origins if d.new.requires_grad or id(d.old) in held]
        optimizer.grow(optim, learning, event.optimizer_state)


class Grower:
    """Grow a model, its optimizer and its lineage together, step by step.

    Args:
        model: bare, without wrappers such as DistributedDataParallel.
        anatomy: parameter table of its family.
        start: its shape at step 0.
        planned: all events of the schedule, each with its step.
        seed: of the run.

    Attributes:
        lineage: layer ids by index, and the events so far.
    """

    def __init__(
        self, model: nn.Module, anatomy: Anatomy, start: InitialShape, planned: Sequence[ScheduledEvent], seed: int
    ) -> None:
        check_bare(model)
        self.model, self.anatomy, self.start, self.planned, self.seed = model, anatomy, start, planned, seed
        self.lineage = start.lineage("given")
        if not anatomy.tensors:  # without a family table, readers cannot know where the layers are
            self.lineage.stack_path = models.path_of_stack(model, anatomy)
        self._optimizer: Optimizer | None = None
        self._rewound: Callable[[int, int], list[float]] | None = None
        self._update_scaler = UpdateScaler(model, anatomy, self.lineage)
        self._now = 0
        self._hooks: list[Any] = []

    def attach(self, optim: Optimizer, rewound: Callable[[int, int], list[float]] | None = None) -> None:
        """Keep this optimizer up to date from now on.

        Args:
            optim: holds the model's current parameters. Accelerate's wrapper is removed if there is one.
            rewound: (step, step of the rewind) → learning rate of each group; `rewound()` makes one from a scheduler.

        Raises:
            BadInput: when another Grower is attached to the optimizer.
        """
        self.close()
        self._optimizer, self._rewound = getattr(optim, "optimizer", optim), rewound
        hooks = self._optimizer._optimizer_step_pre_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), Grower) for hook in hooks):
            raise BadInput(
                "growth: another schedule is attached to this optimizer (two GrowthCallbacks in one Trainer?); put "
                "all events into one schedule"
            )
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._before_update),
            self._optimizer.register_step_post_hook(self._after_update),
        ]

    def close(self) -> None:
        """Detach from the optimizer, and unfreeze all parameters that an event froze."""
        self._update_scaler.release()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def step(self, step: int) -> bool:
        """Apply every event that is due after `step` updates. Return whether there was one.

        Call this before each update. Nothing else may change the model's layers, heads or FFN units.

        Raises:
            BadInput: when an event of the schedule rewinds the learning rate and `attach` was called without `rewound`.
        """
        if self._optimizer is not None and self._rewound is None and self.rewinds:
            raise BadInput("growth: learning_rate 'rewind' needs the run's scheduler, a LambdaLR: pass scheduler=…")
        self._now = step
        due = self.due(step)
        for planned in due:
            self._apply_event(planned.event, step)
        self._update_scaler.hold(step)
        return bool(due)

    def due(self, step: int) -> list[ScheduledEvent]:
        """Return the events that `step` will apply."""
        return list(takewhile(lambda planned: _step_of(planned) <= step, self.planned[len(self.lineage.events) :]))

    @property
    def rewinds(self) -> bool:
        """Whether any event of the schedule rewinds the learning rate."""
        return any(planned.event.learning_rate == "rewind" for planned in self.planned)

    def catch_up(self, lineage: Lineage) -> None:
        """Apply every event of `lineage`, so that weights and optimizer state of a grown model can be loaded.

        Raises:
            BadInput: when this schedule on this model results in a different lineage.
        """
        for planned, recorded in zip(self.planned[len(self.lineage.events) :], lineage.events, strict=False):
            self._apply_event(planned.event, recorded.step)
        # Older versions recorded no path of the stack.
        own = replace(self.lineage, stack_path=lineage.stack_path and self.lineage.stack_path)
        if own.to_json() != lineage.to_json():
            raise BadInput(
                f"growth: this model and schedule give the stack '{self.lineage}' after {len(lineage.events)} "
                f"events, but the lineage has '{lineage}': it comes from another model, schedule or seed"
            )

    def save(self, path: Path | str) -> None:
        """Write the lineage as `lineage.json`, atomically.

        Raises:
            BadInput, PliError: when it cannot be written.
        """
        output.write(Path(path), self.lineage.to_json())

    def save_checkpoint(self, folder: Path | str, step: int, before: bool = False) -> Path:
        """Write the weights and the lineage for `pli-analyze`, as `FOLDER/checkpoint-STEP`; return its path.

        The checkpoint appears by one rename. It has no optimizer state: training cannot resume from it.

        Args:
            folder: holds all checkpoints of this training.
            step: number of updates done.
            before: whether the events of this step are still to come: `FOLDER/checkpoint-STEP-before`.

        Raises:
            BadInput: if there is such a checkpoint already.
            PliError: if it cannot be written.
        """
        path = Path(folder) / str(CheckpointName(step, after=not before))
        if path.exists():
            raise BadInput(f"{path}: already exists; name another folder")
        try:
            with output.folder(path) as partial:
                _write_model(self.model, partial)
                (partial / run_folder.LINEAGE).write_text(self.lineage.to_json(), encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise PliError(f"{path}: not written ({error}); check the disk") from None
        return path

    def names(self) -> list[list[str]]:
        """Return the parameter names of each optimizer group, with layer ids in place of indices.

        Raises:
            RuntimeError: when no optimizer is attached.
        """
        if self._optimizer is None:
            raise RuntimeError("no optimizer is attached")
        name = {id(p): self.anatomy.by_id(n, self.lineage.stack) for n, p in self.model.named_parameters()}
        return [[name.get(id(p), "") for p in group["params"]] for group in self._optimizer.param_groups]

    def shrink(self, heads: int) -> None:
        """Keep only the first `heads` heads of every layer. Call this before training."""
        before = dict(self.model.named_parameters())
        shapes = [(heads, None)] * len(models.stack_of(self.model, self.anatomy))
        models.shrink(self.model, self.anatomy, shapes)
        models.sync_config(self.model, self.anatomy)
        if self._optimizer is not None:
            after = self.model.named_parameters()
            origins = [ParameterOrigin(new, before[name], True) for name, new in after if new is not before[name]]
            optimizer.grow(self._optimizer, [d for d in origins if d.new.requires_grad], "zero")

    def _apply_event(self, event: Operator, step: int) -> None:
        self._update_scaler.release()
        apply_event(event, step, self.model, self.anatomy, self.lineage, self._optimizer, self.seed)
        self._sort()
        self._update_scaler = UpdateScaler(self.model, self.anatomy, self.lineage)

    def _sort(self) -> None:
        """Sort each group's parameters into the model's order.

        A new optimizer over the grown model has the same order, so state saved by position can be loaded into it.
        """
        position = {id(p): number for number, p in enumerate(self.model.parameters())}
        for group in self._optimizer.param_groups if self._optimizer else ():
            group["params"].sort(key=lambda p: position.get(id(p), len(position)))

    def _before_update(self, optim: Optimizer, *_: Any) -> None:
        self._rates = [group["lr"] for group in optim.param_groups]
        past = [event for event in self.lineage.events if event.step <= self._now]
        begun = max((e.step for e in past if e.facts.get("learning_rate") == "rewind"), default=None)
        if begun is not None and self._rewound is not None:
            for group, rate in zip(optim.param_groups, self._rewound(self._now, begun), strict=True):
                group["lr"] = rate
        share = climb(self._now, [event for event in past if event.facts.get("learning_rate") == "rewarm"])
        if share < 1:
            for group in optim.param_groups:
                group["lr"] = group["lr"] * share
        self._updates = self._update_scaler.before(optim, self._now)

    def _after_update(self, optim: Optimizer, *_: Any) -> None:
        self._update_scaler.after(self._updates)
        # Restore the learning rates that the scheduler set.
        for group, rate in zip(optim.param_groups, self._rates, strict=True):
            group["lr"] = rate


def rewound(scheduler: Any, warmup_steps: int, total_steps: int | None) -> Callable[[int, int], list[float]]:
    """Return a scheduler's curve started over: (step, step of the rewind) → learning rate of each group.

    The part of the curve after warm-up is repeated over the rest of training, as in
    `pli_train.core.learning_rate.at_step`.

    Args:
        scheduler: a LambdaLR (as all of Hugging Face's schedules are), stepped once per update.
        warmup_steps: the step at which its warm-up ends.
        total_steps: the step at which it ends.

    Raises:
        BadInput: when the scheduler is no LambdaLR, or `total_steps` is None.
    """
    if not isinstance(scheduler, LambdaLR) or total_steps is None:
        kind = type(scheduler).__name__
        raise BadInput(f"growth: learning_rate 'rewind' needs a LambdaLR and total_steps, not {kind} and {total_steps}")

    def rates(step: int, begun: int) -> list[float]:
        done = (step - begun) / max(total_steps - begun, 1)
        at = warmup_steps + done * (total_steps - warmup_steps)
        curves = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        return [float(base) * float(curve(at)) for base, curve in curves]  # type: ignore[arg-type]

    return rates


def _write_model(model: nn.Module, folder: Path) -> None:
    """Write a model's config and weights; the config of a module that is not Hugging Face's is its class name."""
    if isinstance(model, PreTrainedModel):
        model.save_pretrained(folder)
        return
    config = json.dumps({"model_type": type(model).__name__})
    (folder / run_folder.CONFIG).write_text(config + "\n", encoding="utf-8")
    save_model(model, str(folder / run_folder.WEIGHTS))


def check_even(model: nn.Module, anatomy: Anatomy) -> None:
    """Raise BadInput unless all layers of the stack have the same numbers of heads and FFN units."""
    sizes = [
        resize.sizes_of(layer, anatomy, getattr(model, "config", None)) for layer in models.stack_of(model, anatomy)
    ]
    if any(size != sizes[0] for size in sizes):
        raise BadInput("growth: the model's layers differ in heads or FFN units; was it grown before?")


def check_bare(model: nn.Module) -> None:
    """Raise BadInput when the model is wrapped by a class that keeps references to its parameters."""
    kinds = {base.__name__ for base in type(model).__mro__} & WRAPPERS
    if kinds:
        raise BadInput(f"growth: {kinds.pop()} keeps references to the model's parameters; pass the bare model")


def _step_of(planned: ScheduledEvent) -> int:
    if planned.step is None:
        raise RuntimeError(f"event {planned.event} has no step")
    return planned.step
