"""What the model is asked to predict: the next token (causal-lm), the masked ones (masked-lm), or an image's class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a position that is not predicted (the convention of PyTorch and Hugging Face)."""


@dataclass(frozen=True)
class Batch:
    """What goes in and what is to come out.

    Attributes:
        task: `causal-lm`, `masked-lm` or `image-classification`.
        inputs: tokens, (blocks, block_size) int64; or images, (blocks, channels, height, width) float32.
        labels: the token to predict at each position, like `inputs`; or each image's class, (blocks,) int64.
        places: where something is predicted, as indices into the flattened labels, (targets,) int64.
    """

    task: str
    inputs: Tensor
    labels: Tensor
    places: Tensor

    @classmethod
    def of(cls, task: str, inputs: Tensor, labels: Tensor) -> Batch:
        """A batch on the CPU, where looking for `places` waits for no device."""
        return cls(task, inputs, labels, (labels.flatten() != IGNORED).nonzero().flatten())

    @property
    def targets(self) -> int:
        """How many positions are predicted."""
        return len(self.places)

    @property
    def arguments(self) -> dict[str, Any]:
        """What a Hugging Face model of this task is called with, to return logits."""
        if self.task == "image-classification":
            return {"pixel_values": self.inputs}
        # Keys and values are kept for generation unless told otherwise: a copy of each that training never reads.
        return {"input_ids": self.inputs} | ({"use_cache": False} if self.task == "causal-lm" else {})

    def rows(self, start: int, stop: int, device: torch.device) -> Batch:
        """Some of the blocks, on a device; a copy to a GPU goes on while the CPU does something else."""
        part = Batch.of(self.task, self.inputs[start:stop], self.labels[start:stop])
        tensors = (part.inputs, part.labels, part.places)
        return Batch(self.task, *(_sent(tensor, device) for tensor in tensors))


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Objective:
    """Turns blocks into a batch for one task.

    Args:
        task: `causal-lm`, `masked-lm` or `image-classification`.
        tokenizer: gives the mask token and the tokens that are never masked; None for images.
        mlm_probability: share of positions to predict under masked-lm.
    """

    def __init__(self, task: str, tokenizer: PreTrainedTokenizerBase | None, mlm_probability: float) -> None:
        self.task = task
        if tokenizer is None:
            return
        self._probability = mlm_probability
        self._mask = tokenizer.mask_token_id
        self._vocabulary = len(tokenizer)
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))

    def batch(self, blocks: np.ndarray, seed: int) -> Batch:
        """The batch made of `blocks` as `Blocks` gives them. `seed` decides the masks of this one batch."""
        if self.task == "image-classification":
            return Batch.of(self.task, torch.from_numpy(blocks["pixels"]), torch.from_numpy(blocks["label"]))
        tokens = torch.from_numpy(blocks)
        return self._next_token(tokens) if self.task == "causal-lm" else self._masked(tokens, seed)

    def _next_token(self, tokens: Tensor) -> Batch:
        labels = torch.full_like(tokens, IGNORED)
        labels[:, :-1] = tokens[:, 1:]
        return Batch.of(self.task, tokens, labels)

    def _masked(self, tokens: Tensor, seed: int) -> Batch:
        """Devlin et al. 2018: of the chosen positions 80 % become the mask, 10 % a random token, 10 % stay."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.rand(tokens.shape, generator=generator) < self._probability
        chosen &= ~torch.isin(tokens, self._special)
        fate = torch.rand(tokens.shape, generator=generator)
        others = torch.randint(self._vocabulary, tokens.shape, generator=generator)
        inputs = torch.where(chosen & (fate < 0.8), self._mask, tokens)
        inputs = torch.where(chosen & (fate >= 0.9), others, inputs)
        return Batch.of(self.task, inputs, torch.where(chosen, tokens, IGNORED))


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy in nats, summed over the batch's targets: a float32 scalar.

    Logits are computed where something is predicted and nowhere else: a seventh of the head's work under masked-lm.
    """
    bare: Any = getattr(model, "module", model)  # out of what spreads it over devices
    head = bare.get_output_embeddings()
    if head is None:
        logits = model(**batch.arguments).logits.flatten(0, -2)[batch.places]
    else:
        handle = head.register_forward_pre_hook(lambda _, hidden: hidden[0].flatten(0, -2)[batch.places])
        try:
            logits = model(**batch.arguments).logits
        finally:
            handle.remove()
    return cross_entropy(logits.float(), batch.labels.flatten()[batch.places], reduction="sum")
