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
    """Build the model at step 0, in float32 on the CPU; return it with its family's table.

    Weights from scratch depend only on `seed`. Raises BadInput or PliError if the model cannot be built.
    """
    config = model_config(wanted, size(tokenizer) if tokenizer else None, block_size)
    if tokenizer:
        config.pad_token_id = tokenizer.pad_token_id
        config.bos_token_id = _first(tokenizer.bos_token_id, tokenizer.cls_token_id)
        config.eos_token_id = _first(tokenizer.eos_token_id, tokenizer.sep_token_id)
    parts = anatomy.to_train(config.model_type)
    _check_block(block_size, config, parts)  # again, as positions may start at the padding token's id
    if wanted.weights == "pretrained":
        model = _pretrained(str(wanted.name_or_path), wanted.initial_layers, parts)
        if tokenizer:
            _check_vocabulary(size(tokenizer), model, str(wanted.name_or_path))
        return model, parts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _from_config(config, parts), parts


def model_config(wanted: ModelConfig, vocab_size: int | None, block_size: int) -> PretrainedConfig:
    """Return the Hugging Face config of the model at step 0. `vocab_size` None keeps the family's default.

    Raises:
        BadInput: if a field is not in the family's config, or blocks are longer than its positions.
        PliError: if a named model cannot be loaded.
    """
    config = _from_fields(wanted) if wanted.family else _load(AutoConfig.from_pretrained, str(wanted.name_or_path))
    parts = anatomy.to_train(config.model_type)
    if vocab_size is not None and wanted.weights == "scratch" and parts.task != "image-classification":
        config.vocab_size = vocab_size
        for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if hasattr(config, name):
                setattr(config, name, None)  # the family's ids, which may not be in this vocabulary
        config.pad_token_id = 0  # as in a tokenizer trained here; `build` sets the actual one
    if wanted.initial_layers is not None:
        _set_depth(config, wanted.initial_layers, parts)
    for name, value in parts.given.items():
        if getattr(config, name, value) != value:
            raise BadInput(
                f"model.config.{name}: {getattr(config, name)} is not supported: {parts.model_type} is supported "
                f"with {value} only"
            )
    _check_block(block_size, config, parts)
    return config


def skeleton(wanted: ModelConfig, vocab_size: int | None, block_size: int) -> tuple[int, PreTrainedModel, Anatomy]:
    """Return the depth at step 0, and a model on the meta device for counting, with at least one layer."""
    config = model_config(wanted, vocab_size, block_size)
    parts = anatomy.to_train(config.model_type)
    depth = getattr(config, parts.config["depth"])
    _set_depth(config, max(depth, 1), parts)
    with torch.device("meta"):
        return depth, _from_config(config, parts), parts


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Anatomy]:
    """Load the model of a checkpoint folder, in float32 on the CPU. Raises BadInput if it cannot be read."""
    model, parts = safe_loading.load(folder)
    _own_memory(model)
    return model, parts


def stack_of(model: nn.Module, parts: Anatomy) -> nn.ModuleList:
    """Return the ModuleList of the model's layers."""
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    return cast("nn.ModuleList", base.get_submodule(parts.stack))


def path_of_stack(model: nn.Module, parts: Anatomy) -> str:
    """Return the dotted path of the stack in the whole model."""
    layers = stack_of(model, parts)
    return next(name for name, module in model.named_modules() if module is layers)


def lone_layer(model: nn.Module, parts: Anatomy, heads: int, units: int | None) -> nn.Module:
    """Make a layer for an empty stack, on the CPU, with the heads and units of a lineage's `founding`."""
    config = cast("PretrainedConfig", copy.deepcopy(model.config))
    _set_depth(config, 1, parts)
    with torch.random.fork_rng(devices=[]):
        layer = stack_of(type(model)(config), parts)[0]
    shrink_layer(layer, model, parts, heads, units)
    return layer


def put_into_stack(layer: nn.Module, index: int, model: nn.Module, parts: Anatomy, like: int | None) -> None:
    """Insert `layer` at `index`, and update the indices of layers and the config.

    A copy of a bottom layer gets the norms that the bottom layer lacks, with weight 1 and bias 0.

    Args:
        layer: the new layer.
        index: its index after the insertion.
        model: the model to change.
        parts: its anatomy.
        like: index, before the insertion, of the layer it was copied from; None in an empty stack.
    """
    for path, alike in parts.bottom.get("missing", {}).items():
        if not list(layer.get_submodule(path).parameters()):
            layer.set_submodule(path, _fresh_norm(layer.get_submodule(alike)))
    layers = stack_of(model, parts)
    layers.insert(index, layer)
    sync_config(model, parts)


