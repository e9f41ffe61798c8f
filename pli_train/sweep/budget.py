"""Plan the FLOPs of a run, and find the number of steps that uses up a budget."""

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
    """Plans runs. Each corpus is loaded once, which also fills the cache that the workers read.

    Attributes:
        say: called with a line when a corpus is loaded.
    """

    say: Callable[[str], None] = lambda line: None
    _corpora: dict[str, TokenizedText | ImageCorpus] = field(default_factory=dict)

    def plan(self, config: RunConfig) -> RunPlan:
        """Plan a run in one process. Raises BadInput when its corpus, model or schedule cannot be had."""
        config, _ = warm_start.resolve_parent(config)
        key = config.data.model_dump_json() + config.tokenizer.model_dump_json()
        if key not in self._corpora:
            self._corpora[key] = corpus.load(config.data, config.tokenizer, self.say)
        return RunPlan.make(config, self._corpora[key], processes=1)


def flops_of(plan: RunPlan, steps: int) -> int:
    """FLOPs of a plan's run if it had so many steps, as the trainer counts them.

    Raises:
        BadInput: when an event waits for a plateau, so that its step is not known, or lies behind the end.
    """
    train = plan.config.train
    events = schedule.plan(plan.config.growth.events(plan.start, steps), plan.start, steps)
    begins = [0]
    for event in events:
        if event.step is None:
            raise BadInput(
                "growth.schedule: an event waits for a plateau, so FLOPs cannot be planned: use --objective tokens"
            )
        begins.append(event.step)
    lineages: list[Lineage] = [plan.start.lineage(), *(event.lineage for event in events)]
    tokens, total = plan.blocks_per_step * train.block_size, 0
    for begin, end, lineage in zip(begins, [*begins[1:], steps], lineages, strict=True):
        per_token = plan.size.flops_per_token(lineage.shapes(), length(lineage, train.block_size))
        total += (end - begin) * tokens * per_token
    return total


def steps_within(plan: RunPlan, budget: float) -> int:
    """The most steps whose FLOPs are not above a budget. Raises BadInput when not even one step is, or as `flops_of`.

    A schedule in shares of training is planned anew for each number of steps.
    """
    shortest = _shortest(plan)
    if flops_of(plan, shortest) > budget:
        raise BadInput(
            f"a budget of {budget:.3g} FLOPs is used up before step {shortest}, "
            "which the run has to reach: give a larger --budget"
        )
    low, high = shortest, 2 * shortest
    while flops_of(plan, high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if flops_of(plan, middle) <= budget else (low, middle)
    return low


def _shortest(plan: RunPlan) -> int:
    """The fewest steps in which all events with a known time happen before the end."""
    times = [event.at for event in plan.config.growth.events(plan.start) if event.at is not None]
    steps = 1 + max((at for at in times if isinstance(at, int)), default=0)
    while any((schedule.when(at, steps)[0] or 0) >= steps for at in times):
        steps += 1
    return steps
