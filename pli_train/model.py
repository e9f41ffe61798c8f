"""The model: built from a config, a local folder or a hub name, and its stack, which grows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from pli_train import anatomy
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
    _check_block(block_size, config, parts)  # once more, as positions may be counted from the padding token's id
    if wanted.weights == "pretrained":
        return _pretrained(str(wanted.name_or_path), wanted.initial_layers, parts), parts
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
    parts = anatomy.family(config.model_type)
    if vocab_size is not None and wanted.weights == "scratch":
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


def skeleton(config: PretrainedConfig) -> tuple[PreTrainedModel, Anatomy]:
    """A model without storage, to count things on."""
    parts = anatomy.family(config.model_type)
    with torch.device("meta"):
        return _from_config(config, parts), parts


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Anatomy]:
    """The model kept in a checkpoint folder, in float32 on the CPU."""
    config = AutoConfig.from_pretrained(folder)
    parts = anatomy.family(config.model_type)
    return _pretrained(str(folder), None, parts), parts


def stack_of(model: nn.Module, parts: Anatomy) -> nn.ModuleList:
    """The model's repeating layers."""
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    return cast(nn.ModuleList, base.get_submodule(parts.stack))


def put_into_stack(layer: nn.Module, index: int, model: PreTrainedModel, parts: Anatomy) -> None:
    """Insert `layer` at `index`, and let the layers and the config know their new places, depth and types.

    A copy of a bottom layer that lacks something gets it here, fresh: norms of weight 1 and bias 0.

    Raises:
        BadInput: for index 0 in a family whose bottom layer is unlike the others: what is there could not move up.
    """
    if index == 0 and (why := parts.why_bottom_stays()):
        raise BadInput(why)
    for path, like in parts.bottom.get("missing", {}).items():
        if not list(layer.get_submodule(path).parameters()):
            layer.set_submodule(path, _fresh_norm(layer.get_submodule(like)))
    layers = stack_of(model, parts)
    layers.insert(index, layer)
    _settle(model, layers, parts)


def count_parameters(module: nn.Module) -> int:
    """Elements of all parameters, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _settle(model: PreTrainedModel, layers: nn.ModuleList, parts: Anatomy) -> None:
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", index)  # noqa: B010  (mypy: a Module's attributes are tensors)
    fields: dict[str, Any] = {parts.config["depth"]: len(layers)}
    if parts.layer_type:
        owner, _, leaf = parts.layer_type.rpartition(".")
        fields[parts.config["layer_types"]] = [getattr(layer.get_submodule(owner), leaf) for layer in layers]
    for module in model.modules():
        if isinstance(getattr(module, "config", None), PretrainedConfig):
            for name, value in fields.items():
                setattr(module.config, name, value)


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
    wrong = [key for key in wanted.config if not hasattr(known, key) and key not in names.values()]
    if wrong:
        declared = [name for name in known.to_dict() if not name.startswith("_")]
        told = (f"{key}: not a field of {family}'s config{did_you_mean(key, declared)}" for key in wrong)
        raise BadInput(*(f"model.config.{line}" for line in told))
    fields = dict(wanted.config)
    if wanted.initial_layers is not None and names.get("layer_types") not in fields:
        # Types of layers are made up for as many layers as the config says when it is made.
        fields = {key: value for key, value in fields.items() if known.attribute_map.get(key, key) != names["depth"]}
        fields[names["depth"]] = wanted.initial_layers
    try:
        return AutoConfig.for_model(family, **fields)
    except (ValueError, StrictDataclassError) as error:
        raise BadInput(f"model.config: {_last_line(error)}") from None


def _set_depth(config: PretrainedConfig, depth: int, parts: Anatomy) -> None:
    setattr(config, parts.config["depth"], depth)
    if "layer_types" in parts.config:
        types = getattr(config, parts.config["layer_types"])
        setattr(config, parts.config["layer_types"], [types[index % len(types)] for index in range(depth)])


def _check_block(block_size: int, config: PretrainedConfig, parts: Anatomy) -> None:
    positions = parts.positions(config)
    if positions is not None and block_size > positions:
        name = parts.config["positions"]
        told = f"{name} = {getattr(config, name)}"
        if getattr(config, name) != positions:
            told += f", of which {positions} hold tokens"
        raise BadInput(f"train.block_size: {block_size} tokens do not fit {told}")


def _from_config(config: PretrainedConfig, parts: Anatomy) -> PreTrainedModel:
    try:
        return getattr(transformers, AUTO_CLASS[parts.task]).from_config(config)
    except (ValueError, StrictDataclassError) as error:
        raise BadInput(f"model.config: {_last_line(error)}") from None


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
        _settle(model, layers, parts)
    return model


def _load(loader: Any, name_or_path: str, **how: Any) -> Any:
    try:
        return loader(name_or_path, trust_remote_code=False, **how)
    except (OSError, ValueError, KeyError) as error:
        raise PliError(
            f"model.name_or_path: '{name_or_path}' is no model folder here and could not be loaded from the hub "
            f"({(str(error).strip() or type(error).__name__).splitlines()[0]})"
        ) from None


def _last_line(error: Exception) -> str:
    # A strict config wraps what is wrong, and says it last: "Class validation error …:\n    ValueError: …".
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip().removeprefix("ValueError: ")


def _first(*ids: int | None) -> int | None:
    return next((id for id in ids if id is not None), None)
