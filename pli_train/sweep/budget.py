"""Compute the FLOPs of a run, and the number of steps within a budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pli_train.core.errors import BadInput
from pli_train.data import corpus
from pli_train.growth import schedule
from pli_train.growth.operators.context import length
from pli_train.training import warm_start
from pli_train.training.run_plan import RunPlan

if TYPE_CHECKING:
    from collections.abc import Callable

    from pli_train.config.schema import RunConfig
    from pli_train.core.lineage import Lineage
    from pli_train.data.sources.digits import ImageCorpus
    from pli_train.data.tokenization import TokenizedText


@dataclass
class Planner:
    """Plans runs. Each corpus is loaded once, which also fills the token cache for the workers.

    Attributes:
        say: called with a line of progress when a corpus is loaded.
    """

    say: Callable[[str], None] = lambda line: None
    _corpora: dict[str, TokenizedText | ImageCorpus] = field(default_factory=dict)

    def plan(self, config: RunConfig) -> RunPlan:
        """Plan a run in one process. Raises BadInput when its corpus, model or schedule is invalid."""
        config, _ = warm_start.resolve_parent(config)
        key = config.data.model_dump_json() + config.tokenizer.model_dump_json()
        if key not in self._corpora:
            self._corpora[key] = corpus.load(config.data, config.tokenizer, self.say)
        return RunPlan.make(config, self._corpora[key], processes=1)


def flops_of(plan: RunPlan, steps: int) -> int:
    """Return the FLOPs of a run with this number of steps, counted as the trainer does.

    Raises:
        BadInput: when an event waits for a plateau, so that its step is unknown, or is after the end.
    """
    events = schedule.plan(plan.config.growth.events(plan.start, steps), plan.start, steps)
    begins = [0]
    for event in events:
        if event.step is None:
            raise BadInput(
                "growth.schedule: an event waits for a plateau, so FLOPs cannot be planned; use --objective tokens"
            )
        begins.append(event.step)
    lineages: list[Lineage] = [plan.start.lineage(), *(event.lineage for event in events)]
    ends = [*begins[1:], steps]
    return sum(
        (end - begin) * flops_per_step(plan, lineage)
        for begin, end, lineage in zip(begins, ends, lineages, strict=True)
    )


def flops_per_step(plan: RunPlan, lineage: Lineage) -> int:
    """Return the FLOPs of an optimizer update with the shape of a lineage."""
    block_size = plan.config.train.block_size
    per_token = plan.size.flops_per_token(lineage.shapes(), length(lineage, block_size))
    return plan.blocks_per_step * block_size * per_token


def steps_within(plan: RunPlan, budget: float) -> int:
    """Return the largest number of steps within a FLOPs budget. Raises BadInput when it is 0, or as `flops_of`.

    A schedule in fractions of training is evaluated again for each number of steps.
    """
    shortest = _shortest(plan)
    if flops_of(plan, shortest) > budget:
        raise BadInput(
            f"a budget of {budget:.3g} FLOPs is used up before step {shortest}, "
            "the step after its last event; give a larger --budget"
        )
    low, high = shortest, 2 * shortest
    while flops_of(plan, high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if flops_of(plan, middle) <= budget else (low, middle)
    return low


def _shortest(plan: RunPlan) -> int:
    """Return the smallest number of steps that puts all events with a known time before the end."""
    times = [event.at for event in plan.config.growth.events(plan.start) if event.at is not None]
    steps = 1 + max((at for at in times if isinstance(at, int)), default=0)
    while any((schedule.when(at, steps)[0] or 0) >= steps for at in times):
        steps += 1
    return steps
