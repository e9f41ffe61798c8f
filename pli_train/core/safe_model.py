"""Make a model from a config and tensors in memory, in training and analysis.

transformers opens no file here, so a checkpoint's files cannot run code, load another model or open other files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from pli_train.core import anatomy
from pli_train.core.errors import BadInput, last_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

AUTO_CLASS = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
}
"""Task → name of the auto class in transformers."""


@cache
def declared(model_type: str) -> frozenset[str]:
    """Return the keys that a family's config declares."""
    from transformers import AutoConfig

    default = AutoConfig.for_model(model_type)
    return frozenset((*default.to_dict(), *default.attribute_map, *anatomy.family(model_type).config.values()))


def config_of(model_type: str, fields: Mapping[str, Any], path: Path) -> PretrainedConfig:
    """Make a family's config with these fields. Raises BadInput naming `path` if transformers rejects a value."""
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(model_type, **fields)
    except Exception as error:  # libraries raise any kind of error for invalid values
        raise BadInput(f"{path}: {last_line(error)}") from None


def outline(config: PretrainedConfig, auto_class: str, tensors: Mapping[str, Tensor]) -> PreTrainedModel:
    """Make the model that a config describes on the meta device, without memory for its tensors.

    Equal configs share one outline, as hundreds of checkpoints have the same. It must not be changed.

    Args:
        config: config of the model.
        auto_class: name of the auto class in transformers that selects the model's class.
        tensors: tensors by name, with or without the prefix of the base model.

    Raises:
        BadInput: if the shape of a tensor differs from that of the config.
    """
    model = _outline(_Key(auto_class, config.to_json_string(use_diff=False), config))
    prefix = f"{model.base_model_prefix}."
    shapes = {name.removeprefix(prefix): tensor.shape for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        expected = shapes.get(name.removeprefix(prefix), tensor.shape)
        if tensor.shape != expected:
            raise BadInput(f"its {name} has shape {tuple(tensor.shape)}, expected {tuple(expected)} from its config")
    return model


@dataclass(frozen=True)
class _Key:
    """What determines an outline: `text` is the config's, which cannot be hashed itself."""

    auto_class: str
    text: str
    config: PretrainedConfig = field(compare=False)


@lru_cache(maxsize=8)
def _outline(key: _Key) -> PreTrainedModel:
    import torch
    import transformers

    with torch.device("meta"):
        model: PreTrainedModel = getattr(transformers, key.auto_class).from_config(key.config)
    return model


def fill(
    outline: PreTrainedModel, config: PretrainedConfig, tensors: dict[str, Tensor], **how: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load tensors into a model's outline, in float32 on the CPU.

    Args:
        outline: result of this module's `outline`; its copy of the config has more fields set.
        config: the config from which the outline was made.
        tensors: tensors by name, with or without the prefix of the base model.
        how: further arguments of `from_pretrained`.

    Returns:
        The model, and transformers' report of missing and unexpected names.
    """
    import torch

    loader: Any = type(outline)
    return loader.from_pretrained(
        None, config=config, state_dict=tensors, dtype=torch.float32, output_loading_info=True, **how
    )
