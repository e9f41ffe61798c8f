"""Print a run's growth before training: stages, sizes, and FLOPs relative to full depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pli_train.checkpointing import disk
from pli_train.checkpointing.retention import Retention
from pli_train.growth import schedule as growth_schedule
from pli_train.growth.initial_shape import InitialShape, start_of
from pli_train.growth.operators.context import length
from pli_train.models import build, flops
from pli_train.training import warm_start as parents

if TYPE_CHECKING:
    from collections.abc import Callable

    from pli_train.config.schema import RunConfig
    from pli_train.core.lineage import Lineage
    from pli_train.growth.schedule import ScheduledEvent


@dataclass(frozen=True)
class Stage:
    """The part of training between two growth events.

    Attributes:
        event: the event that starts it (`0.1@1 b: clone of a`), empty for the first stage.
        step: its first step; None if the length of training is unknown.
        fraction: its start as a share of training; None if only the step is known.
        lineage: layer ids by index, with their heads and FFN units.
        context: context length in tokens.
        parameters: number of parameters of the model.
        share: FLOPs of the stage ÷ FLOPs of the whole training at full size; None if unknown.
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
    """The stages of a run. Total FLOPs and disk use are None if the length of training is unknown."""

    stages: list[Stage]
    total_steps: int | None
    flops: float | None
    disk: disk.DiskUse | None

    @property
    def share(self) -> float | None:
        """FLOPs of the whole run ÷ those of a run at full size from the start; None if unknown.

        Its inverse is the speed-up of a run that needs as many steps as full size to reach a loss.
        """
        shares = [stage.share for stage in self.stages]
        return None if None in shares else sum(share or 0 for share in shares)


def plan(config: RunConfig, devices: int = 1) -> Plan:
    """Plan the stages of a config, without reading a corpus or initializing weights.

    The vocabulary has the size in the config, or the family's default size with a ready-made tokenizer.
    """
    config, _ = parents.resolve_parent(config)
    block_size, total = config.train.block_size, config.train.steps
    vocabulary = None if config.tokenizer.name_or_path else config.tokenizer.vocab_size
    depth, skeleton, anatomy = build.skeleton(config.model, vocabulary, block_size)
    start = start_of(skeleton, anatomy, depth, config.model.initial_heads, block_size)
    planned = growth_schedule.plan(config.growth.events(start, total), start, total)

    size = flops.measure(skeleton, anatomy)
    lineages = [start.lineage(), *(each.lineage for each in planned)]
    costs = [size.flops_per_token(lineage.shapes(), length(lineage, block_size)) for lineage in lineages]
    starts = [("", 0, 0.0), *((f"{each.event} {each.outcome}", each.step, each.fraction) for each in planned)]
    ends = [*(each.fraction for each in planned), 1.0]
    stages = []
    for (event, step, begun), end, lineage, cost in zip(starts, ends, lineages, costs, strict=True):
        part = None if begun is None or end is None else end - begun
        share = None if part is None else part * cost / costs[-1]
        stages.append(
            Stage(event, step, begun, lineage, length(lineage, block_size), size.parameters(lineage.shapes()), share)
        )
    made = Plan(stages, total, None, _disk(config, size, start, planned))
    if total is None or made.share is None:
        return made
    tokens = config.train.batch_size * config.train.accumulation * block_size * devices
    return replace(made, flops=made.share * costs[-1] * total * tokens)


def _disk(
    config: RunConfig, size: flops.Size, start: InitialShape, planned: list[ScheduledEvent]
) -> disk.DiskUse | None:
    if config.train.steps is None:
        return None
    retention = Retention(**config.checkpoint.model_dump(), total_steps=config.train.steps)
    return disk.use(retention, disk.stages(size, start.lineage(), planned))


def lines(config: RunConfig, drawn: Plan) -> list[str]:
    """Format a plan: three lines about the whole run, then one line per stage.

    Heads, FFN units and context have a column if they change; `2–4` is a range over layers. An event that waits for a
    plateau has `plateau` in place of its step, and shares that depend on its time are `?`.
    """
    share = drawn.share
    total = "unknown" if share is None else f"{share:.1%}"
    cost = f" ({drawn.flops:.3g} FLOPs)" if drawn.flops else ""
    ceiling = f"; speed-up at equal steps: {1 / share:.3g}" if share else ""
    named = config.growth.named()
    paper = f" [{': '.join(filter(None, [named.name, named.cites]))}]" if named else ""
    columns = _varying(drawn.stages)
    titles = "".join(f" {title:>8}" for title in columns)
    width = max(32, *(len(stage.event) for stage in drawn.stages))
    return [
        f"{config.name}: {config.description}{paper}",
        f"FLOPs of the whole run, as a share of full depth from the start: {total}{cost}{ceiling}",
        str(drawn.disk or "checkpoints: unknown, as they depend on the length of training"),
        "",
        f"{'from':>5} {'step':>8} {'parameters':>12}{titles} {'FLOPs':>6}  {'event':<{width}}  stack, bottom to top",
        *(_line(stage, [value_of(stage) for value_of in columns.values()], width) for stage in drawn.stages),
    ]


def _line(stage: Stage, further: list[str], width: int) -> str:
    start = "?" if stage.fraction is None else f"{stage.fraction:.0%}"
    unknown = "plateau" if stage.fraction is None else "?"
    step = unknown if stage.step is None else f"{stage.step:,}"
    share = "?" if stage.share is None else f"{stage.share:.1%}"
    size = f"{start:>5} {step:>8} {stage.parameters:>12,}{''.join(f' {value:>8}' for value in further)} {share:>6}"
    stack = stage.lineage.stack
    return f"{size}  {stage.event:<{width}}  {' '.join(stack)}   total: {len(stack)}"


def _varying(stages: list[Stage]) -> dict[str, Callable[[Stage], str]]:
    """Return the columns that differ between stages: title → function that formats a stage's value."""
    columns: dict[str, Callable[[Stage], str]] = {
        "heads": lambda stage: _range([heads for heads, _ in _shapes(stage)]),
        "FFN": lambda stage: _range([units for _, units in _shapes(stage)]),
        "context": lambda stage: str(stage.context),
    }
    return {title: value_of for title, value_of in columns.items() if len({value_of(stage) for stage in stages}) > 1}


def _shapes(stage: Stage) -> list[tuple[int, int | None]]:
    # Without layers, the sizes of the first one to come, so that adding it is not shown as a change of sizes.
    return stage.lineage.shapes() or [stage.lineage.founding]


def _range(counts: list[int] | list[int | None]) -> str:
    known = sorted({count for count in counts if count})
    return "–".join(f"{count:,}" for count in dict.fromkeys([known[0], known[-1]])) if known else ""
