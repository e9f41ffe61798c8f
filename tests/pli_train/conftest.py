"""Runs that grow in every way."""

import pytest


@pytest.fixture(scope="session")
def everything(config_of):
    """Make the config of a run with every operator and policy."""
    from tests.growing import EVERYTHING, WIDE

    def make(family):
        model = {"family": family, "config": WIDE[family], "initial_layers": 1, "initial_heads": 2}
        swapping = {"probability": 0.5, "anneal": "linear", "pairs": "random"}
        growth = {"schedule": EVERYTHING, "swapping": swapping}
        return config_of(family, {"model": model, "growth": growth})

    return make


@pytest.fixture(scope="session")
def unbroken(everything, tmp_path_factory):
    """A finished run of each family that had every operator and policy."""
    from pli_train.training import launch
    from tests.growing import WIDE

    folders = {}
    for family in WIDE:
        folders[family] = tmp_path_factory.mktemp("everything") / family
        launch.begin(everything(family), folders[family]).run()
    return folders
