"""Fixtures: checkpoints of other programs."""

import pytest

from tests.odd import STACKS, saved


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Checkpoints of a Llama and of a BERT, as transformers saves them. Not to be written to."""
    folder = tmp_path_factory.mktemp("plain")
    return {family: saved(folder / family, family) for family in STACKS}
