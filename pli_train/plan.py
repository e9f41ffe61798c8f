"""The growth of a run before any training: its stages, their size, and what they cost beside full depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pli_train import flops, model
from pli_train.growth import schedule as growth_schedule

if TYPE_CHECKING:
    from pli_train.config import RunConfig
    from pli_train.flops import Size


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one depth.

    Attributes:
        event: what began it (`0.1@1 clone of a → b`), empty for the start.
        step: its first step; None while the length of training is not known.
        fraction: the same as a share of training; None when only the step is known.
        stack: who sits where.
        parameters: of the model at this depth.
        share: FLOPs of the stage ÷ those of the whole training at full depth; None when it cannot be known.
    """

    event: str
    step: int | None
    fraction: float | None
    stack: tuple[str, ...]
    parameters: int
    share: float | None


@dataclass(frozen=True)
class Plan:
    """The stages of a run, and its size. `flops` are those of the whole run, None while its length is not known."""

    stages: list[Stage]
    size: Size
    total_steps: int | None
    flops: float | None


def plan(config: RunConfig, devices: int = 1) -> Plan:
    """Rehearse a config on paper: no corpus is read and no weights are drawn.

    The vocabulary is taken at the size the config asks for, or the family's own beside a ready-made tokenizer.
    """
    vocabulary = None if config.tokenizer.name_or_path else config.tokenizer.vocab_size
    wanted = model.model_config(config.model, vocabulary, config.train.block_size)
    skeleton, anatomy = model.skeleton(wanted)
    size = flops.measure(skeleton, anatomy, config.train.block_size)
    depth = len(model.stack_of(skeleton, anatomy))
    total = config.train.steps
    planned = growth_schedule.plan(config.growth.events(), depth, total)

    first = growth_schedule.stack_of_depth(depth)
    starts: list[tuple[str, int | None, float | None, tuple[str, ...]]] = [("", 0, 0.0, first)]
    starts += [(told(p), p.step, p.fraction, p.stack) for p in planned]
    ends = [fraction for _, _, fraction, _ in starts[1:]] + [1.0]
    full = size.flops_per_token(len(starts[-1][3]))
    stages = []
    for (event, step, fraction, stack), end in zip(starts, ends, strict=True):
        part = None if fraction is None or end is None else end - fraction
        share = None if part is None else part * size.flops_per_token(len(stack)) / full
        stages.append(Stage(event, step, fraction, stack, size.parameters(len(stack)), share))
    shares = [stage.share for stage in stages]
    tokens = config.train.batch_size * config.train.accumulation * config.train.block_size * devices
    whole = None if total is None or None in shares else sum(s or 0 for s in shares) * full * total * tokens
    return Plan(stages, size, total, whole)


def told(planned: growth_schedule.Planned) -> str:
    """An event in a few words.

    >>> from pli_train.growth.insert import Insert
    >>> event = Insert(at=0.5, index=0, initialiser="clone-noise", donor="above", noise=0.1)
    >>> told(growth_schedule.plan([event], initial_layers=1, total_steps=None)[0])
    '0.5@0 b: clone-noise 0.1 of a'
    """
    event = planned.event
    noise = f" {event.noise:g}" if event.initialiser == "clone-noise" else ""
    donor = f" of {planned.donor}" if planned.donor else ""
    return f"{event} {planned.layer}: {event.initialiser}{noise}{donor}"
