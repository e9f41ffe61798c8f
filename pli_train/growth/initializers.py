"""Initializers of new layers: random, clone, clone with noise, identity, average.

An initializer takes the place of birth and returns a new module; it never touches a layer that is there. Each is drawn
on the CPU from a seed of its own, so that every rank, every device and every resumed run makes the same newborn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pli_train.growth import identity_init as at_birth

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from pli_train.core.anatomy import Anatomy


@dataclass(frozen=True)
class InsertionPoint:
    """Where a layer is about to be born.

    Attributes:
        model, anatomy: the model that grows, and its family's table.
        template: a layer of the shape wanted: the donor, where there is one.
        neighbors: the layers below and above, as far as there are any.
        seed: what random numbers are drawn from.
        noise: standard deviation of the noise ÷ that of each weight matrix.
    """

    model: nn.Module
    anatomy: Anatomy
    template: nn.Module
    neighbors: tuple[nn.Module, ...]
    seed: int
    noise: float = 0.0


def random(position: InsertionPoint) -> nn.Module:
    """A layer as the model's own family would have drawn it."""
    import torch

    newborn = copy.deepcopy(position.template).cpu()
    for parameter in newborn.parameters():
        # Transformers leaves alone what a loader marked as initialized, and a copy inherits that mark.
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(position.seed)
        newborn.apply(getattr(position.model, "_init_weights", _reset))
    for (name, new), old in zip(newborn.named_parameters(), position.template.parameters(), strict=True):
        if new.dim() > 1 and torch.equal(new, old.cpu()):
            raise RuntimeError(f"{type(position.model).__name__} has no random initialization for {name}")
    return newborn


def clone(position: InsertionPoint) -> nn.Module:
    """The donor, bit for bit."""
    return copy.deepcopy(position.template)


def clone_noise(position: InsertionPoint) -> nn.Module:
    """The donor plus Gaussian noise, scaled to each weight matrix. Norms and biases stay the donor's."""
    import torch

    newborn = copy.deepcopy(position.template).cpu()
    generator = torch.Generator().manual_seed(position.seed)
    with torch.no_grad():
        for parameter in newborn.parameters():
            if parameter.dim() > 1:
                parameter.copy_(add_noise(parameter, position.noise, generator))
    return newborn


def identity(position: InsertionPoint) -> nn.Module:
    """The donor with silent residual branches: the model computes what it did before (see `growth/identity.py`)."""
    newborn = copy.deepcopy(position.template)
    at_birth.silence(newborn, position.anatomy)
    return newborn


def average(position: InsertionPoint) -> nn.Module:
    """The mean of the layers below and above, or the one of them that is there."""
    import torch

    newborn = copy.deepcopy(position.template)
    around = [dict(layer.named_parameters()) for layer in position.neighbors]
    with torch.no_grad():
        for name, parameter in newborn.named_parameters():
            parameter.copy_(torch.stack([layer[name].to(parameter.device) for layer in around]).mean(0))
    return newborn


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


def _reset(module: nn.Module) -> None:
    """What PyTorch's own modules draw, for a model that is not Hugging Face's."""
    draw = getattr(module, "reset_parameters", None)
    if draw is not None:
        draw()


INITIALIZERS: dict[str, Callable[[InsertionPoint], nn.Module]] = {
    "random": random,
    "clone": clone,
    "clone-noise": clone_noise,
    "identity": identity,
    "average": average,
}

DONORLESS = ("random", "average")
"""Initializers that copy nobody: no donor in the lineage, and no moments to copy."""
