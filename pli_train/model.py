"""The model: built from a config, a local folder or a hub name, and its stack, which grows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from pli_train import anatomy, layout
from pli_train.anatomy import Anatomy
from pli_train.errors import BadInput, PliError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pli_train.config import ModelConfig

AUTO_CLASS = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
}


def build(
    wanted: ModelConfig, tokenizer: PreTrainedTokenizerBase, block_size: int, seed: int
) -> tuple[PreTrainedModel, Anatomy]:
    """The model at step 0, in float32 on the CPU, with its family's table.

    Weights from scratch are drawn from `seed` alone. Raises BadInput or PliError when it cannot be built.
    """
    config = model_config(wanted, len(tokenizer), block_size)
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = _first(tokenizer.bos_token_id, tokenizer.cls_token_id)
    config.eos_token_id = _first(tokenizer.eos_token_id, tokenizer.sep_token_id)
    parts = anatomy.family(config.model_type)
    if wanted.weights == "pretrained":
        model = _pretrained(str(wanted.name_or_path), wanted.initial_layers, parts)
        _check_vocabulary(len(tokenizer), model, str(wanted.name_or_path))
        return model, parts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _from_config(config, parts), parts


def model_config(wanted: ModelConfig, vocab_size: int | None, block_size: int) -> PretrainedConfig:
    """The Hugging Face config of the model at step 0. `vocab_size` None leaves the family's own.

    Raises:
        BadInput: for a field that the family's config does not have, or blocks longer than its positions.
        PliError: when a named model cannot be loaded.
    """
    if wanted.family:
        known = AutoConfig.for_model(wanted.family)
        wrong = [key for key in wanted.config if not hasattr(known, key)]
        if wrong:
            fields = [name for name in known.to_dict() if not name.startswith("_")]
            told = (f"{key}: not a field of {wanted.family}'s config{did_you_mean(key, fields)}" for key in wrong)
            raise BadInput(*(f"model.config.{line}" for line in told))
        config = AutoConfig.for_model(wanted.family, **wanted.config)
    else:
        config = _load(AutoConfig.from_pretrained, str(wanted.name_or_path))
    names = anatomy.family(config.model_type).config
    if vocab_size is not None and wanted.weights == "scratch":
        config.vocab_size = vocab_size
    if wanted.initial_layers is not None:
        setattr(config, names["depth"], wanted.initial_layers)
    positions = getattr(config, names["positions"])
    if block_size > positions:
        raise BadInput(f"train.block_size: {block_size} tokens do not fit {names['positions']} = {positions}")
    return config


def skeleton(wanted: ModelConfig, vocab_size: int | None, block_size: int) -> tuple[int, PreTrainedModel, Anatomy]:
    """The depth at step 0, and a model without storage to count things on; it has a layer even where that is 0."""
    config = model_config(wanted, vocab_size, block_size)
    parts = anatomy.family(config.model_type)
    depth = getattr(config, parts.config["depth"])
    setattr(config, parts.config["depth"], max(depth, 1))
    with torch.device("meta"):
        return depth, _from_config(config, parts), parts


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Anatomy]:
    """The model kept in a checkpoint folder, in float32 on the CPU."""
    config = AutoConfig.from_pretrained(folder)
    parts = anatomy.family(config.model_type)
    return _pretrained(str(folder), None, parts), parts


def stack_of(model: nn.Module, parts: Anatomy) -> nn.ModuleList:
    """The model's repeating layers."""
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    return cast(nn.ModuleList, base.get_submodule(parts.stack))


def lone_layer(model: nn.Module, parts: Anatomy, heads: int, units: int | None) -> nn.Module:
    """A layer for a stack that has none, on the CPU. `heads` and `units` as a lineage's founding."""
    config = copy.deepcopy(model.config)
    setattr(config, parts.config["depth"], 1)
    with torch.random.fork_rng(devices=[]):
        layer = stack_of(type(model)(config), parts)[0]
    slim_layer(layer, model, parts, heads, units)
    return layer


def put_into_stack(layer: nn.Module, index: int, model: nn.Module, parts: Anatomy, like: int | None) -> None:
    """Insert `layer` at `index`, and let the layers and the config know their new places, sizes and depth.

    Args:
        like: index, before the insertion, of the layer it was made after; None in an empty stack.
    """
    layers = stack_of(model, parts)
    layers.insert(index, layer)
    settle(model, parts)


