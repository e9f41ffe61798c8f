"""Training objectives: causal LM, masked LM, image classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from pli_train.core.masking import IGNORED, masked, next_token
from pli_train.core.tokenizer import masking_rule

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Batch:
    """Inputs and labels of a batch.

    Attributes:
        task: `causal-lm`, `masked-lm` or `image-classification`.
        inputs: tokens, (blocks, block_size) int64; or images, (blocks, channels, height, width) float32.
        labels: the token to predict at each position, shaped like `inputs`; or each image's class, (blocks,) int64.
        locations: indices of the predicted positions in the flattened labels, (targets,) int64.
    """

    task: str
    inputs: Tensor
    labels: Tensor
    locations: Tensor

    @classmethod
    def of(cls, task: str, inputs: Tensor, labels: Tensor) -> Batch:
        """Make a batch on the CPU, where computing `locations` does not wait for a device."""
        return cls(task, inputs, labels, (labels.flatten() != IGNORED).nonzero().flatten())

    @property
    def targets(self) -> int:
        """Number of predicted positions."""
        return len(self.locations)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of a Hugging Face model of this task to return logits."""
        if self.task == "image-classification":
            return {"pixel_values": self.inputs}
        # By default, models store keys and values for generation, which training does not need.
        return {"input_ids": self.inputs} | ({"use_cache": False} if self.task == "causal-lm" else {})

    def rows(self, start: int, stop: int, device: torch.device) -> Batch:
        """Return a slice of the batch on a device; the copy to a GPU is asynchronous."""
        part = Batch.of(self.task, self.inputs[start:stop], self.labels[start:stop])
        tensors = (part.inputs, part.labels, part.locations)
        return Batch(self.task, *(_sent(tensor, device) for tensor in tensors))


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Objective:
    """Makes batches from blocks for one task.

    Args:
        task: `causal-lm`, `masked-lm` or `image-classification`.
        tokenizer: defines the mask token and the tokens that are never masked; None for images.
        mlm_probability: share of positions to predict for masked-lm.
    """

    def __init__(self, task: str, tokenizer: PreTrainedTokenizerBase | None, mlm_probability: float) -> None:
        self.task = task
        if tokenizer is None:
            return
        self._probability = mlm_probability
        self._rule = masking_rule(tokenizer)

    def batch(self, blocks: np.ndarray, seed: int) -> Batch:
        """Make a batch from blocks of `Blocks`. `seed` is the seed of its masks."""
        if self.task == "image-classification":
            return Batch.of(self.task, torch.from_numpy(blocks["pixels"]), torch.from_numpy(blocks["label"]))
        tokens = torch.from_numpy(blocks)
        if self.task == "causal-lm":
            return Batch.of(self.task, *next_token(tokens))
        return Batch.of(self.task, *masked(tokens, self._probability, *self._rule, seed))


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross entropy in nats, summed over the batch's targets: a float32 scalar."""
    logits = _logits(model, batch)
    return cross_entropy(logits.float(), batch.labels.flatten()[batch.locations], reduction="sum")


def row_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the cross entropy summed over each row of the batch, and the targets per row: (rows,) float32 each."""
    losses = cross_entropy(_logits(model, batch).float(), batch.labels.flatten()[batch.locations], reduction="none")
    totals = losses.new_zeros(2, batch.labels.numel())
    totals[:, batch.locations] = torch.stack([losses, torch.ones_like(losses)])
    sums, counts = totals.reshape(2, len(batch.labels), -1).sum(2)
    return sums, counts


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return logits of predicted positions only, which for masked-lm saves most of the output head's work."""
    bare: Any = getattr(model, "module", model)  # without the wrapper for several devices
    head = bare.get_output_embeddings()
    if head is None:
        return model(**batch.arguments).logits.flatten(0, -2)[batch.locations]
    handle = head.register_forward_pre_hook(lambda _, hidden: hidden[0].flatten(0, -2)[batch.locations])
    try:
        return model(**batch.arguments).logits
    finally:
        handle.remove()
