"""The sections of a configuration: each key with its type, default and meaning.

Names follow common use (`optim.lr`, `train.batch_size` per device, `train.mlm_probability`, …). `loading.py` reads them
from files.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pli_train.checkpointing.config import CheckpointConfig
from pli_train.core.anatomy import family
from pli_train.core.anatomy.parts import GROUPS, Group
from pli_train.data.config import IMAGES, DataConfig, TokenizerConfig
from pli_train.growth.config import GrowthConfig
from pli_train.models.config import ModelConfig
from pli_train.optim.config import OptimConfig
from pli_train.section import Section


class TrainConfig(Section):
    """Length of training, batches, precision, logging and evaluation."""

    steps: int | None = Field(None, ge=1, le=10**7, description="optimizer updates; give this or `epochs`")
    epochs: float | None = Field(None, gt=0, description="passes over the training text")
    block_size: int = Field(128, ge=8, description="tokens in a block")
    batch_size: int = Field(32, ge=1, description="blocks per batch, on each device")
    accumulation: int = Field(1, ge=1, description="batches accumulated before an update")
    order: int = Field(0, ge=0, description="number of the order of the training text; the seed has many orders")
    mlm_probability: float = Field(
        0.15, gt=0, lt=1, description="masked language models: share of the tokens to predict"
    )
    clip_norm: float = Field(1.0, ge=0, description="gradients are clipped to this global L2 norm; 0: no clipping")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a GPU, else fp32")
    compile: bool = Field(False, description="compile each layer (torch.compile); inserted layers reuse it")
    log_every: int = Field(10, ge=1, description="steps between scalars; the loss is logged at each step")
    grad_norms_every: int = Field(10, ge=0, description="steps between logged gradient norms of parts; 0: never")
    grad_norm_groups: tuple[Group, ...] = Field(
        GROUPS, min_length=1, description="levels of parts whose norms are logged"
    )
    update_ratios: bool = Field(False, description="also log norm of the update ÷ norm of the weights")
    eval_every: int = Field(100, ge=1, description="steps between evaluations")
    eval_blocks: int = Field(256, ge=1, description="maximum held-out blocks drawn for evaluations")
    eval_full: float = Field(
        0.3,
        ge=0,
        description="evaluate all held-out blocks at the end if there are at most this share of the blocks trained on",
    )

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        return self


class TrackingConfig(Section):
    """Where scalars are logged."""

    tensorboard: bool = Field(True, description="write event files for TensorBoard")


class RunConfig(Section):
    """The whole configuration of a run."""

    name: str = Field("run", pattern=r"^[\w.\-]+$", description="the run folder's name")
    description: str = Field("", description="what the run is for, in a few words")
    seed: int = Field(0, ge=0, description="seed of weights, data order, masks and noise")
    model: ModelConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig
    optim: OptimConfig = OptimConfig()
    growth: GrowthConfig = GrowthConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _model_and_data_meet(self) -> RunConfig:
        images = self.data.source in IMAGES
        if self.model.family and images != (family(self.model.family).task == "image-classification"):
            content = "images" if images else f"text (only {', '.join(IMAGES)} holds images)"
            raise ValueError(
                f"data.source: '{self.data.source}' holds {content}, and a {self.model.family} cannot learn from it"
            )
        return self
