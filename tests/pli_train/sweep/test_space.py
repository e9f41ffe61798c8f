"""Spaces: files, presets and grids, and what is wrong with them."""

import itertools
import json

import optuna
import pytest

from pli_train.core.errors import BadInput
from pli_train.core.run_format import study_folder
from pli_train.sweep import space_reading
from pli_train.sweep.changes import base_config
from tests.sweeping import study_of

CONDITIONAL = """
base = "tiny"
[space]
"growth.noise" = { low = 0.01, high = 0.5, log = true, when = { "growth.initializer" = ["clone-noise"] } }
"growth.initializer" = ["random", "clone-noise"]
"optim.lr" = { low = 1e-3, high = 1e-2 }
"""


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return space_reading.load(str(path))

    return load


@pytest.mark.parametrize("name", space_reading.presets())
def test_a_preset_is_a_space_with_a_base(name):
    found = space_reading.load(name)
    assert found.parameters
    assert base_config(found).growth.schedule


def test_a_parameter_exists_only_where_its_condition_holds(load):
    found = load(CONDITIONAL)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    chosen = [found.suggest(study.ask()) for _ in range(20)]
    for values in chosen:
        assert ("growth.noise" in values) == (values["growth.initializer"] == "clone-noise")
        assert 1e-3 <= values["optim.lr"] <= 1e-2
    assert len({values["growth.initializer"] for values in chosen}) == 2


def test_asking_again_for_the_values_of_a_trial_gives_the_same(load):
    found, study = load(CONDITIONAL), optuna.create_study()
    trial = study.ask()
    first = found.suggest(trial)
    study.sampler = optuna.samplers.RandomSampler(seed=99)
    assert found.suggest(optuna.trial.Trial(study, trial._trial_id)) == first


