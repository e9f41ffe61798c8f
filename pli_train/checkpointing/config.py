"""Configuration section `[checkpoint]`."""

from __future__ import annotations

from pydantic import Field

from pli_train.section import Section


class CheckpointConfig(Section):
    """Which checkpoints to write besides those at start and end and around growth events, and which to keep."""

    every: int | None = Field(None, ge=1, description="steps between checkpoints")
    log_spaced: bool = Field(False, description="also at steps 1, 2, 4, 8, …")
    full_last: int = Field(3, ge=1, description="newest ones that keep optimizer state, besides those before growth")
    keep: int | None = Field(None, ge=1, description="number of newest `every` checkpoints to keep (default: all)")
