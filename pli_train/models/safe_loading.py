"""Load a model safely: every file is checked before transformers reads it.

A checkpoint may come from anywhere. transformers reads nothing of its folder by itself: it gets a config of known
keys and tensors that are already in memory, so that no name in a file leads out of the folder, no key of a config
chooses code, and no size in one asks for more memory than the weights are worth.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from pli_train.core import anatomy, safe_model
from pli_train.core.anatomy import Anatomy
from pli_train.core.errors import BadInput, did_you_mean, last_line
from pli_train.core.run_format import run_folder

INERT = {"torch_dtype", "n_ctx", "task_specific_params", "gradient_checkpointing", "position_embedding_type"} | {
    "rope_theta",
    "rope_scaling",
}
"""Keys that no family declares now and configs on the hub still have; they choose no code."""
DTYPES = (None, "float32", "bfloat16", "float16")
GENERATION = "generation_config.json"
SPARE = 64 * 2**20
"""Bytes that a model may need beyond eight times its weights."""


def config_of(folder: Path) -> tuple[PretrainedConfig, Anatomy]:
    """The Hugging Face config of a checkpoint folder, and its family's table.

    Raises:
        BadInput: for a family without a table, a key that the family's config does not declare, or a value it refuses.
    """
    path = folder / run_folder.CONFIG
    fields = run_folder.read_json(path)
    model_type = fields.pop("model_type", None)
    if not isinstance(model_type, str):
        raise BadInput(f"{path}: names no model_type")
    try:
        parts = anatomy.to_train(model_type)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    known = declared(model_type)
    for key in fields:
        if key not in known:
            raise BadInput(f"{path}: {key!r} is not a key of a {model_type}'s config{did_you_mean(key, known)}")
    for dtype in (fields.get("dtype"), fields.get("torch_dtype")):
        if dtype not in DTYPES:
            raise BadInput(f"{path}: dtype: {dtype!r} is none of {', '.join(map(str, DTYPES[1:]))}")
    return safe_model.config_of(model_type, fields, path), parts


def declared(model_type: str) -> set[str]:
    """The keys that a family's config may have."""
    return safe_model.declared(model_type) | INERT


def undeclared(config: PretrainedConfig) -> list[str]:
    """The keys that a config from elsewhere would write and that no checkpoint may have."""
    known = declared(config.model_type)
    return [key for key in config.to_diff_dict() if key not in known]


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint folder, from one file or from shards. Raises BadInput when they cannot be read."""
    if not run_folder.is_sharded(folder):
        return read_tensors(folder / run_folder.WEIGHTS)
    found: dict[str, Tensor] = {}
    for shard in dict.fromkeys(run_folder.shards(folder / run_folder.WEIGHTS_INDEX).values()):
        found |= read_tensors(folder / shard)
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises BadInput when it is none."""
    if run_folder.leads_out(path) or not path.is_file():
        raise BadInput(f"{path}: no such file, or a link, which may lead out of the run")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: not readable as safetensors ({last_line(error)})") from None


def load(folder: Path) -> tuple[PreTrainedModel, Anatomy]:
    """The model of a folder that holds config and weights, in float32 on the CPU.

    Raises:
        BadInput: when config and weights cannot be read, or do not fit each other.
    """
    config, parts = config_of(folder)
    tensors = tensors_of(folder)
    try:
        _check_depth(config, parts, tensors)
        outline = safe_model.outline(config, safe_model.AUTO_CLASS[parts.task], tensors)
        _check_size(outline, tensors)
        model, message = safe_model.fill(outline, config, tensors)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None
    except Exception as error:  # whatever a library makes of hostile values
        raise BadInput(f"{folder}: its {run_folder.CONFIG} and weights make no model ({last_line(error)})") from None
    if missing := sorted(message["missing_keys"]):
        raise BadInput(f"{folder}: its weights lack {missing[0]}" + (" and others" if missing[1:] else ""))
    if hasattr(model, "generation_config") and (folder / GENERATION).exists():
        model.generation_config = _generation(folder / GENERATION)
    return model, parts


def _check_depth(config: PretrainedConfig, parts: Anatomy, tensors: dict[str, Tensor]) -> None:
    depth, locations = getattr(config, parts.config["depth"]), [parts.locate(name) for name in tensors]
    held = 1 + max((position[1] for position in locations if position), default=-1)
    if depth != held:
        raise BadInput(f"its config says {depth} layers and its weights have {held}")


def _check_size(outline: nn.Module, tensors: dict[str, Tensor]) -> None:
    needed, there = _bytes(outline), sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if needed > 8 * there + SPARE:
        raise BadInput(f"its config asks for {needed} bytes and its weights have {there}")


def _bytes(model: nn.Module) -> int:
    held = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _generation(path: Path) -> GenerationConfig:
    fields = run_folder.read_json(path)
    known = GenerationConfig().to_dict().keys() | {"_from_model_config"}
    if strange := [key for key in fields if key not in known]:
        raise BadInput(f"{path}: {strange[0]!r} is not a key of a generation config")
    try:
        return GenerationConfig.from_dict(fields)
    except Exception as error:  # whatever a library makes of hostile values
        raise BadInput(f"{path}: {last_line(error)}") from None
