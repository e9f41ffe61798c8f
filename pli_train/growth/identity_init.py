"""Initialize layers that leave the model's output unchanged.

Pre-LN (x + f(norm(x))): a branch whose output projection is zero adds zero, so the layer is the identity. For Llama
this is LLaMA Pro's block expansion (Wu et al. 2024, arXiv:2401.02415).

Post-LN (norm(x + f(x))): with silent branches the layer still normalizes twice. It is exact when what it gets is
already normalized and bare: the newborn takes over the affine part of the norm below it as its last one, the norm below
becomes (1, 0), and the newborn's first norm is (1, 0). Normalizing what is normalized leaves it, up to the norm's
epsilon (1e-12 in BERT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from pli_train.core.anatomy import Anatomy


def silence(layer: nn.Module, anatomy: Anatomy) -> None:
    """Make a layer's output projections zero, biases included."""
    import torch

    with torch.no_grad():
        for path in anatomy.identity["zero"]:
            for parameter in layer.get_submodule(path).parameters():
                parameter.zero_()


def take_over_norm(newborn: nn.Module, below: nn.Module, anatomy: Anatomy) -> None:
    """Post-LN: hand the affine part of the norm below to the newborn's last norm. Changes both in place.

    Args:
        newborn: silent layer that has just been set above.
        below: the norm whose output it gets: the last one of the layer below, or the one under the stack.
    """
    import torch

    first, last = (newborn.get_submodule(str(anatomy.identity[name])) for name in ("first_norm", "last_norm"))
    last.load_state_dict(below.state_dict())
    with torch.no_grad():
        for norm in (first, below):
            for name, parameter in norm.named_parameters():
                parameter.fill_(1.0 if name == "weight" else 0.0)


def norm_below(index: int, model: nn.Module, layers: nn.ModuleList, anatomy: Anatomy) -> nn.Module:
    """Post-LN: the norm whose output a layer at `index` gets."""
    if index > 0:
        return layers[index - 1].get_submodule(str(anatomy.identity["last_norm"]))
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    return base.get_submodule(str(anatomy.identity["below"]))
