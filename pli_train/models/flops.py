"""Count parameters and FLOPs of training.

FLOPs per token, forward and backward: 6 for each weight of a matrix product (2 forward, 4 backward; Kaplan et al. 2020,
arXiv:2001.08361), and in each layer 12 · heads · head size · context for the two products of activations in attention
(Chowdhery et al. 2022, arXiv:2204.02311, appendix B; causal masking is not subtracted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pli_train.core.anatomy.axes import growing

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from pli_train.core.anatomy import Anatomy

PARTS = {"head": "heads", "group": "heads", "unit": "units", None: "fixed"}
Shapes = Sequence[tuple[int, int | None]]
"""(heads, FFN units) of each layer; 0 and None mean the numbers of the measured layer."""


@dataclass(frozen=True)
class Amounts:
    """Number of parameters, and of those in matrix products."""

    parameters: int = 0
    matrices: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(self.parameters + other.parameters, self.matrices + other.matrices)


@dataclass(frozen=True)
class Size:
    """Parameters and FLOPs of a model as a function of the heads and FFN units of its layers.

    Attributes:
        outside: amounts outside the layers.
        fixed: amounts of a layer that depend neither on heads nor on units.
        heads, units: amounts of the heads and of the FFN units of the measured layer.
        head_count, unit_count: numbers of heads and units of that layer; 0 if the family's table does not have them.
        head_size: size of a head, 0 without heads.
    """

    outside: Amounts
    fixed: Amounts
    heads: Amounts
    units: Amounts
    head_count: int
    unit_count: int
    head_size: int

    def parameters(self, shapes: Shapes) -> int:
        """Return the number of parameters of a model with these layers."""
        return self.outside.parameters + sum(self._layer(*shape).parameters for shape in shapes)

    def flops_per_token(self, shapes: Shapes, context: int) -> int:
        """Return the FLOPs of training per token, at this context length."""
        matrices = self.outside.matrices + sum(self._layer(*shape).matrices for shape in shapes)
        heads = sum(heads or self.head_count for heads, _ in shapes)
        return 6 * matrices + 12 * heads * self.head_size * context

    def _layer(self, heads: int, units: int | None) -> Amounts:
        return (
            self.fixed
            + _share(self.heads, heads or self.head_count, self.head_count)
            + _share(self.units, units or self.unit_count, self.unit_count)
        )


def _share(whole: Amounts, count: int, of: int) -> Amounts:
    return Amounts(whole.parameters * count // of, whole.matrices * count // of) if of else whole


def measure(model: PreTrainedModel, anatomy: Anatomy) -> Size:
    """Measure a model with at least one layer, which may be on the meta device.

    Layers are assumed to be equal, apart from modules that the bottom layer lacks, and to attend to the whole context.
    An image classifier's head is counted for each token although it reads one; the convolution into patches is not
    counted.
    """
    from pli_train.models import resize
    from pli_train.models.build import count_parameters, stack_of

    layers = stack_of(model, anatomy)
    parts = {"fixed": Amounts(), "heads": Amounts(), "units": Amounts()}
    for name, parameter in layers[0].named_parameters():
        part = PARTS[growing(anatomy.tensors.get(name, ("", ""))[1])]
        parts[part] += Amounts(parameter.numel(), parameter.numel() if parameter.dim() == 2 else 0)
    for like in anatomy.bottom.get("missing", {}).values():
        # Norms have no matrix products. `outside` subtracts those that the bottom layer lacks.
        parts["fixed"] += Amounts(count_parameters(layers[0].get_submodule(like)))
    sizes = resize.sizes_of(layers[0], anatomy, model.config)
    inside = sum(parts.values(), Amounts())
    outside = Amounts(
        count_parameters(model) - len(layers) * inside.parameters,
        _products(model) - len(layers) * inside.matrices,
    )
    return Size(
        outside, **parts, head_count=sizes["head"], unit_count=sizes.get("unit", 0), head_size=sizes.get("dim", 0)
    )


def _products(model: PreTrainedModel) -> int:
    """Count weights in matrix products: 2-D parameters; embeddings only if they are tied to the output head."""
    embeddings = {
        id(p) for m in model.modules() if "Embedding" in type(m).__name__ for p in m.parameters(recurse=False)
    }
    output = model.get_output_embeddings()
    head = output.weight if output is not None else None
    tied = head.numel() if head is not None and id(head) in embeddings else 0
    return tied + _matrices(model) - sum(p.numel() for p in model.parameters() if id(p) in embeddings and p.dim() == 2)


def _matrices(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.dim() == 2)
