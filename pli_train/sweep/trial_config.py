"""Convert the parameters of a trial to the config of a run within the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pli_train.config.keys import to_toml
from pli_train.core.errors import BadInput
from pli_train.core.run_format import study_folder
from pli_train.core.run_format.study_folder import RULE, SEED
from pli_train.sweep import budget as budgets
from pli_train.sweep.changes import SCHEDULE, base_config, changed, named_trial, plain_changes
from pli_train.sweep.schedule_rule import ScheduleRule

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig
    from pli_train.sweep.budget import Planner
    from pli_train.sweep.space import Space
    from pli_train.training.run_plan import RunPlan

DEPTH, STEPS = "model.initial_layers", "train.steps"
EPOCHS = "train.epochs"
BY_FLOPS = ("flops", "area")
"""Objectives with a FLOPs budget, from which the number of steps of each run is computed."""
CHECKPOINTS = 10
"""Number of checkpoints of a trial, besides those around its events. Only the newest is kept, to resume from."""


@dataclass(frozen=True)
class PlannedTrial:
    """A planned trial.

    Attributes:
        config: config of its run.
        changes: config key → value that differs from the base config, except checkpoint settings.
        steps: number of steps.
        flops: planned FLOPs; None if they are unknown.
    """

    config: RunConfig
    changes: dict[str, Any]
    steps: int
    flops: int | None

    def to_toml(self) -> str:
        """Return the complete config as TOML for `pli-train run`."""
        return to_toml(self.config)


class TrialConfigs:
    """Creates the configs of a study's trials.

    Args:
        space: space of the study.
        objective: objective of the study; for `flops` and `area`, the budget sets the number of steps of each run.
        budget: FLOPs or tokens of each run; None for those of the baseline with the base config's steps.
        planner: plans runs.

    Attributes:
        base: base config with the fixed values of the space.
        budget: FLOPs or tokens of each run; None if each run has the base config's steps.

    Raises:
        BadInput: when the base config, a fixed value or the budget is invalid.
    """

    def __init__(self, space: Space, objective: str, budget: float | None, planner: Planner) -> None:
        self.space, self.objective, self._planner = space, objective, planner
        self.base = base_config(space)
        self._depth = self._final_depth()
        self.budget = budget
        if objective in BY_FLOPS and budget is None:
            self.budget = self._baseline_flops()

    def plan(self, arm: str, chosen: Mapping[str, Any], name: str = "trial") -> PlannedTrial:
        """Plan a trial.

        Args:
            arm: `growth` or `baseline`.
            chosen: parameter → value.
            name: name of the run.

        Raises:
            BadInput: when the config with these values is invalid.
        """
        changes = self._changes(arm, chosen)
        source = named_trial(self.space, arm, chosen)
        config = changed(self.base, {**changes, "name": name}, source)
        try:
            plan = self._planner.plan(config)
            steps, flops = self._steps(plan)
        except BadInput as error:
            raise BadInput(*(f"{source}: {mistake}" for mistake in error.mistakes)) from None
        if steps != config.train.steps:
            changes[STEPS] = steps
            changes |= {EPOCHS: None} if config.train.epochs is not None else {}
        further = _few_checkpoints(steps) | _as_many_evaluations(config.train.eval_every, plan.total_steps, steps)
        further = {key: value for key, value in further.items() if key not in {*self.space.fixed, *changes}}
        config = changed(self.base, {**changes, **further, "name": name}, source)
        return PlannedTrial(config, changes, steps, flops)

    def check(self, arms: Mapping[str, Space]) -> None:
        """Plan trials that contain each value of each arm's space. Raises BadInput with every mistake found."""
        wrong: list[str] = []
        for arm, space in arms.items():
            for chosen in space.examples():
                try:
                    self.plan(arm, chosen)
                except BadInput as error:
                    wrong += [line for line in error.mistakes if line not in wrong]
        if wrong:
            raise BadInput(*wrong)

    def _steps(self, plan: RunPlan) -> tuple[int, int | None]:
        """Return the steps within the budget, and the FLOPs if they can be planned."""
        if self.objective in BY_FLOPS:
            steps = budgets.steps_within(plan, self.budget or 0)
            return steps, budgets.flops_of(plan, steps)
        steps = plan.total_steps
        if self.objective == "tokens" and self.budget:
            steps = int(self.budget // (plan.blocks_per_step * plan.config.train.block_size))
            if steps < 1:
                raise BadInput(f"a budget of {self.budget:,.0f} tokens is less than one step; give a larger --budget")
        try:
            return steps, budgets.flops_of(plan, steps)
        except BadInput:
            return steps, None  # an event waits for a plateau

    def _changes(self, arm: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
        rule = {**self.space.rule, **{k.removeprefix(RULE): v for k, v in chosen.items() if k.startswith(RULE)}}
        changes = plain_changes(self.space, arm, chosen)
        if SEED in chosen:
            changes[SEED] = self.base.seed + int(chosen[SEED])
        if arm == study_folder.BASELINE:
            return {DEPTH: self._depth, **changes}
        if rule:
            made = ScheduleRule.of({"start_depth": self._start_depth(), "depth": self._depth, **rule})
            changes |= {DEPTH: made.start_depth, SCHEDULE: made.schedule()}
        return changes

    def _start_depth(self) -> int:
        depth = self.base.model.initial_layers
        return 1 if depth is None or depth >= self._depth else depth

    def _final_depth(self) -> int:
        """Return the depth of the baseline: the largest final depth of all runs of the study."""
        plan = self._planner.plan(self.base)
        end = plan.events[-1].lineage if plan.events else plan.start.lineage()
        depths = [len(end.stack)]
        if self.space.rule or any(parameter.name.startswith(RULE) for parameter in self.space.parameters):
            searched = [p for p in self.space.parameters if p.name == RULE + "depth"]
            depths += [int(depth) for depth in (self.space.rule.get("depth"),) if depth]
            depths += [int(depth) for parameter in searched for depth in parameter.examples()]
        return max(depths)

    def _baseline_flops(self) -> int:
        config = changed(self.base, self._changes(study_folder.BASELINE, {}), f"{self.space.name}: baseline")
        plan = self._planner.plan(config)
        return budgets.flops_of(plan, plan.total_steps)


def _few_checkpoints(steps: int) -> dict[str, Any]:
    return {"checkpoint.every": max(1, steps // CHECKPOINTS), "checkpoint.keep": 1, "checkpoint.full_last": 1}


def _as_many_evaluations(every: int, base_steps: int, steps: int) -> dict[str, Any]:
    """Evaluate at the same shares of training as the base config, whatever the number of steps."""
    return {"train.eval_every": max(1, round(every * steps / base_steps))}
