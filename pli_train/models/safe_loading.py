"""Load a model safely: every file is checked before transformers reads it.

A checkpoint may come from an untrusted source. transformers does not read its folder: it gets a config with known keys
and tensors in memory. So file names cannot point outside the folder, config keys cannot select code, and config sizes
cannot allocate much more memory than the weights have.
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
"""Obsolete keys that configs on the hub still have; they do not select code."""
DTYPES = (None, "float32", "bfloat16", "float16")
GENERATION = "generation_config.json"
SPARE = 64 * 2**20
"""Bytes that a model may need in addition to eight times its weights."""


def config_of(folder: Path) -> tuple[PretrainedConfig, Anatomy]:
    """Return the Hugging Face config of a checkpoint folder, and its family's table.

    Raises:
        BadInput: if the family has no table, or a key or value is invalid in the family's config.
    """
    path = folder / run_folder.CONFIG
    fields = run_folder.read_json(path)
    model_type = fields.pop("model_type", None)
    if not isinstance(model_type, str):
        raise BadInput(f"{path}: has no model_type")
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
            raise BadInput(f"{path}: dtype: {dtype!r} is not one of {', '.join(map(str, DTYPES[1:]))}")
    return safe_model.config_of(model_type, fields, path), parts


def declared(model_type: str) -> frozenset[str]:
    """Return the keys that a family's config may have."""
    return safe_model.declared(model_type) | INERT


def undeclared(config: PretrainedConfig) -> list[str]:
    """Return the keys that a config would save but a checkpoint may not have."""
    known = declared(config.model_type)
    return [key for key in config.to_diff_dict() if key not in known]


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint folder, from one file or from shards. Raises BadInput if unreadable."""
    if not run_folder.is_sharded(folder):
        return read_tensors(folder / run_folder.WEIGHTS)
    tensors: dict[str, Tensor] = {}
    for shard in dict.fromkeys(run_folder.shards(folder / run_folder.WEIGHTS_INDEX).values()):
        tensors |= read_tensors(folder / shard)
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file. Raises BadInput if it is invalid."""
    if run_folder.leads_out(path) or not path.is_file():
        raise BadInput(f"{path}: no such file, or a link, which may lead out of the run")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: not readable as safetensors ({last_line(error)})") from None


def load(folder: Path) -> tuple[PreTrainedModel, Anatomy]:
    """Load the model of a folder with config and weights, in float32 on the CPU.

    Raises:
        BadInput: if config and weights cannot be read, or do not match.
    """
    config, parts = config_of(folder)
    tensors = tensors_of(folder)
    try:
        _check_depth(config, parts, tensors)
        outline = safe_model.outline(config, safe_model.AUTO_CLASS[parts.task], tensors)
        _check_size(outline, tensors)
        model, report = safe_model.fill(outline, config, tensors)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None
    except Exception as error:  # libraries raise any kind of error for invalid values
        raise BadInput(
            f"{folder}: its {run_folder.CONFIG} and weights do not make a model ({last_line(error)})"
        ) from None
    if missing := sorted(report["missing_keys"]):
        raise BadInput(f"{folder}: its weights lack {missing[0]}" + (" and others" if missing[1:] else ""))
    if hasattr(model, "generation_config") and (folder / GENERATION).exists():
        model.generation_config = _generation(folder / GENERATION)
    return model, parts


def _check_depth(config: PretrainedConfig, parts: Anatomy, tensors: dict[str, Tensor]) -> None:
    depth, locations = getattr(config, parts.config["depth"]), [parts.locate(name) for name in tensors]
    stored = 1 + max((location[1] for location in locations if location), default=-1)
    if depth != stored:
        raise BadInput(f"its config has {depth} layers, but its weights have {stored}")


def _check_size(outline: nn.Module, tensors: dict[str, Tensor]) -> None:
    needed, stored = _bytes(outline), sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if needed > 8 * stored + SPARE:
        raise BadInput(f"its config needs {needed} bytes, but its weights have {stored}")


def _bytes(model: nn.Module) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _generation(path: Path) -> GenerationConfig:
    fields = run_folder.read_json(path)
    known = GenerationConfig().to_dict().keys() | {"_from_model_config"}
    if unknown := [key for key in fields if key not in known]:
        raise BadInput(f"{path}: {unknown[0]!r} is not a key of a generation config")
    try:
        return GenerationConfig.from_dict(fields)
    except Exception as error:  # libraries raise any kind of error for invalid values
        raise BadInput(f"{path}: {last_line(error)}") from None
