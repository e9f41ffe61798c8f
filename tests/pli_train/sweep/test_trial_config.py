"""Configs of trials: within the budget, valid, and the same when read again."""

import json

import pytest

from pli_train.config import loading
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.study_folder import BASELINE, GROWTH
from pli_train.sweep import budget, space_reading
from pli_train.sweep.budget import Planner
from pli_train.sweep.trial_config import TrialConfigs
from tests.sweeping import write_config


@pytest.fixture(scope="module")
def planner():
    return Planner()


@pytest.fixture
def configs(mini, planner):
    def make(table, objective="flops", given=None):
        return TrialConfigs(space_reading.from_table({"base": mini, **table}, "mine.toml"), objective, given, planner)

    return make


EVERYTHING = {
    "space": {
        "optim.lr": {"low": 1e-3, "high": 1e-2, "log": True},
        "growth.initializer": ["random", "clone"],
        "schedule": {"position": ["start", 0.25], "events": [1, 2], "first": 0.2, "last": 0.6},
    }
}
CHOSEN = {"optim.lr": 0.004, "growth.initializer": "clone", "schedule.position": 0.25, "schedule.events": 2}


def test_planned_flops_are_those_that_runs_of_every_operator_count(config_of, runs, family, planner):
    config = config_of(family)
    counted = run_folder.read_json(runs[family] / f"checkpoint-{config.train.steps}" / run_folder.TRAINER_STATE)
    (state,) = counted["stateful_callbacks"].values()
    assert budget.flops_of(planner.plan(config), config.train.steps) == state["flops"]


@pytest.mark.parametrize("schedule", ["", "0.25@1 0.5@1", "0.1@1 0.9@1", "3@0 6@1"])
def test_steps_are_the_most_within_the_budget(mini, planner, schedule):
    config = loading.load(mini, [f'growth.schedule="{schedule}"'])
    plan = planner.plan(config)
    least = {"0.1@1 0.9@1": 6, "3@0 6@1": 7}.get(schedule, 4)  # else an event lies behind the end
    costs = {steps: budget.flops_of(plan, steps) for steps in range(least, 80)}
    for given in (costs[20], costs[20] + 1, costs[40] - 1):
        expected = max(steps for steps, cost in costs.items() if cost <= given)
        assert budget.steps_within(plan, given) == expected


def test_a_budget_below_what_a_run_needs_is_one_clear_line(mini, planner):
    plan = planner.plan(loading.load(mini, ['growth.schedule="9@0"']))
    with pytest.raises(BadInput, match=r"a budget of 10 FLOPs is used up before step 10.*give a larger --budget"):
        budget.steps_within(plan, 10)


def test_each_trial_has_the_flops_of_the_baseline_and_not_more(configs, planner):
    found = configs(EVERYTHING)
    baseline = found.plan(BASELINE, {})
    assert baseline.config.train.steps == found.base.train.steps
    assert baseline.config.model.initial_layers == 3 and baseline.config.growth.schedule == ""
    assert baseline.flops == found.budget
    growth = found.plan(GROWTH, CHOSEN)
    assert growth.config.train.steps > found.base.train.steps
    one_more = budget.flops_of(planner.plan(growth.config), growth.steps + 1)
    assert growth.flops <= found.budget < one_more


def test_a_schedule_by_rule_becomes_a_schedule(configs):
    growth = configs(EVERYTHING).plan(GROWTH, CHOSEN).config
    assert growth.growth.schedule == "0.2@0 0.6@0"
    assert (growth.model.initial_layers, growth.optim.lr, growth.growth.initializer) == (1, 0.004, "clone")


def test_the_config_that_is_written_is_read_as_it_was(configs, tmp_path):
    planned = configs({**EVERYTHING, "set": {"growth.swapping.probability": 0.1, "train.clip_norm": 1e-7}})
    planned = planned.plan(GROWTH, CHOSEN, "growth-0007")
    (tmp_path / "x.toml").write_text(planned.to_toml())
    assert loading.load(str(tmp_path / "x.toml")) == planned.config
    assert planned.config.name == "growth-0007"


