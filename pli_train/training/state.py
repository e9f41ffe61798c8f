"""The state of a run: model, optimizer, lineage, progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pli_train.growth.operators import context
from pli_train.models import build, kernels

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn
    from torch.optim import AdamW
    from transformers import PreTrainedModel

    from pli_train.core.anatomy import Anatomy
    from pli_train.core.lineage import Lineage
    from pli_train.training.trainer_state import Progress


class TrainedModel:
    """A model in training: with fused kernels, optionally compiled layers, and wrapped by accelerate.

    Args:
        model: the bare model.
        anatomy: parameter table of its family.
        accelerator: wraps the model.
        compiled: whether to compile each layer.

    Attributes:
        wrapped: the model to call in training.
        bare: the model without what accelerate wraps around it.
    """

    wrapped: PreTrainedModel
    bare: PreTrainedModel

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, accelerator: Accelerator, compiled: bool) -> None:
        self._anatomy, self._accelerator, self._compiled = anatomy, accelerator, compiled
        self.wrap(model)

    @property
    def layers(self) -> nn.ModuleList:
        """The stack of layers."""
        return build.stack_of(self.bare, self._anatomy)

    def wrap(self, model: PreTrainedModel) -> None:
        """Prepare a bare model for training."""
        kernels.fuse(model)
        if self._compiled:
            kernels.compile_layers(build.stack_of(model, self._anatomy))
        self.wrapped = self._accelerator.prepare(model)
        self.bare = self._accelerator.unwrap_model(self.wrapped)  # once, as it asks the disk which libraries there are

    def unwrap(self) -> PreTrainedModel:
        """Return the bare model. After changing it, call `wrap`."""
        model = self._accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        if model is not self.wrapped:
            self._accelerator.free_memory()  # drops accelerate's reference to the old wrapper
        return model

    def rewrap(self) -> None:
        """Wrap the model again, as the wrapper caches which parameters require gradients."""
        self.wrap(self.unwrap())


@dataclass
class TrainingState:
    """Model, optimizer, lineage and progress of a run, shared by the trainer and its callbacks.

    Attributes:
        model: the model, which grows.
        anatomy: parameter table of its family.
        lineage: layer ids by index, and the events so far.
        optimizer: AdamW over the bare model's parameters.
        progress: steps, tokens, FLOPs and seconds so far.
        block_size: tokens per block.
    """

    model: TrainedModel
    anatomy: Anatomy
    lineage: Lineage
    optimizer: AdamW
    progress: Progress
    block_size: int

    @property
    def step(self) -> int:
        """Number of optimizer updates done."""
        return self.progress.step

    @property
    def context(self) -> int:
        """Current sequence length in tokens."""
        return context.length(self.lineage, self.block_size)