def swap_in_stack(first: int, second: int, model: nn.Module, parts: Anatomy) -> None:
    """Swap two layers."""
    layers = stack_of(model, parts)
    layers[first], layers[second] = layers[second], layers[first]
    sync_config(model, parts)


def shrink(model: nn.Module, parts: Anatomy, shapes: Sequence[tuple[int, int | None]]) -> None:
    """Reduce each layer to its first heads and FFN units.

    Args:
        model: the model to change.
        parts: its anatomy.
        shapes: (heads, units) to keep in each layer; 0 and None keep all.
    """
    for layer, (heads, units) in zip(stack_of(model, parts), shapes, strict=True):
        shrink_layer(layer, model, parts, heads, units)


def shrink_layer(layer: nn.Module, model: nn.Module, parts: Anatomy, heads: int, units: int | None) -> None:
    """Reduce one layer to its first `heads` heads and `units` FFN units; 0 and None keep all."""
    for what, wanted in (("heads", heads), ("units", units)):
        sizes = resize.sizes_of(layer, parts, model.config)
        if not sizes["head"] or not wanted:
            continue
        part = resize.growable(parts, what, sizes)
        count = wanted // sizes["member"] if part.factor == "group" else wanted
        if count < part.count:
            resize.lay_out(layer, parts, what, sizes, range(count))


def sync_config(model: nn.Module, parts: Anatomy) -> None:
    """Update the indices of layers, and the config's depth, FFN units and heads.

    The config has one number for all layers, so it is set to the largest of the layers, and checkpoints pad the others.
    The number of heads is not changed if heads × head size must be the model's width.
    """
    layers = stack_of(model, parts)
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", index)  # noqa: B010  (mypy: a Module's attributes are tensors)
    fields: dict[str, Any] = {"depth": len(layers)}
    if parts.layer_type:
        owner, _, leaf = parts.layer_type.rpartition(".")
        fields["layer_types"] = [getattr(layer.get_submodule(owner), leaf) for layer in layers]
    sizes = [resize.sizes_of(layer, parts, getattr(model, "config", None)) for layer in layers]
    if sizes and sizes[0]["head"]:
        fields["units"] = max(size["unit"] for size in sizes)
        if "head_dim" in parts.config:
            fields["head_dim"] = sizes[0]["dim"]
            fields["heads"] = _heads_for_config(max(size["head"] for size in sizes), model, parts)
            fields["groups"] = fields["heads"] // sizes[0]["member"]
    set_config_fields(model, parts, fields)


def set_config_fields(model: nn.Module, parts: Anatomy, fields: dict[str, Any]) -> None:
    """Set fields of the model's config, by their keys in the family's table. Fields that it lacks are ignored.

    Modules may have their own configs, so all of them are updated.
    """
    for config in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        for key in (fields.keys() & parts.config.keys()) if isinstance(config, PretrainedConfig) else ():
            setattr(config, parts.config[key], fields[key])


def _heads_for_config(needed: int, model: nn.Module, parts: Anatomy) -> int:
    """Return the smallest number of heads, at least `needed`, that is valid in the family's config."""
    width, member = getattr(model.config, parts.config["hidden"]), parts.sizes(model.config)["member"]
    if not parts.heads_divide_width:
        return needed
    # The current number of heads divides the width in whole groups, so a valid number exists up to the width.
    fits = (heads for heads in range(needed, width + 1, member) if width % heads == 0)
    if (heads := next(fits, None)) is None:
        raise BadInput(f"{needed} heads: the config of a {parts.model_type} allows at most its width, {width}")
    return heads


