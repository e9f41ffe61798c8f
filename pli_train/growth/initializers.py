"""Initializers of new layers: random, clone, clone with noise, identity, average.

An initializer takes an insertion point and returns a new module; it never changes existing layers. Random numbers are
drawn on the CPU from a seed for each new layer, so that every rank, device and resumed run makes the same layer.
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
    """The position at which a layer is inserted.

    Attributes:
        model, anatomy: the model, and the parameter table of its family.
        template: a layer with the shape of the new one; the donor, if there is one.
        neighbors: the layers below and above, if there are any.
        seed: seed of the random numbers.
        noise: standard deviation of the noise ÷ that of each weight matrix.
    """

    model: nn.Module
    anatomy: Anatomy
    template: nn.Module
    neighbors: tuple[nn.Module, ...]
    seed: int
    noise: float = 0.0


def random(position: InsertionPoint) -> nn.Module:
    """Return a layer with the random initialization of the model's family."""
    import torch

    newborn = copy.deepcopy(position.template).cpu()
    for parameter in newborn.parameters():
        # Transformers skips parameters that a loader marked as initialized, and a copy has the same marks.
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(position.seed)
        newborn.apply(getattr(position.model, "_init_weights", _reset))
    for (name, new), old in zip(newborn.named_parameters(), position.template.parameters(), strict=True):
        if new.dim() > 1 and torch.equal(new, old.cpu()):
            raise RuntimeError(f"{type(position.model).__name__} has no random initialization for {name}")
    return newborn


def clone(position: InsertionPoint) -> nn.Module:
    """Return an exact copy of the donor."""
    return copy.deepcopy(position.template)


def clone_noise(position: InsertionPoint) -> nn.Module:
    """Return the donor plus Gaussian noise, scaled to each weight matrix. Norms and biases get none."""
    import torch

    newborn = copy.deepcopy(position.template).cpu()
    generator = torch.Generator().manual_seed(position.seed)
    with torch.no_grad():
        for parameter in newborn.parameters():
            if parameter.dim() > 1:
                parameter.copy_(add_noise(parameter, position.noise, generator))
    return newborn


def identity(position: InsertionPoint) -> nn.Module:
    """Return the donor with zero output projections: the model's output does not change (see `identity_init`)."""
    newborn = copy.deepcopy(position.template)
    at_birth.silence(newborn, position.anatomy)
    return newborn


def average(position: InsertionPoint) -> nn.Module:
    """Return the mean of the layers below and above, or a copy of the only neighbor."""
    import torch

    newborn = copy.deepcopy(position.template)
    around = [dict(layer.named_parameters()) for layer in position.neighbors]
    with torch.no_grad():
        for name, parameter in newborn.named_parameters():
            parameter.copy_(torch.stack([layer[name].to(parameter.device) for layer in around]).mean(0))
    return newborn


def add_noise(weight: Tensor, fraction: float, generator: Generator) -> Tensor:
    """Return `weight` plus Gaussian noise.

    Args:
        weight: of any shape.
        fraction: standard deviation of the noise ÷ that of `weight`.
        generator: source of the noise.
    """
    import torch

    noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return weight + fraction * weight.std() * noise


def _reset(module: nn.Module) -> None:
    """Reset a PyTorch module to its random initialization, for models that are not Hugging Face's."""
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
"""Initializers without a donor: the lineage has none, and there is no optimizer state to copy."""
