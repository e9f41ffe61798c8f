"""Measures that need no ablation: head importance from gradients, and block influence from outputs.

Head importance (Michel et al. 2019, arXiv:1905.10650): I_h = E_x |Σ a_h · ∂L(x)/∂a_h|. The sum is over positions and
dimensions of the outputs a_h of head h on block x, and L(x) is the mean loss of the block. It is the mean absolute
derivative of a block's loss with respect to a gate on the head. Relative importance is divided by the L2 norm over the
heads of the layer.

Block influence (Men et al. 2024, arXiv:2403.03853): 1 − E cos(h_in, h_out) of the hidden states before and after a
layer, over all tokens. 0 for a layer that changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pli_analysis.inference.block_losses import losses_of
from pli_analysis.inference.checkpoint_model import AT_ONCE, hidden_of, stack_of
from pli_analysis.inference.devices import double
from pli_analysis.metrics.ablation.interventions import attention_output
from pli_train.core.masking import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint


class Importance(NamedTuple):
    """Measures of a part; None for those that its type does not have.

    Attributes:
        head: I_h, in nats.
        relative: I_h ÷ the L2 norm of I over the heads of the layer.
        block_influence: 1 − E cos(h_in, h_out) of a layer.
    """

    head: float | None = None
    relative: float | None = None
    block_influence: float | None = None


UNKNOWN = Importance()


def of_parts(checkpoint: Checkpoint, model: PreTrainedModel, sample: Sample) -> dict[tuple[str, str], Importance]:
    """Return (part type, part) → measures, for all heads and layers."""
    anatomy, lineage = checkpoint.anatomy, checkpoint.lineage
    stack = stack_of(model, anatomy)
    outputs: dict[int, Tensor] = {}
    cosines = np.zeros(len(stack))
    hooks = []
    for index, layer in enumerate(stack):
        hooks.append(attention_output(layer, anatomy).register_forward_pre_hook(_keeper(outputs, index)))
        hooks.append(layer.register_forward_hook(_compared(cosines, index), with_kwargs=True))
    importance = np.zeros((len(stack), anatomy.sizes(checkpoint.config)["head"]))
    for inputs, labels in zip(sample.tokens.split(AT_ONCE), sample.labels.split(AT_ONCE), strict=True):
        targets = (labels != IGNORED).sum(dim=1).clamp(min=1)
        (losses_of(model, inputs, labels) / targets).sum().backward()
        for index, values in outputs.items():
            importance[index] += _gates(values, importance.shape[1])
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    importance /= len(sample.tokens)
    found: dict[tuple[str, str], Importance] = {}
    for index, (id, count) in enumerate(zip(lineage.stack, checkpoint.heads, strict=True)):
        heads = importance[index, :count]
        norm = float(np.linalg.norm(heads))
        for number, value in enumerate(heads.tolist()):
            found["head", f"{id}.h{number}"] = Importance(value, value / norm if norm else 0.0)
        found["layer", id] = Importance(block_influence=1 - float(cosines[index]) / sample.tokens.numel())
    return found


def _keeper(outputs: dict[int, Tensor], index: int) -> Callable[..., None]:
    """Return a hook that keeps the outputs of a layer's heads, and their gradients."""

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].retain_grad()
        outputs[index] = inputs[0]

    return keep


def _compared(cosines: np.ndarray, index: int) -> Callable[..., None]:
    """Return a hook that adds the cosines between a layer's input and output, over all tokens."""

    def add(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        from torch.nn.functional import cosine_similarity

        before = double((inputs[0] if inputs else named["hidden_states"]).detach())
        after = double(hidden_of(output).detach())
        cosines[index] += float(cosine_similarity(before, after, dim=-1).sum())

    return add


def _gates(values: Tensor, heads: int) -> np.ndarray:
    """Return Σ over blocks of |Σ a · ∂L/∂a| for each head."""
    assert values.grad is not None
    products = (double(values.detach()) * double(values.grad)).unflatten(-1, (heads, -1))
    return products.sum(dim=(1, 3)).abs().sum(dim=0).cpu().numpy()
