"""Growth and gradient norms in Hugging Face's Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pli_train.integrations.grad_norms import GradNormCallback
    from pli_train.integrations.hugging_face import GrowthCallback

__all__ = ["GradNormCallback", "GrowthCallback"]


def __getattr__(name: str) -> Any:
    if name == "GradNormCallback":
        from pli_train.integrations.grad_norms import GradNormCallback

        return GradNormCallback
    if name == "GrowthCallback":
        from pli_train.integrations.hugging_face import GrowthCallback

        return GrowthCallback
    raise AttributeError(f"module 'pli_train.integrations' has no attribute '{name}'")