def count_parameters(module: nn.Module) -> int:
    """Return the number of elements of all parameters, with tied parameters counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _fresh_norm(like: nn.Module) -> nn.Module:
    norm = copy.deepcopy(like)
    with torch.no_grad():
        for name, parameter in norm.named_parameters():
            parameter.fill_(0.0 if name == "bias" else 1.0)
    return norm


def _from_fields(wanted: ModelConfig) -> PretrainedConfig:
    """Return the config of a family with the fields of the [model] section."""
    family = str(wanted.family)
    names, known = anatomy.family(family).config, AutoConfig.for_model(family)
    # A family's layers may read fields that its config does not declare; the table lists them.
    wrong = [key for key in wanted.config if key not in safe_loading.declared(family) | {"num_labels"}]
    if wrong:
        declared = [name for name in known.to_dict() if not name.startswith("_")]
        lines = (f"{key}: not a field of {family}'s config{did_you_mean(key, declared)}" for key in wrong)
        raise BadInput(*(f"model.config.{line}" for line in lines))
    fields = dict(wanted.config)
    if wanted.initial_layers is not None and names.get("layer_types") not in fields:
        # The config creates as many layer types as it has layers when it is made, so the depth is set there.
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
            f"train.block_size: expected {positions}, the tokens of an image (its patches and the class token), "
            f"got {block_size}"
        )
    if positions is not None and block_size > positions:
        name = parts.config["positions"]
        limit = f"{name} = {getattr(config, name)}"
        if getattr(config, name) != positions:
            limit += f", of which {positions} can be used"
        raise BadInput(f"train.block_size: {block_size} tokens exceed {limit}")


def _from_config(config: PretrainedConfig, parts: Anatomy) -> PreTrainedModel:
    try:
        return getattr(transformers, AUTO_CLASS[parts.task]).from_config(config)
    except (ValueError, StrictDataclassError) as error:
        raise BadInput(f"model.config: {last_line(error)}") from None


def _pretrained(name_or_path: str, depth: int | None, parts: Anatomy) -> PreTrainedModel:
    auto = getattr(transformers, AUTO_CLASS[parts.task])
    how = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, report = _load(auto.from_pretrained, name_or_path, **how)
    _check_weights(model, parts, report, name_or_path)
    _own_memory(model)
    for key in safe_loading.undeclared(model.config):
        delattr(model.config, key)  # so that checkpoints of this run can be loaded
    layers = stack_of(model, parts)
    if depth is not None:
        if depth > len(layers):
            raise BadInput(f"model.initial_layers: {depth} is more than the {len(layers)} layers of '{name_or_path}'")
        del layers[depth:]
        sync_config(model, parts)
    return model


def _check_weights(model: PreTrainedModel, parts: Anatomy, report: dict[str, Any], name_or_path: str) -> None:
    """Raise BadInput if weights are missing, because transformers initializes them at random.

    Only weights outside the base model may be missing: an encoder may be saved without a task head.
    """
    where = f"model.name_or_path: '{name_or_path}'"
    if getattr(model.config, "quantization_config", None) is not None:
        raise BadInput(f"{where} is quantized: use the original weights, or dequantize it")
    lacks = sorted(name for name in report["missing_keys"] if name.startswith(f"{model.base_model_prefix}."))
    if lacks:
        others = sorted(report["unexpected_keys"])
        instead = f", and has {some(others, 1)} instead" if others else ""
        raise BadInput(f"{where} lacks {some(lacks)}{instead}: save the plain model with save_pretrained")
    locations = [
        location
        for name in report["unexpected_keys"]
        if (location := parts.locate(name)) and location[2] in parts.tensors
    ]
    if depth := 1 + max((index for _, index, _ in locations), default=-1):
        depths = f"{len(stack_of(model, parts))} layers, but its weights have {depth}"
        raise BadInput(f"{where}: its config has {depths}: correct {parts.config['depth']} in its config.json")
    invalid = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if invalid:
        raise BadInput(f"{where} has numbers that are not finite in {some(invalid)}: use an earlier checkpoint")


def _own_memory(model: PreTrainedModel) -> None:
    # Loaders may return views of a mapped file, but results are only bit-identical with the same memory layout.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()


def _check_vocabulary(tokens: int, model: PreTrainedModel, name_or_path: str) -> None:
    known = model.config.vocab_size
    if tokens > known:
        raise BadInput(f"tokenizer: it has {tokens} tokens, but the weights of '{name_or_path}' have {known}")


def _load(loader: Any, name_or_path: str, **how: Any) -> Any:
    try:
        return loader(name_or_path, trust_remote_code=False, **how)
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
        is_local = Path(name_or_path).is_dir()
        problem = "cannot be loaded" if is_local else "is not a local folder and could not be loaded from the hub"
        raise PliError(f"model.name_or_path: '{name_or_path}' {problem} ({first_line(error)})") from None


def _first(*ids: int | None) -> int | None:
    return next((id for id in ids if id is not None), None)
