"""Undo what Hugging Face's Trainer sets for the whole process."""

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _not_compiling(monkeypatch):
    """A Trainer that compiles sets a variable of the environment, and later tests would train compiled models."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
