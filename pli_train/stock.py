"""The stock form of a grown model: what plain transformers can load.

A family's config has one number of heads and one FFN width for all layers, and in most families heads × their size must
be the model's width. A layer that has fewer is padded: rows of Q, K, V that are zero and, so that they say nothing,
output columns that are zero. Training keeps layers slim; checkpoints are padded on the way out and `model.slim` cuts
them down on the way in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_train import layout
from pli_train import model as models

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from pli_train.anatomy import Anatomy


def padded(model: PreTrainedModel, anatomy: Anatomy) -> dict[str, Tensor]:
    """The model's state dict with every layer at the config's number of heads and FFN units."""
    state = model.state_dict()
    layers = models.stack_of(model, anatomy)
    path = next(name for name, module in model.named_modules() if module is layers)
    whole = anatomy.sizes(model.config)
    if whole["head"] and len(layers):
        whole["unit"] = max(layout.sizes_of(layer, anatomy, model.config)["unit"] for layer in layers)
        for index, layer in enumerate(layers):
            state |= {f"{path}.{index}.{name}": tensor for name, tensor in _padded(layer, model, anatomy, whole)}
    return state


def _padded(
    layer: nn.Module, model: PreTrainedModel, anatomy: Anatomy, whole: dict[str, int]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a layer that must be padded: (name within the layer, tensor)."""
    sizes = layout.sizes_of(layer, anatomy, model.config)
    for what in ("heads", "units"):
        part = layout.growable(anatomy, what, sizes)
        missing = whole[part.factor] - part.count
        if missing:
            sources = [*range(part.count), *[layout.NOTHING] * missing]
            for name, axes, tensor in layout.tensors_along(layer, anatomy, part.factor):
                yield name, layout.take(tensor.detach(), axes, part.factor, sizes, sources)
