"""Build a model from a config, a local folder or a hub name; insert and swap its layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from pli_train.core import anatomy
from pli_train.core.anatomy import Anatomy
from pli_train.core.errors import BadInput, PliError, did_you_mean, first_line, last_line, some
from pli_train.core.safe_model import AUTO_CLASS
from pli_train.core.tokenizer import size
from pli_train.models import resize, safe_loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pli_train.models.config import ModelConfig


def build(
    wanted: ModelConfig, tokenizer: PreTrainedTokenizerBase | None, block_size: int, seed: int
) -> tuple[PreTrainedModel, Anatomy]:
    """The model at step 0, in float32 on the CPU, with its family's table.

    Weights from scratch are drawn from `seed` alone. Raises BadInput or PliError when it cannot be built.
    """
    config = model_config(wanted, size(tokenizer) if tokenizer else None, block_size)
    if tokenizer:
        config.pad_token_id = tokenizer.pad_token_id
        config.bos_token_id = _first(tokenizer.bos_token_id, tokenizer.cls_token_id)
        config.eos_token_id = _first(tokenizer.eos_token_id, tokenizer.sep_token_id)
    parts = anatomy.to_train(config.model_type)
    _check_block(block_size, config, parts)  # once more, as positions may be counted from the padding token's id
    if wanted.weights == "pretrained":
        model = _pretrained(str(wanted.name_or_path), wanted.initial_layers, parts)
        if tokenizer:
            _check_vocabulary(size(tokenizer), model, str(wanted.name_or_path))
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
    config = _from_fields(wanted) if wanted.family else _load(AutoConfig.from_pretrained, str(wanted.name_or_path))
    parts = anatomy.to_train(config.model_type)
    if vocab_size is not None and wanted.weights == "scratch" and parts.task != "image-classification":
        config.vocab_size = vocab_size
        for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if hasattr(config, name):
                setattr(config, name, None)  # the family's own, which this vocabulary need not have
        config.pad_token_id = 0  # as in a tokenizer trained here; `build` knows the real one
    if wanted.initial_layers is not None:
        _set_depth(config, wanted.initial_layers, parts)
    for name, value in parts.given.items():
        if getattr(config, name, value) != value:
            raise BadInput(
                f"model.config.{name}: {getattr(config, name)} is not supported, as {parts.model_type} is described "
                f"here for {value} only"
            )
    _check_block(block_size, config, parts)
    return config


def skeleton(wanted: ModelConfig, vocab_size: int | None, block_size: int) -> tuple[int, PreTrainedModel, Anatomy]:
    """The depth at step 0, and a model without storage to count things on; it has a layer even where that is 0."""
    config = model_config(wanted, vocab_size, block_size)
    parts = anatomy.to_train(config.model_type)
    depth = getattr(config, parts.config["depth"])
    _set_depth(config, max(depth, 1), parts)
    with torch.device("meta"):
        return depth, _from_config(config, parts), parts


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Anatomy]:
    """The model kept in a checkpoint folder, in float32 on the CPU. Raises BadInput when it cannot be read."""
    model, parts = safe_loading.load(folder)
    _own_memory(model)
    return model, parts


def stack_of(model: nn.Module, parts: Anatomy) -> nn.ModuleList:
    """The model's repeating layers."""
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    return cast("nn.ModuleList", base.get_submodule(parts.stack))


def path_of_stack(model: nn.Module, parts: Anatomy) -> str:
    """The dotted path of the stack below the whole model."""
    layers = stack_of(model, parts)
    return next(name for name, module in model.named_modules() if module is layers)


def lone_layer(model: nn.Module, parts: Anatomy, heads: int, units: int | None) -> nn.Module:
    """A layer for a stack that has none, on the CPU. `heads` and `units` as a lineage's founding."""
    config = cast("PretrainedConfig", copy.deepcopy(model.config))
    _set_depth(config, 1, parts)
    with torch.random.fork_rng(devices=[]):
        layer = stack_of(type(model)(config), parts)[0]
    shrink_layer(layer, model, parts, heads, units)
    return layer


def put_into_stack(layer: nn.Module, index: int, model: nn.Module, parts: Anatomy, like: int | None) -> None:
    """Insert `layer` at `index`, and let the layers and the config know their new places, sizes, types and depth.

    A copy of a bottom layer that lacks something gets it here, fresh: norms of weight 1 and bias 0.

    Args:
        like: index, before the insertion, of the layer it was made after; None in an empty stack.
    """
    for path, alike in parts.bottom.get("missing", {}).items():
        if not list(layer.get_submodule(path).parameters()):
            layer.set_submodule(path, _fresh_norm(layer.get_submodule(alike)))
    layers = stack_of(model, parts)
    layers.insert(index, layer)
    sync_config(model, parts)


