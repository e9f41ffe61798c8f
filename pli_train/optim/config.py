"""Configuration section `[optim]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pli_train.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class OptimConfig(Section):
    """AdamW and its learning rate."""

    lr: float = Field(1e-4, gt=0, allow_inf_nan=False, description="learning rate after warm-up")
    lr_end: float = Field(0.0, ge=0, description="learning rate at the end of training")
    schedule: Literal["linear", "cosine", "constant", "wsd"] = Field(
        "linear", description="course of the learning rate after warm-up; wsd: constant, then linear decay"
    )
    warmup_ratio: Share = Field(0.025, description="fraction of training used for warm-up")
    decay_ratio: Share = Field(0.2, description="wsd: fraction of training used for decay, at its end")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of matrices; norms and biases have none")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW: decay of the first moment")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW: decay of the second moment")
    eps: float = Field(1e-8, gt=0, description="AdamW: added to the root of the second moment")

    @model_validator(mode="after")
    def _phases_fit(self) -> OptimConfig:
        if self.schedule == "wsd" and self.warmup_ratio + self.decay_ratio > 1:
            raise ValueError("`warmup_ratio` and `decay_ratio` add up to more than 1")
        if self.lr_end > self.lr:
            raise ValueError("`lr_end` is above `lr`")
        return self