def swap_in_stack(first: int, second: int, model: nn.Module, parts: Anatomy) -> None:
    """Let two layers change places."""
    layers = stack_of(model, parts)
    layers[first], layers[second] = layers[second], layers[first]
    settle(model, parts)


def slim(model: nn.Module, parts: Anatomy, shapes: Sequence[tuple[int, int | None]]) -> None:
    """Cut every layer down to its first heads and FFN units.

    Args:
        shapes: for each layer (heads, units) to keep; 0 and None keep all.
    """
    for layer, (heads, units) in zip(stack_of(model, parts), shapes, strict=True):
        slim_layer(layer, model, parts, heads, units)


def slim_layer(layer: nn.Module, model: nn.Module, parts: Anatomy, heads: int, units: int | None) -> None:
    """Cut one layer down to its first `heads` heads and `units` FFN units; 0 and None keep all."""
    for what, wanted in (("heads", heads), ("units", units)):
        sizes = layout.sizes_of(layer, parts, model.config)
        if not sizes["head"] or not wanted:
            continue
        part = layout.growable(parts, what, sizes)
        count = wanted // sizes["member"] if part.factor == "group" else wanted
        if count < part.count:
            layout.lay_out(layer, parts, what, sizes, range(count))


def settle(model: nn.Module, parts: Anatomy) -> None:
    """Let layers know their index, and the config its depth, and heads and FFN units as far as they are free.

    The config speaks for all layers at once: it gets the greatest number that any has, and checkpoints pad the others.
    Where heads × their size must be the model's width, the number of heads is not free and stays.
    """
    layers = stack_of(model, parts)
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", index)  # noqa: B010  (mypy: a Module's attributes are tensors)
    told = {parts.config["depth"]: len(layers)}
    sizes = [layout.sizes_of(layer, parts, model.config) for layer in layers]
    if sizes and sizes[0]["head"]:
        told[parts.config["units"]] = max(size["unit"] for size in sizes)
        if "head_dim" in parts.config:
            told[parts.config["head_dim"]] = sizes[0]["dim"]
            told[parts.config["heads"]] = max(size["head"] for size in sizes)
            if "groups" in parts.config:
                told[parts.config["groups"]] = max(size["group"] for size in sizes)
    for config in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        for key, value in told.items() if isinstance(config, PretrainedConfig) else ():
            setattr(config, key, value)


def count_parameters(module: nn.Module) -> int:
    """Elements of all parameters, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _from_config(config: PretrainedConfig, parts: Anatomy) -> PreTrainedModel:
    try:
        return getattr(transformers, AUTO_CLASS[parts.task]).from_config(config)
    except ValueError as error:
        raise BadInput(f"model.config: {error}") from None


def _pretrained(name_or_path: str, depth: int | None, parts: Anatomy) -> PreTrainedModel:
    auto = getattr(transformers, AUTO_CLASS[parts.task])
    model = _load(auto.from_pretrained, name_or_path, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # A loader may hand out views of a mapped file; arithmetic is only bit-stable on memory laid out alike.
            parameter.data = parameter.data.clone()
    layers = stack_of(model, parts)
    if depth is not None:
        if depth > len(layers):
            raise BadInput(f"model.initial_layers: {depth} is more than the {len(layers)} layers of '{name_or_path}'")
        del layers[depth:]
        settle(model, parts)
    return model


def _check_vocabulary(tokens: int, model: PreTrainedModel, name_or_path: str) -> None:
    known = model.config.vocab_size
    if tokens > known:
        raise BadInput(f"tokenizer: it has {tokens} tokens, and the weights of '{name_or_path}' know {known}")


def _load(loader: Any, name_or_path: str, **how: Any) -> Any:
    try:
        return loader(name_or_path, trust_remote_code=False, **how)
    except (OSError, ValueError, KeyError) as error:
        raise PliError(
            f"model.name_or_path: '{name_or_path}' is no model folder here and could not be loaded from the hub "
            f"({(str(error).strip() or type(error).__name__).splitlines()[0]})"
        ) from None


def _first(*ids: int | None) -> int | None:
    return next((id for id in ids if id is not None), None)
