"""The [checkpoint] section."""

from __future__ import annotations

from pydantic import Field

from pli_train.section import Section


class CheckpointConfig(Section):
    """Which checkpoints beside those at the start, around every growth event, and at the end; and what stays."""

    every: int | None = Field(None, ge=1, description="steps between checkpoints")
    log_spaced: bool = Field(False, description="also at steps 1, 2, 4, 8, …")
    full_last: int = Field(3, ge=1, description="so many of the newest, and those before growth, can be resumed from")
    keep: int | None = Field(
        None, ge=1, description="at most so many of the `every` ones stay, the newest; none given: all"
    )
