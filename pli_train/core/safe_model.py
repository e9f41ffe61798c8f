"""Make a model of a config and of tensors in memory, the same way in training and analysis.

transformers opens no file here, so that nothing in a folder chooses code, names another model or leads out of it.
"""

from __future__ import annotations

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
"""Task → name of transformers' class for it."""


def declared(model_type: str) -> set[str]:
    """The keys that a family's config declares."""
    from transformers import AutoConfig

    default = AutoConfig.for_model(model_type)
    return {*default.to_dict(), *default.attribute_map, *anatomy.family(model_type).config.values()}


def config_of(model_type: str, fields: Mapping[str, Any], path: Path) -> PretrainedConfig:
    """The config of a family with these fields. Raises BadInput naming `path` when transformers refuses a value."""
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(model_type, **fields)
    except Exception as error:  # whatever a library makes of hostile values
        raise BadInput(f"{path}: {last_line(error)}") from None


def outline(config: PretrainedConfig, auto_class: str, tensors: Mapping[str, Tensor]) -> PreTrainedModel:
    """The model that a config describes, without memory for its tensors.

    Args:
        config: of the model.
        auto_class: name of transformers' class that chooses the model's.
        tensors: by name, with or without the prefix of the base model.

    Raises:
        BadInput: when one of `tensors` has another shape than the config says.
    """
    import torch
    import transformers

    with torch.device("meta"):
        made: PreTrainedModel = getattr(transformers, auto_class).from_config(config)
    prefix = f"{made.base_model_prefix}."
    shapes = {name.removeprefix(prefix): tensor.shape for name, tensor in made.state_dict().items()}
    for name, tensor in tensors.items():
        wanted = shapes.get(name.removeprefix(prefix), tensor.shape)
        if tensor.shape != wanted:
            raise BadInput(f"its {name} has shape {tuple(tensor.shape)} and its config says {tuple(wanted)}")
    return made


def fill(
    outline: PreTrainedModel, config: PretrainedConfig, tensors: dict[str, Tensor], **how: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of an outline with these tensors, in float32 on the CPU; and transformers' report on their names.

    Args:
        outline: of this module's `outline`, whose copy of the config has more written into it.
        config: of the outline, as it was given.
        tensors: by name, with or without the prefix of the base model.
        how: further arguments of `from_pretrained`.
    """
    import torch

    loader: Any = type(outline)
    return loader.from_pretrained(
        None, config=config, state_dict=tensors, dtype=torch.float32, output_loading_info=True, **how
    )
