"""The [model] section."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pli_train.core.anatomy import families, trainable
from pli_train.core.errors import did_you_mean
from pli_train.section import Section

MOST = 1000
"""Maximum number of layers, and of heads of a layer; larger numbers are assumed to be mistakes."""


class ModelConfig(Section):
    """The model and its depth at step 0. Set either `family` (built from a config) or `name_or_path`."""

    family: str | None = Field(None, description="model type to build from a config, e.g. bert")
    config: dict[str, Any] = Field({}, description="fields of that family's Hugging Face config")
    name_or_path: str | None = Field(
        None, description="a run, a checkpoint, a model folder or a hub name, instead of `family`"
    )
    weights: Literal["scratch", "pretrained"] = Field(
        "scratch", description="train from scratch, or start from the weights of `name_or_path`"
    )
    initial_layers: int | None = Field(
        None, ge=0, le=MOST, description="layers at step 0; default: those of the config"
    )
    initial_heads: int | None = Field(None, ge=1, le=MOST, description="heads of each layer at step 0; default: all")

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if (self.family is None) == (self.name_or_path is None):
            raise ValueError("give exactly one of `family` and `name_or_path`")
        if self.family and self.family not in trainable():
            if self.family in families():
                problem = f"'{self.family}' is supported for analysis only: its growth in training is not tested"
            else:
                problem = f"unknown family '{self.family}'{did_you_mean(self.family, trainable())}"
            raise ValueError(f"{problem} (known: {', '.join(trainable())})")
        if self.family and self.weights == "pretrained":
            raise ValueError('`weights = "pretrained"` needs `name_or_path`')
        return self
