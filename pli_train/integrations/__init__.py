"""Growth inside other people's training loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pli_train.integrations.hugging_face import GrowthCallback

__all__ = ["GrowthCallback"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from pli_train.integrations import hugging_face

        return getattr(hugging_face, name)
    raise AttributeError(f"module 'pli_train.integrations' has no attribute '{name}'")
