"""Floating-point operations of training, counted on paper.

Per token, forward and backward together: 6 for each weight of a matrix product (2 forward, 4 backward; Kaplan et al.
2020, arXiv:2001.08361), and 12 · layers · width · block for attention's two products of activations (Chowdhery et al.
2022, arXiv:2204.02311, appendix B; causal masking is not discounted).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from pli_train.anatomy import Anatomy


@dataclass(frozen=True)
class Size:
    """What a model of any depth has and does.

    Attributes:
        layer_parameters, other_parameters: of one layer, and of everything else.
        layer_flops, other_flops: per token, forward and backward, at the block size it was measured for.
    """

    layer_parameters: int
    other_parameters: int
    layer_flops: int
    other_flops: int

    def parameters(self, depth: int) -> int:
        """Parameters of a model of `depth` layers."""
        return self.other_parameters + depth * self.layer_parameters

    def flops_per_token(self, depth: int) -> int:
        """FLOPs of training one token at `depth` layers."""
        return self.other_flops + depth * self.layer_flops


def measure(model: PreTrainedModel, anatomy: Anatomy, block_size: int) -> Size:
    """Count a model; it may live on the meta device.

    Its layers are taken to be alike but for what the bottom one lacks, and to attend to the whole block.
    """
    from pli_train.model import count_parameters, stack_of

    layers = stack_of(model, anatomy)
    depth, width = len(layers), _width_of_heads(model, anatomy)
    lacking = anatomy.bottom.get("missing", {}).values()
    layer = count_parameters(layers[0]) + sum(count_parameters(layers[0].get_submodule(like)) for like in lacking)
    head = model.get_output_embeddings().weight
    embeddings = {id(p) for m in model.modules() if "Embedding" in type(m).__name__ for p in m.parameters()}
    outside = _matrices(model) - depth * _matrices(layers[0]) - _matrices(model, only=embeddings)
    tied = head.numel() if id(head) in embeddings else 0
    return Size(
        layer,
        count_parameters(model) - depth * layer,
        6 * _matrices(layers[0]) + 12 * width * block_size,
        6 * (outside + tied),
    )


def _width_of_heads(model: PreTrainedModel, anatomy: Anatomy) -> int:
    """Of all heads together: the model's own width unless its config gives heads a size of their own."""
    stated = getattr(model.config, anatomy.config.get("head_dim", ""), None)
    heads = anatomy.sizes(model.config)["head"]
    return heads * stated if stated else getattr(model.config, anatomy.config["hidden"])


def _matrices(module: nn.Module, only: set[int] | None = None) -> int:
    """Weights that take part in matrix products: parameters of two dimensions."""
    return sum(p.numel() for p in module.parameters() if p.dim() == 2 and (only is None or id(p) in only))
