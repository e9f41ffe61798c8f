"""A config of a tiny run, and studies of it."""

import pytest

from tests.sweeping import InProcess, write_config


@pytest.fixture(scope="session")
def mini(corpus, tmp_path_factory):
    """The config file of a run that grows from 1 to 3 layers in 12 steps."""
    return write_config(tmp_path_factory.mktemp("configs") / "mini.toml", corpus)


@pytest.fixture
def sweep_of(mini, tmp_path):
    """Run a study in this process: `sweep_of(space, trials=2)` → (its folder, its launcher, what was said).

    Without a baseline, unless it is asked for."""
    from pli_train.commands import sweep
    from pli_train.sweep import space_reading

    def run(
        found=None,
        folder=None,
        launcher=None,
        trials=2,
        goal="flops",
        budget=None,
        confirm=0,
        storage=None,
        on_line=lambda line: None,
        **settings,
    ):
        found = found or space_reading.from_grid(mini, ["growth.initializer=random,clone"], 1)
        options = {"sampler": None, "pruner": "none", "seed": 0, "baseline": False, **settings}
        folder, launcher, said = folder or tmp_path / "study", launcher or InProcess(), []
        made = sweep.settings_of(found, goal, budget, *options.values())
        sweep.sweep(made, folder, trials, launcher, confirm, storage, lambda line: (said.append(line), on_line(line)))
        return folder, launcher, said

    return run
