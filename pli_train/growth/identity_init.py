"""Initialize layers that leave the model's output unchanged.

Pre-LN (x + f(norm(x))): a branch whose output projection is zero adds zero, so the layer is the identity. For Llama
this is LLaMA Pro's block expansion (Wu et al. 2024, arXiv:2401.02415).

Post-LN (norm(x + f(x))): with silent branches the layer still normalizes twice. It is the identity if its input is
normalized without an affine part: so the new layer's last norm takes over the weight and bias of the norm below it, and
both the norm below and the new layer's first norm get weight 1 and bias 0. Normalizing a normalized input leaves it
unchanged, up to the norm's epsilon (1e-12 in BERT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from pli_train.core.anatomy import Anatomy


def silence(layer: nn.Module, anatomy: Anatomy) -> None:
    """Set a layer's output projections to zero, biases included."""
    import torch

    with torch.no_grad():
        for path in anatomy.identity["zero"]:
            for parameter in layer.get_submodule(path).parameters():
                parameter.zero_()


def take_over_norm(newborn: nn.Module, below: nn.Module, anatomy: Anatomy) -> None:
    """Post-LN: move weight and bias of the norm below to the new layer's last norm. Both change in place.

    Args:
        newborn: silenced layer that is inserted above `below`.
        below: the norm whose output is its input: the last one of the layer below, or the one under the stack.
    """
    import torch

    first, last = (newborn.get_submodule(str(anatomy.identity[name])) for name in ("first_norm", "last_norm"))
    last.load_state_dict(below.state_dict())
    with torch.no_grad():
        for norm in (first, below):
            for name, parameter in norm.named_parameters():
                parameter.fill_(1.0 if name == "weight" else 0.0)


def norm_below(index: int, model: nn.Module, layers: nn.ModuleList, anatomy: Anatomy) -> nn.Module:
    """Post-LN: return the norm whose output is the input of the layer at `index`."""
    if index > 0:
        return layers[index - 1].get_submodule(str(anatomy.identity["last_norm"]))
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    return base.get_submodule(str(anatomy.identity["below"]))
