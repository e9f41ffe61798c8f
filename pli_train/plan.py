"""The growth of a run before any training: its stages, their size, and what they cost beside full depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pli_train import flops, model
from pli_train.growth import schedule as growth_schedule
from pli_train.growth.context import length
from pli_train.growth.start import start_of

if TYPE_CHECKING:
    from pli_train.config import RunConfig
    from pli_train.lineage import Lineage


@dataclass(frozen=True)
class Stage:
    """A stretch of training between two growth events.

    Attributes:
        event: what began it (`0.1@1 b: clone of a`), empty for the start.
        step: its first step; None while the length of training is not known.
        fraction: the same as a share of training; None when only the step is known.
        lineage: who sits where, with how many heads and FFN units.
        context: tokens that see each other.
        parameters: of the model in this stage.
        share: FLOPs of the stage ÷ those of the whole training at full size; None when it cannot be known.
    """

    event: str
    step: int | None
    fraction: float | None
    lineage: Lineage
    context: int
    parameters: int
    share: float | None


@dataclass(frozen=True)
class Plan:
    """The stages of a run. `flops` are those of the whole run, None while its length is not known."""

    stages: list[Stage]
    total_steps: int | None
    flops: float | None


def plan(config: RunConfig, devices: int = 1) -> Plan:
    """Rehearse a config on paper: no corpus is read and no weights are drawn.

    The vocabulary is taken at the size the config asks for, or the family's own beside a ready-made tokenizer.
    """
    block_size, total = config.train.block_size, config.train.steps
    vocabulary = None if config.tokenizer.name_or_path else config.tokenizer.vocab_size
    depth, skeleton, anatomy = model.skeleton(config.model, vocabulary, block_size)
    start = start_of(skeleton, anatomy, depth, config.model.initial_heads, block_size)
    planned = growth_schedule.plan(config.growth.events(start, total), start, total)

    size = flops.measure(skeleton, anatomy)
    lineages = [start.lineage(), *(each.lineage for each in planned)]
    costs = [size.flops_per_token(found.shapes(), length(found, block_size)) for found in lineages]
    starts = [("", 0, 0.0), *((f"{each.event} {each.outcome}", each.step, each.fraction) for each in planned)]
    ends = [*(each.fraction for each in planned), 1.0]
    stages = []
    for (event, step, begun), end, found, cost in zip(starts, ends, lineages, costs, strict=True):
        part = None if begun is None or end is None else end - begun
        share = None if part is None else part * cost / costs[-1]
        stages.append(
            Stage(event, step, begun, found, length(found, block_size), size.parameters(found.shapes()), share)
        )
    shares = [stage.share for stage in stages]
    tokens = config.train.batch_size * config.train.accumulation * block_size * devices
    whole = None if total is None or None in shares else sum(s or 0 for s in shares) * costs[-1] * total * tokens
    return Plan(stages, total, whole)
