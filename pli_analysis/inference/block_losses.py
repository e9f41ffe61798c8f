"""Losses of a model on blocks of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.inference.checkpoint_model import AT_ONCE
from pli_train.core.errors import BadInput
from pli_train.core.masking import IGNORED

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint


def losses_of(model: PreTrainedModel, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each block, summed over its predicted tokens, in nats: (blocks,), differentiable.

    Args:
        inputs: (blocks, block_size) int64.
        labels: (blocks, block_size) int64; −100 where nothing is predicted.
    """
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=inputs).logits.float()
    each = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED)
    return each.view(labels.shape).sum(dim=1)


def block_losses(model: PreTrainedModel, sample: Sample) -> np.ndarray:
    """Return the loss of each block of a sample, summed over its predicted tokens, in nats: (blocks,) float64.

    Args:
        model, sample: on the same device.
    """
    import torch

    with torch.inference_mode():
        pairs = zip(sample.tokens.split(AT_ONCE), sample.labels.split(AT_ONCE), strict=True)
        return np.concatenate([losses_of(model, *pair).cpu().double().numpy() for pair in pairs])


def finite_losses(checkpoint: Checkpoint, model: PreTrainedModel, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each block, as `block_losses`, and its number of predicted tokens.

    Args:
        checkpoint: the model's checkpoint, named in errors.
        model, sample: on the same device.

    Raises:
        BadInput: if no token is predicted, or a loss is not finite.
    """
    targets = (sample.labels != IGNORED).sum(dim=1).cpu().numpy()
    if not targets.any():
        raise BadInput(
            f"{checkpoint.path}: no token of the text is predicted (blocks of {sample.labels.shape[1]} tokens)"
        )
    losses = block_losses(model, sample)
    if not np.isfinite(losses).all():
        raise BadInput(f"{checkpoint.path}: its loss on the text is not finite; nothing can be measured on it")
    return losses, targets
