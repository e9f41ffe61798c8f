"""Pad a grown model to the format that plain transformers loads.

A family's config has one number of heads and one FFN width for all layers, and in most families heads × head size must
be the model's width. Smaller layers are padded with zero rows of Q, K and V, and zero columns of the output projection,
so that padding does not change the output. Layers are not padded in training: checkpoints are padded when they are
saved, and `build.shrink` removes the padding when they are loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_train.core.anatomy.axes import NOTHING
from pli_train.core.errors import BadInput
from pli_train.models import build as models
from pli_train.models import resize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from pli_train.core.anatomy import Anatomy


def padded(model: PreTrainedModel, anatomy: Anatomy) -> dict[str, Tensor]:
    """Return the model's state dict with each layer padded to the config's number of heads and FFN units."""
    return {**model.state_dict(), **_padding(model, anatomy)}


def always_padded(model: nn.Module, anatomy: Anatomy) -> None:
    """Pad all state dicts of a model, for other code that saves and loads the model.

    Afterwards `state_dict()`, and so `save_pretrained`, returns padded tensors, and `load_state_dict` accepts them and
    removes the padding. `load_state_dict` raises BadInput if a state dict has another depth.
    """

    def pad(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
        state |= {prefix + name: tensor for name, tensor in _padding(module, anatomy).items()}

    def unpad(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        _check_depth(module, anatomy, state, prefix)
        own = dict(module.named_parameters())
        for name, axes, factor, sizes, count in _narrower(module, anatomy):
            whole = state.get(prefix + name)
            if whole is not None and whole.shape != own[name].shape:
                state[prefix + name] = resize.take(whole, axes, factor, sizes, range(count))

    model.register_state_dict_post_hook(pad)
    model.register_load_state_dict_pre_hook(unpad)


def _check_depth(model: nn.Module, anatomy: Anatomy, state: dict[str, Tensor], prefix: str) -> None:
    path = f"{prefix}{models.path_of_stack(model, anatomy)}."
    indices = {name.removeprefix(path).split(".")[0] for name in state if name.startswith(path)}
    depth = len(models.stack_of(model, anatomy))
    if indices and len(indices) != depth:
        raise BadInput(
            f"these weights have {len(indices)} layers, but the model has {depth}: grow the model first "
            "(with Trainer: resume_from_checkpoint=growth.prepared(trainer, checkpoint))"
        )


def _padding(model: nn.Module, anatomy: Anatomy) -> dict[str, Tensor]:
    """Return name → padded tensor, for tensors that are smaller than in the padded format."""
    parameters, padding = dict(model.named_parameters()), {}
    for name, axes, factor, sizes, count in _narrower(model, anatomy):
        own = sizes | {factor: count}
        sources = [*range(count), *[NOTHING] * (sizes[factor] - count)]
        padding[name] = resize.take(parameters[name].detach(), axes, factor, own, sources)
    return padding


def _narrower(model: nn.Module, anatomy: Anatomy) -> Iterator[tuple[str, str, str, dict[str, int], int]]:
    """Yield tensors smaller than in the padded format: (name, axes, factor, padded sizes, count of the factor)."""
    layers, config = models.stack_of(model, anatomy), getattr(model, "config", None)
    whole = anatomy.sizes(config)
    if not whole["head"] or not len(layers):
        return
    every = [resize.sizes_of(layer, anatomy, config) for layer in layers]
    whole |= {"dim": every[0]["dim"], "unit": max(sizes["unit"] for sizes in every)}
    path = models.path_of_stack(model, anatomy)
    for index, (layer, sizes) in enumerate(zip(layers, every, strict=True)):
        for what in ("heads", "units"):
            part = resize.growable(anatomy, what, sizes)
            if part.count < whole[part.factor]:
                for name, axes, _ in resize.tensors_along(layer, anatomy, part.factor):
                    yield f"{path}.{index}.{name}", axes, part.factor, whole, part.count