def swap_in_stack(first: int, second: int, model: nn.Module, parts: Anatomy) -> None:
    """Let two layers change places."""
    layers = stack_of(model, parts)
    layers[first], layers[second] = layers[second], layers[first]
    sync_config(model, parts)


def shrink(model: nn.Module, parts: Anatomy, shapes: Sequence[tuple[int, int | None]]) -> None:
    """Cut every layer down to its first heads and FFN units.

    Args:
        shapes: for each layer (heads, units) to keep; 0 and None keep all.
    """
    for layer, (heads, units) in zip(stack_of(model, parts), shapes, strict=True):
        shrink_layer(layer, model, parts, heads, units)


def shrink_layer(layer: nn.Module, model: nn.Module, parts: Anatomy, heads: int, units: int | None) -> None:
    """Cut one layer down to its first `heads` heads and `units` FFN units; 0 and None keep all."""
    for what, wanted in (("heads", heads), ("units", units)):
        sizes = resize.sizes_of(layer, parts, model.config)
        if not sizes["head"] or not wanted:
            continue
        part = resize.growable(parts, what, sizes)
        count = wanted // sizes["member"] if part.factor == "group" else wanted
        if count < part.count:
            resize.lay_out(layer, parts, what, sizes, range(count))


def sync_config(model: nn.Module, parts: Anatomy) -> None:
    """Let layers know their index, and the config its depth, and heads and FFN units as far as they are free.

    The config speaks for all layers at once: it gets the greatest number that any has, and checkpoints pad the others.
    Where heads × their size must be the model's width, the number of heads is not free and stays.
    """
    layers = stack_of(model, parts)
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", index)  # noqa: B010  (mypy: a Module's attributes are tensors)
    message: dict[str, Any] = {"depth": len(layers)}
    if parts.layer_type:
        owner, _, leaf = parts.layer_type.rpartition(".")
        message["layer_types"] = [getattr(layer.get_submodule(owner), leaf) for layer in layers]
    sizes = [resize.sizes_of(layer, parts, getattr(model, "config", None)) for layer in layers]
    if sizes and sizes[0]["head"]:
        message["units"] = max(size["unit"] for size in sizes)
        if "head_dim" in parts.config:
            message["head_dim"] = sizes[0]["dim"]
            message["heads"] = _heads_for_config(max(size["head"] for size in sizes), model, parts)
            message["groups"] = message["heads"] // sizes[0]["member"]
    set_config_fields(model, parts, message)


def set_config_fields(model: nn.Module, parts: Anatomy, message: dict[str, Any]) -> None:
    """Set fields of the model's config, by what the family's table calls them, as far as the family has them.

    Modules may hold configs of their own, so all of them are told.
    """
    for config in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        for key in (message.keys() & parts.config.keys()) if isinstance(config, PretrainedConfig) else ():
            setattr(config, parts.config[key], message[key])


def _heads_for_config(needed: int, model: nn.Module, parts: Anatomy) -> int:
    """The least number of heads, not below `needed`, that the family's config takes."""
    width, member = getattr(model.config, parts.config["hidden"]), parts.sizes(model.config)["member"]
    if not parts.heads_divide_width:
        return needed
    # The config had whole groups that divide its width, so the width itself is such a number.
    fits = (heads for heads in range(needed, width + 1, member) if width % heads == 0)
    if (found := next(fits, None)) is None:
        raise BadInput(f"{needed} heads: the config of a {parts.model_type} takes no more than its width, {width}")
    return found


