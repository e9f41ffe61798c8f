"""The [optim] section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pli_train.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class OptimConfig(Section):
    """AdamW and its learning rate."""

    lr: float = Field(1e-4, gt=0, description="learning rate after warm-up")
    lr_end: float = Field(0.0, ge=0, description="learning rate at the end")
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    warmup_ratio: Share = Field(0.025, description="share of training spent warming up")
    decay_ratio: Share = Field(0.2, description="wsd: share of training spent decaying at the end")
    weight_decay: float = Field(0.01, ge=0, description="of weight matrices; norms and biases have none")
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: float = Field(1e-8, gt=0)

    @model_validator(mode="after")
    def _phases_fit(self) -> OptimConfig:
        if self.schedule == "wsd" and self.warmup_ratio + self.decay_ratio > 1:
            raise ValueError("`warmup_ratio` and `decay_ratio` add up to more than the whole of training")
        if self.lr_end > self.lr:
            raise ValueError("`lr_end` is above `lr`")
        return self
