"""How the weights of a newborn layer start.

An initialiser takes the donor's module and returns a new module; it never touches the donor. Each is drawn on the
CPU from a seed of its own, so that every rank, every device and every resumed run makes the same newborn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from transformers import PreTrainedModel


def add_noise(weight: Tensor, fraction: float, generator: Generator) -> Tensor:
    """`weight` plus Gaussian noise whose standard deviation is `fraction` of the weight's own.

    Args:
        weight: of any shape.
        fraction: σ of the noise ÷ std(weight).
        generator: draws the noise.
    """
    import torch

    noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return weight + fraction * weight.std() * noise


def random(donor: nn.Module, model: PreTrainedModel, seed: int, noise: float) -> nn.Module:
    """A layer as the model's own family would have drawn it. The donor only lends its shape; `noise` is not used."""
    import torch

    newborn = copy.deepcopy(donor).cpu()
    for parameter in newborn.parameters():
        # Transformers leaves alone what a loader marked as initialised, and a copy inherits that mark.
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        newborn.apply(model._init_weights)
    for (name, new), old in zip(newborn.named_parameters(), donor.parameters(), strict=True):
        if new.dim() > 1 and torch.equal(new, old.cpu()):
            raise RuntimeError(f"{type(model).__name__} has no random initialisation for {name}")
    return newborn


def clone(donor: nn.Module, model: PreTrainedModel, seed: int, noise: float) -> nn.Module:
    """The donor, bit for bit. Neither `seed` nor `noise` is used."""
    return copy.deepcopy(donor)


def clone_noise(donor: nn.Module, model: PreTrainedModel, seed: int, noise: float) -> nn.Module:
    """The donor plus Gaussian noise, scaled to each weight matrix. Norms and biases stay the donor's."""
    import torch

    newborn = copy.deepcopy(donor).cpu()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in newborn.parameters():
            if parameter.dim() > 1:
                parameter.copy_(add_noise(parameter, noise, generator))
    return newborn


INITIALISERS: dict[str, Callable[[nn.Module, PreTrainedModel, int, float], nn.Module]] = {
    "random": random,
    "clone": clone,
    "clone-noise": clone_noise,
}