def count_parameters(module: nn.Module) -> int:
    """Elements of all parameters, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _fresh_norm(like: nn.Module) -> nn.Module:
    norm = copy.deepcopy(like)
    with torch.no_grad():
        for name, parameter in norm.named_parameters():
            parameter.fill_(0.0 if name == "bias" else 1.0)
    return norm


def _from_fields(wanted: ModelConfig) -> PretrainedConfig:
    """The config of a family with the fields asked for."""
    family = str(wanted.family)
    names, known = anatomy.family(family).config, AutoConfig.for_model(family)
    # Some fields are heeded by a family's layers without being declared by its config; the table knows them.
    wrong = [key for key in wanted.config if key not in safe_loading.declared(family) | {"num_labels"}]
    if wrong:
        declared = [name for name in known.to_dict() if not name.startswith("_")]
        message = (f"{key}: not a field of {family}'s config{did_you_mean(key, declared)}" for key in wrong)
        raise BadInput(*(f"model.config.{line}" for line in message))
    fields = dict(wanted.config)
    if wanted.initial_layers is not None and names.get("layer_types") not in fields:
        # Types of layers are made up for as many layers as the config says when it is made.
        fields = {key: value for key, value in fields.items() if known.attribute_map.get(key, key) != names["depth"]}
        fields[names["depth"]] = wanted.initial_layers
    try:
        return AutoConfig.for_model(family, **fields)
    except (ValueError, StrictDataclassError) as error:
        raise BadInput(f"model.config: {last_line(error)}") from None


def _set_depth(config: PretrainedConfig, depth: int, parts: Anatomy) -> None:
    setattr(config, parts.config["depth"], depth)
    if "layer_types" in parts.config:
        types = getattr(config, parts.config["layer_types"]) or ["full_attention"]
        setattr(config, parts.config["layer_types"], [types[index % len(types)] for index in range(depth)])


def _check_block(block_size: int, config: PretrainedConfig, parts: Anatomy) -> None:
    positions = parts.positions(config)
    if parts.task == "image-classification" and block_size != positions:
        raise BadInput(
            f"train.block_size: an image makes {positions} tokens, its patches and one for its class, not {block_size}"
        )
    if positions is not None and block_size > positions:
        name = parts.config["positions"]
        message = f"{name} = {getattr(config, name)}"
        if getattr(config, name) != positions:
            message += f", of which {positions} hold tokens"
        raise BadInput(f"train.block_size: {block_size} tokens do not fit {message}")


def _from_config(config: PretrainedConfig, parts: Anatomy) -> PreTrainedModel:
    try:
        return getattr(transformers, AUTO_CLASS[parts.task]).from_config(config)
    except (ValueError, StrictDataclassError) as error:
        raise BadInput(f"model.config: {last_line(error)}") from None


def _pretrained(name_or_path: str, depth: int | None, parts: Anatomy) -> PreTrainedModel:
    auto = getattr(transformers, AUTO_CLASS[parts.task])
    how = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, found = _load(auto.from_pretrained, name_or_path, **how)
    _check_weights(model, parts, found, name_or_path)
    _own_memory(model)
    for key in safe_loading.undeclared(model.config):
        delattr(model.config, key)  # so that every checkpoint of this run can be read back
    layers = stack_of(model, parts)
    if depth is not None:
        if depth > len(layers):
            raise BadInput(f"model.initial_layers: {depth} is more than the {len(layers)} layers of '{name_or_path}'")
        del layers[depth:]
        sync_config(model, parts)
    return model


def _check_weights(model: PreTrainedModel, parts: Anatomy, found: dict[str, Any], name_or_path: str) -> None:
    """Raise BadInput where a loaded model is not the one that was trained: transformers draws at random what it lacks.

    What stands above the base model may be drawn: an encoder that was saved without the head of its task.
    """
    where = f"model.name_or_path: '{name_or_path}'"
    if getattr(model.config, "quantization_config", None) is not None:
        raise BadInput(f"{where} is quantized: take the weights it was made from, or dequantize it")
    lacks = sorted(name for name in found["missing_keys"] if name.startswith(f"{model.base_model_prefix}."))
    if lacks:
        others = sorted(found["unexpected_keys"])
        instead = f", and has {some(others, 1)} that no {model.config.model_type} has" if others else ""
        raise BadInput(f"{where} lacks {some(lacks)}{instead}: save the plain model with save_pretrained")
    locations = [
        position
        for name in found["unexpected_keys"]
        if (position := parts.locate(name)) and position[2] in parts.tensors
    ]
    if depth := 1 + max((index for _, index, _ in locations), default=-1):
        message = f"{len(stack_of(model, parts))} layers and its weights have {depth}"
        raise BadInput(f"{where}: its config says {message}: correct {parts.config['depth']} in its config.json")
    odd = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if odd:
        raise BadInput(f"{where} has numbers that are not finite in {some(odd)}: begin with an earlier checkpoint")


def _own_memory(model: PreTrainedModel) -> None:
    # A loader may hand out views of a mapped file; arithmetic is only bit-stable on memory laid out alike.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()


def _check_vocabulary(tokens: int, model: PreTrainedModel, name_or_path: str) -> None:
    known = model.config.vocab_size
    if tokens > known:
        raise BadInput(f"tokenizer: it has {tokens} tokens, and the weights of '{name_or_path}' know {known}")


def _load(loader: Any, name_or_path: str, **how: Any) -> Any:
    try:
        return loader(name_or_path, trust_remote_code=False, **how)
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
        there = Path(name_or_path).is_dir()
        message = "cannot be loaded" if there else "is no model folder here and could not be loaded from the hub"
        raise PliError(f"model.name_or_path: '{name_or_path}' {message} ({first_line(error)})") from None


def _first(*ids: int | None) -> int | None:
    return next((id for id in ids if id is not None), None)
