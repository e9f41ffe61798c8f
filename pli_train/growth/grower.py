"""Grow a model and its optimizer in place, in any training loop.

This is growth without the rest of a run: one's own loop and Hugging Face's Trainer both use it. Whatever an event does
to the pace of learning hangs on the optimizer's own step, before and after it, so that a loop and a learning-rate
scheduler need to know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR

from pli_train.core import output
from pli_train.core.errors import BadInput
from pli_train.core.learning_rate import climb
from pli_train.core.randomness import derive
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
"""Classes that put a model into something that remembers its parameters."""


def apply_event(
    event: Operator,
    step: int,
    model: nn.Module,
    anatomy: Anatomy,
    lineage: Lineage,
    optim: Optimizer | None,
    seed: int,
) -> None:
    """One growth event: grow the bare model, write the lineage, take the optimizer along. All in place.

    Args:
        step: optimizer updates done.
        optim: None while there is no optimizer yet.
        seed: of the run; the event draws from (seed, its number).
    """
    number = len(lineage.events) + 1
    origins = event.grow(model, anatomy, lineage, derive(seed, "growth", number))
    event.record(lineage, step)
    if optim is not None:
        held = {id(p) for group in optim.param_groups for p in group["params"]}
        # What its owner froze and never gave to the optimizer stays out of it.
        learning = [d for d in origins if d.new.requires_grad or id(d.old) in held]
        optimizer.grow(optim, learning, event.optimizer_state)


class Grower:
    """A model, its optimizer and its lineage, from step to step.

    Args:
        model: bare, with whatever wraps it taken off.
        anatomy: its table.
        start: what it begins with.
        planned: every event of the schedule, each with its step.
        seed: of the run.

    Attributes:
        lineage: who sits where now, and who was born when.
    """

    def __init__(
        self, model: nn.Module, anatomy: Anatomy, start: InitialShape, planned: Sequence[ScheduledEvent], seed: int
    ) -> None:
        check_bare(model)
        self.model, self.anatomy, self.start, self.planned, self.seed = model, anatomy, start, planned, seed
        self.lineage = start.lineage("given")
        self._optimizer: Optimizer | None = None
        self._rewound: Callable[[int, int], list[float]] | None = None
        self._update_scaler = UpdateScaler(model, anatomy, self.lineage)
        self._now = 0
        self._hooks: list[Any] = []

    def attach(self, optim: Optimizer, rewound: Callable[[int, int], list[float]] | None = None) -> None:
        """Take an optimizer along from now on.

        Args:
            optim: holds the model's parameters as they are now. What accelerate wraps around it is taken off.
            rewound: (step, step of the rewind) → each group's learning rate, as `rewound` makes it of a scheduler.

        Raises:
            BadInput: when another schedule has it already.
        """
        self.close()
        self._optimizer, self._rewound = getattr(optim, "optimizer", optim), rewound
        hooks = self._optimizer._optimizer_step_pre_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), Grower) for hook in hooks):
            raise BadInput(
                "growth: this optimizer grows by another schedule already (two GrowthCallbacks in one Trainer?): give "
                "all events to one"
            )
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._before_update),
            self._optimizer.register_step_post_hook(self._after_update),
        ]

    def close(self) -> None:
        """Let go of the optimizer, and let everything learn that an event froze."""
        self._update_scaler.release()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def step(self, step: int) -> bool:
        """Let every event happen that is due once `step` updates are done. True when the model grew.

        Call it before each update; nothing else may change the model's parts.

        Raises:
            BadInput: when an event of the schedule rewinds the learning rate, and how that goes was not told.
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
        """The events that `step` will let happen."""
        return list(takewhile(lambda planned: _step_of(planned) <= step, self.planned[len(self.lineage.events) :]))

    @property
    def rewinds(self) -> bool:
        """Whether any event of the schedule rewinds the learning rate."""
        return any(planned.event.learning_rate == "rewind" for planned in self.planned)

    def catch_up(self, lineage: Lineage) -> None:
        """Let every event happen that `lineage` tells of, so that weights and moments of a grown model fit.

        Raises:
            BadInput: when this schedule, on this model, comes to another lineage.
        """
        for planned, message in zip(self.planned[len(self.lineage.events) :], lineage.events, strict=False):
            self._apply_event(planned.event, message.step)
        if self.lineage.to_json() != lineage.to_json():
            raise BadInput(
                f"growth: this model and schedule come to the stack '{self.lineage}' after {len(lineage.events)} "
                f"events, and the lineage has '{lineage}': it was grown from another model, schedule or seed"
            )

    def save(self, path: Path | str) -> None:
        """Write the lineage, in one step, as the `lineage.json` that the rest of this project reads.

        Raises:
            BadInput, PliError: when it cannot be written.
        """
        output.write(Path(path), self.lineage.to_json())

    def names(self) -> list[list[str]]:
        """Each optimizer group's parameters by name, with the layer's id in it.

        Raises:
            RuntimeError: when no optimizer is attached.
        """
        if self._optimizer is None:
            raise RuntimeError("no optimizer is attached")
        name = {id(p): self.anatomy.by_id(n, self.lineage.stack) for n, p in self.model.named_parameters()}
        return [[name.get(id(p), "") for p in group["params"]] for group in self._optimizer.param_groups]

    def shrink(self, heads: int) -> None:
        """Cut every layer down to its first `heads` heads, before any training."""
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
        """Put each group's parameters in the model's order.

        A fresh optimizer over the grown model has them so, and state that somebody saves by position then fits it.
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
        # The scheduler finds the rates that it set.
        for group, rate in zip(optim.param_groups, self._rates, strict=True):
            group["lr"] = rate


def rewound(scheduler: Any, warmup_steps: int, total_steps: int | None) -> Callable[[int, int], list[float]]:
    """A scheduler's curve started over: (step, step of the rewind) → each group's learning rate.

    The part of the curve after warm-up is run through once more over the rest of training, as in
    `pli_train.core.learning_rate.at_step`.

    Args:
        scheduler: PyTorch's LambdaLR, which Hugging Face's schedules are; stepped once an update.
        warmup_steps: where its warm-up ends.
        total_steps: where it ends.

    Raises:
        BadInput: for a scheduler that is no function of the step, or unknown `total_steps`.
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


def check_even(model: nn.Module, anatomy: Anatomy) -> None:
    """Raise BadInput unless all layers of the stack have as many heads and FFN units."""
    sizes = [
        resize.sizes_of(layer, anatomy, getattr(model, "config", None)) for layer in models.stack_of(model, anatomy)
    ]
    if any(size != sizes[0] for size in sizes):
        raise BadInput("growth: the model's layers differ in heads or FFN units already: was it grown before?")


def check_bare(model: nn.Module) -> None:
    """Raise BadInput for a model inside something that would not notice its growth."""
    kinds = {base.__name__ for base in type(model).__mro__} & WRAPPERS
    if kinds:
        raise BadInput(f"growth: {kinds.pop()} keeps hold of the parameters it was given: grow the bare model instead")


def _step_of(planned: ScheduledEvent) -> int:
    if planned.step is None:
        raise RuntimeError(f"event {planned.event} has no step")
    return planned.step
