"""Train any Hugging Face transformer while it grows, and record the identity of each layer and head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pli_train.api import (
        Callback,
        Documents,
        Growth,
        Moment,
        NamedSchedule,
        Operator,
        train,
    )

__all__ = [
    "Callback",
    "Documents",
    "Growth",
    "Moment",
    "NamedSchedule",
    "Operator",
    "train",
]


def __getattr__(name: str) -> Any:
    # On first use, so that reading a lineage or asking for --help loads nothing heavy.
    if name in __all__:
        from pli_train import api

        return getattr(api, name)
    raise AttributeError(f"module 'pli_train' has no attribute '{name}'")