def test_a_schedule_of_tables_survives_being_written(mini, planner, tmp_path):
    events = [{"operator": "insert", "at": 0.25, "index": 1}, {"operator": "swap", "at": 6, "indices": [0, 1]}]
    grid = space_reading.from_grid(mini, ["optim.lr=1e-3"], 1, [f"growth.schedule={json_toml(events)}"])
    found = TrialConfigs(grid, "tokens", None, planner)
    planned = found.plan(GROWTH, {"optim.lr": 1e-3, "seed": 0})
    (tmp_path / "x.toml").write_text(planned.to_toml())
    assert loading.load(str(tmp_path / "x.toml")) == planned.config


def json_toml(tables):
    rows = ("{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}" for table in tables)
    return f"[{', '.join(rows)}]"


def test_seeds_are_added_to_the_bases_and_shared_by_both_arms(configs):
    found = configs({"seeds": 2, "set": {"seed": 5}, "space": {"growth.initializer": ["random"]}})
    for arm in (GROWTH, BASELINE):
        assert [found.plan(arm, {"seed": number}).config.seed for number in (0, 1)] == [5, 6]


@pytest.mark.parametrize(("given", "steps"), [(None, 12), (64 * 20 + 63, 20)])
def test_a_budget_of_tokens_sets_the_steps(configs, given, steps):
    found = configs(EVERYTHING, "tokens", given)
    assert {found.plan(arm, {}).steps for arm in (GROWTH, BASELINE)} == {steps}


def test_a_plateau_cannot_be_planned_in_flops(configs):
    table = {"space": {"growth.schedule": [{"name": "adaptive", "layers": 3}]}}
    assert configs(table, "tokens").plan(GROWTH, {"growth.schedule": {"name": "adaptive", "layers": 3}}).flops is None
    with pytest.raises(BadInput, match="waits for a plateau, so FLOPs cannot be planned; use --objective tokens"):
        configs(table).plan(GROWTH, {"growth.schedule": {"name": "adaptive", "layers": 3}})


def test_every_value_of_a_space_is_checked_before_anything_runs(configs):
    table = {"space": {"optim.lr": {"low": 1e-3, "high": 1e-2}, "growth.initializer": ["clone", "clown", "cline"]}}
    found = configs(table)
    with pytest.raises(BadInput) as wrong:
        found.check({GROWTH: found.space})
    assert len(wrong.value.mistakes) == 2
    assert "growth.initializer: " in wrong.value.mistakes[0] and "'clown'" in wrong.value.mistakes[0]


def test_an_unknown_key_is_reported_once_for_all_seeds(mini, planner):
    found = TrialConfigs(space_reading.from_grid(mini, ["optim.rl=1,2"], 3), "flops", None, planner)
    with pytest.raises(BadInput, match=r"optim\.rl: unknown key; did you mean 'optim\.lr'") as wrong:
        found.check({GROWTH: found.space})
    assert len(wrong.value.mistakes) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", space_reading.presets())
def test_every_value_of_a_preset_space_makes_a_config(name, corpus, tmp_path, planner):
    six = write_config(tmp_path / "six.toml", corpus, growth={"schedule": "0.1@1 0.2@1 0.3@1 0.4@1 0.5@1"})
    found = TrialConfigs(space_reading.load(name, base=six), "flops", None, planner)
    rate = found.base.optim.lr
    found.check({GROWTH: found.space, BASELINE: found.space.of_baseline(rate)})


def test_all_trials_are_evaluated_at_the_same_shares_of_training(configs):
    """The base has 6 evaluations in 12 steps; with ten times its budget there are more, most of all with one layer."""
    budget = 10 * configs({"space": {"optim.lr": [0.01]}}).budget
    depths = {"space": {"model.initial_layers": [1, 3], "growth.schedule": [""]}}
    plans = [
        configs(depths, given=budget).plan(GROWTH, {"model.initial_layers": depth, "growth.schedule": ""})
        for depth in (1, 3)
    ]
    assert plans[0].steps > 1.5 * plans[1].steps > 150
    assert [round(plan.steps / plan.config.train.eval_every) for plan in plans] == [6, 6]
    kept = configs({**depths, "set": {"train.eval_every": 4}}, given=budget).plan(GROWTH, {"model.initial_layers": 3})
    assert kept.config.train.eval_every == 4
