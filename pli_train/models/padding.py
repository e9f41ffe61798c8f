"""Pad a grown model to the form that plain transformers loads.

A family's config has one number of heads and one FFN width for all layers, and in most families heads × their size must
be the model's width. A layer that has fewer is padded: rows of Q, K, V that are zero and, so that they say nothing,
output columns that are zero. Training keeps layers slim; checkpoints are padded on the way out and `model.slim` cuts
them down on the way in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_train.core.errors import BadInput
from pli_train.models import build as models
from pli_train.models import resize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from pli_train.core.anatomy import Anatomy


def padded(model: PreTrainedModel, anatomy: Anatomy) -> dict[str, Tensor]:
    """The model's state dict with every layer at the config's number of heads and FFN units."""
    return {**model.state_dict(), **_padding(model, anatomy)}


def always_padded(model: nn.Module, anatomy: Anatomy) -> None:
    """Let every state dict of a model be its stock form, for code that saves and loads the model by itself.

    From now on `state_dict()`, and so `save_pretrained`, gives padded tensors, and `load_state_dict` takes them and
    keeps of each layer's what the layer has. Raises BadInput there when a state dict has another depth.
    """

    def out(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
        state |= {prefix + name: tensor for name, tensor in _padding(module, anatomy).items()}

    def into(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        _check_depth(module, anatomy, state, prefix)
        own = dict(module.named_parameters())
        for name, axes, factor, sizes, count in _narrower(module, anatomy):
            whole = state.get(prefix + name)
            if whole is not None and whole.shape != own[name].shape:
                state[prefix + name] = resize.take(whole, axes, factor, sizes, range(count))

    model.register_state_dict_post_hook(out)
    model.register_load_state_dict_pre_hook(into)


def _check_depth(model: nn.Module, anatomy: Anatomy, state: dict[str, Tensor], prefix: str) -> None:
    path = f"{prefix}{models.path_of_stack(model, anatomy)}."
    found = {name.removeprefix(path).split(".")[0] for name in state if name.startswith(path)}
    depth = len(models.stack_of(model, anatomy))
    if found and len(found) != depth:
        raise BadInput(
            f"these weights have {len(found)} layers and the model has {depth}: grow the model to them first "
            "(with Trainer: resume_from_checkpoint=growth.prepared(trainer, checkpoint))"
        )


def _padding(model: nn.Module, anatomy: Anatomy) -> dict[str, Tensor]:
    """Name → padded tensor, for those that a layer has in a smaller size than the stock form."""
    parameters, padding = dict(model.named_parameters()), {}
    for name, axes, factor, sizes, count in _narrower(model, anatomy):
        own = sizes | {factor: count}
        sources = [*range(count), *[resize.NOTHING] * (sizes[factor] - count)]
        padding[name] = resize.take(parameters[name].detach(), axes, factor, own, sources)
    return padding


def _narrower(model: nn.Module, anatomy: Anatomy) -> Iterator[tuple[str, str, str, dict[str, int], int]]:
    """Tensors smaller than in the stock form: (name, axes, factor, sizes of the stock form, count of the factor)."""
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