WRONG = {
    'bsae = "tiny"': "mine.toml: bsae: unknown key; did you mean 'base'?",
    "[space]": "mine.toml: space: is empty; add at least one config key with its values or range",
    '[space]\n"optim.lr" = []': "mine.toml: space.optim.lr: no values; list at least one",
    '[space]\n"optim.lr" = { low = 2, high = 1 }': "mine.toml: space.optim.lr: no range: low 2 to high 1",
    '[space]\n"optim.lr" = { low = 0.0, high = 1, log = true }': "low > 0 and no step",
    '[space]\n"optim.lr" = { low = 1, heigh = 2 }': "unknown key 'heigh'; did you mean 'high'?",
    '[space]\n"optim.lr" = { low = "a", high = 2 }': "low: expected a number, got 'a'",
    '[space]\n"optim.lr" = { choices = [1], when = { "optim.eps" = [1] } }': "when: 'optim.eps' is not in the space",
    "[space]\na = { choices = [1], when = { b = [1] } }\nb = { choices = [1], when = { a = [1] } }": "are circular",
    "[space]\na = { choices = [1], when = { b = [2] } }\nb = [1]": "when: b is never 2",
    "[space.schedule]\nposition = 'top'\nevent = [1, 2]": "unknown key; did you mean 'events'?",
    "[space.schedule]\nposition = ['start', 'midle']": "mine.toml: space.schedule: position is 'midle'; it is one of",
    "[space.schedule]\nfirst = { low = 0.1, high = 1.5 }": "mine.toml: space.schedule: first is 1.5; it is a fraction",
    "[space.schedule]\nstart_depth = 4\ndepth = [2, 6]": "mine.toml: space.schedule: depth is 2; it must be above",
    "seeds = -1": "seeds: expected a whole number, got -1",
    "space = 3": "space: expected a table",
    "[space": "not TOML",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_a_space_that_cannot_be_used_is_one_clear_line(load, text, message):
    with pytest.raises(BadInput) as wrong:
        load(text)
    assert message in str(wrong.value)


def test_a_config_is_not_a_space(load):
    with pytest.raises(BadInput) as wrong:
        load('description = "mine"\n[model]\ninitial_layers = 1\n[growth]\nschedule = "0.5@1"')
    (line,) = wrong.value.mistakes
    assert line.endswith("mine.toml: is a config, not a search space; add --grid KEY=A,B or --seeds K")
    with pytest.raises(BadInput, match="is a config"):
        load('extends = "tiny"')
    with pytest.raises(BadInput, match="train: unknown key"):
        load('base = "tiny"\n[train]\nsteps = 3')


def test_all_mistakes_are_reported_at_once(load):
    with pytest.raises(BadInput) as wrong:
        load('[space]\n"optim.lr" = []\n"optim.eps" = { low = 2, high = 1 }')
    assert len(wrong.value.mistakes) == 2


def test_an_unknown_space_is_an_error_with_a_suggestion(tmp_path):
    with pytest.raises(BadInput, match="no space 'whn'; did you mean 'when'"):
        space_reading.load("whn")
    with pytest.raises(BadInput, match=r"none\.toml: cannot be read \(no such file"):
        space_reading.load(str(tmp_path / "none.toml"))


def test_a_grid_is_every_combination_with_every_seed():
    found = space_reading.from_grid("tiny", ["optim.lr=1e-3,2e-3", "growth.initializer=random,clone"], 2)
    expected = [
        {"seed": seed, "optim.lr": rate, "growth.initializer": name}
        for seed, rate, name in itertools.product((0, 1), (1e-3, 2e-3), ("random", "clone"))
    ]
    assert sorted(found.grid(), key=json.dumps) == sorted(expected, key=json.dumps)
    assert [point["seed"] for point in found.grid()[:4]] == [0] * 4, "the first seed of all variants comes first"


def test_a_grid_skips_values_whose_condition_does_not_hold(load):
    found = load('seeds = 1\n[space]\na = ["x", "y"]\nb = { choices = [1, 2], when = { a = ["y"] } }\n')
    points = [{key: value for key, value in point.items() if key != "seed"} for point in found.grid()]
    assert points == [{"a": "x"}, {"a": "y", "b": 1}, {"a": "y", "b": 2}]


def test_a_range_is_no_grid(load):
    with pytest.raises(BadInput, match=r"optim\.lr, growth\.noise: a grid needs a list of values, not a range"):
        load(CONDITIONAL).grid()


@pytest.mark.parametrize("word", ["optim.lr", "optim.lr=", "=1"])
def test_a_grid_word_needs_a_key_and_values(word):
    with pytest.raises(BadInput, match="not KEY=VALUE,VALUE"):
        space_reading.from_grid("tiny", [word], 1)


def test_a_key_of_a_grid_is_named_once():
    with pytest.raises(BadInput, match="given twice"):
        space_reading.from_grid("tiny", ["optim.lr=1", "optim.lr=2"], 1)


def test_a_seed_is_not_a_variant(load):
    with pytest.raises(BadInput, match="--grid seed=…: seeds are not a variant; use --seeds K"):
        space_reading.from_grid("tiny", ["seed=1,2"], 1)
    with pytest.raises(BadInput, match=r"space\.seed: is also set by `seeds`"):
        load("seeds = 2\n[space]\nseed = [1, 2]\n")


def test_a_searched_key_is_not_overridden(load):
    with pytest.raises(BadInput, match=r"--set optim\.lr: is searched by tiny"):
        space_reading.from_grid("tiny", ["optim.lr=1,2"], 1, ["optim.lr=1"])
    with pytest.raises(BadInput, match=r"--set optim\.lr: is searched by mine"):
        space_reading.overridden(load(CONDITIONAL), ["optim.lr=1"])
    assert space_reading.overridden(load(CONDITIONAL), ["train.steps=7"]).fixed == {"train.steps": 7}


def test_the_first_seed_of_a_grid_is_set(tmp_path, mini):
    found = space_reading.from_grid(mini, ["growth.initializer=random,clone"], 2, ["seed=5"])
    studied = study_of(found, tmp_path / "study", trials=1, baseline=False)
    assert sorted(row["seed"] for row in study_folder.trials(studied)) == [5, 5, 6, 6]


# --- the baseline ---------------------------------------------------------------------------------------------------


def test_the_baseline_is_tuned_over_the_same_range_of_learning_rates(load):
    tuned = load(CONDITIONAL).of_baseline(2e-3)
    assert [(p.name, p.low, p.high) for p in tuned.parameters] == [("optim.lr", 1e-3, 1e-2)]


def test_the_baseline_is_tuned_where_the_space_does_not_search_the_learning_rate(load):
    found = load('[space]\n"growth.initializer" = ["random", "clone"]')
    (rate,) = found.of_baseline(2e-3, lowest=1e-3).parameters
    assert (rate.name, rate.low, rate.high, rate.log) == ("optim.lr", 1e-3, 8e-3, True)


@pytest.mark.parametrize("variants", [2, 3, 5])
def test_the_baseline_of_a_grid_has_as_many_runs_as_growth(variants):
    values = ",".join(str(0.1 * n) for n in range(variants))
    found = space_reading.from_grid("tiny", [f"growth.noise={values}"], 3)
    baseline = found.of_baseline(2e-3)
    assert len(baseline.grid()) == len(found.grid()) == 3 * variants
    rates = sorted({point["optim.lr"] for point in baseline.grid()})
    assert rates[0] == pytest.approx(2e-3 / 4) and rates[-1] == pytest.approx(2e-3 * 4)


def test_the_values_of_a_grid_may_be_tables():
    early, late = ({"name": "interleave", "growth_factor": 2, "at": at} for at in (0.2, 0.5))
    words = [f'{{name = "interleave", growth_factor = 2, at = {at}}}' for at in (0.2, 0.5, 0.2)]
    found = space_reading.from_grid("tiny", [f"growth.schedule={','.join(words)}"], 1)
    assert [point["growth.schedule"] for point in found.grid()] == [early, late]


def test_the_baseline_of_a_grid_of_learning_rates_has_the_same():
    found = space_reading.from_grid("tiny", ["optim.lr=1e-3,2e-3", "growth.noise=0.1,0.2"], 1)
    assert [point["optim.lr"] for point in found.of_baseline(2e-3).grid()] == [1e-3, 2e-3]
