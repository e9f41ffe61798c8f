"""Name checkpoint formats that are not read, and explain how to convert them.

Formats are recognized by file names; the files are never opened. Pickles can run code, so none is ever read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pli_train.core.run_format import run_folder

WEIGHTS = (run_folder.WEIGHTS, run_folder.WEIGHTS_INDEX)
ADAPTER = "adapter_config.json"
PICKLE = "a pickle, which can run code and is not read"
SAVE = "load it where it was trained and save the model with save_pretrained"
ADD_CONFIG = f"put the model's {run_folder.CONFIG} beside the result"

FOLDERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (ADAPTER, "adapter_model.safetensors", "adapter_model.bin"),
        "holds a PEFT adapter, not a full model; merge it into its base model: "
        "PeftModel.from_pretrained(…).merge_and_unload().save_pretrained(…)",
    ),
    (
        ("*.distcp", "*/*.distcp"),
        "holds FSDP shards (torch.distributed.checkpoint), which are not read; merge them with "
        f"`accelerate merge-weights SHARDS OUT` and {ADD_CONFIG}",
    ),
    (
        ("*mp_rank_*_states.pt", "zero_to_fp32.py", "global_step*/*_states.pt"),
        f"holds a DeepSpeed state, {PICKLE}; convert it with "
        f"`python zero_to_fp32.py . OUT --safe_serialization` and {ADD_CONFIG}",
    ),
    (
        ("random_states_*.pkl", "scheduler.bin"),
        f"holds an accelerate state, {PICKLE}; save it with save_state(…, safe_serialization=True), or the model "
        f"alone with save_pretrained, and {ADD_CONFIG}",
    ),
    (
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
        f"has its weights in pytorch_model.bin, {PICKLE}; convert it in transformers: "
        "from_pretrained(…).save_pretrained(…)",
    ),
    (
        ("*.ckpt",),
        f"holds a Lightning checkpoint, {PICKLE}; {SAVE}",
    ),
    (
        ("tf_model.h5", "*.ckpt.index", "model.ckpt-*", "flax_model.msgpack", "tf_model.h5.index.json"),
        "has TensorFlow or Flax weights, which are not read; convert them with transformers<5: "
        "from_pretrained(…, from_tf=True or from_flax=True).save_pretrained(…)",
    ),
    (
        ("*.gguf",),
        "has its weights in GGUF, which is not read; convert them in transformers: "
        "from_pretrained(…, gguf_file=…).save_pretrained(…)",
    ),
    (
        ("consolidated*", "original/consolidated*"),
        "has consolidated weights, not those of Hugging Face, which are not read; convert them with the script of "
        "the model family in transformers (convert_…_weights_to_hf.py)",
    ),
)
"""File name patterns → what a folder with such a file holds, and what to do. The first match counts."""
NO_MODEL = (run_folder.OPTIMIZER, run_folder.PROBE)
"""Files of `pli-train` that hold no model; a new run writes them first."""
PICKLES = (".pt", ".pth", ".bin", ".pkl")
BESIDE = ("optimizer", "scheduler", "scaler", "rng_state", "training_args", "random_states")
"""Prefixes of pickles by Trainer and accelerate that hold no weights of a model."""

CODES = {
    "SCB": "bitsandbytes, 8 bits",
    "absmax": "bitsandbytes, 4 bits",
    "quant_map": "bitsandbytes, 4 bits",
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "W_q": "HQQ",
    "weight_scale_inv": "fp8 with scales",
    "weight_scale": "fp8 or int8 with scales",
    "weight_packed": "compressed-tensors",
    "weight_scale_2": "NVFP4",
}
"""Last component of tensor names in a quantized model → quantization method."""
MXFP4 = ("_blocks", "_scales")


def explain(folder: Path) -> str | None:
    """Explain what a folder without readable weights holds and what to do, in one line; None if it holds no weights."""
    for patterns, message in FOLDERS:
        if any(_holds(folder, pattern) for pattern in patterns):
            return message
    pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES and not path.name.startswith(BESIDE)]
    if pickles:
        return f"has its weights in {min(pickles)}, {PICKLE}; load them into the model and save it with save_pretrained"
    others = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in NO_MODEL)
    if len(others) == 1 and not (folder / run_folder.WEIGHTS).exists():
        return f"{run_folder.WEIGHTS} is missing; if {others[0]} holds the model's weights, rename it to that"
    return None


def has_weights(folder: Path) -> bool:
    """Return whether a folder has weights, or links to them, in a format that is read."""
    return any((folder / name).exists() or (folder / name).is_symlink() for name in WEIGHTS)


def _holds(folder: Path, pattern: str) -> bool:
    return (folder / pattern).is_symlink() or next(iter(folder.glob(pattern)), None) is not None


def missing_config(folder: Path) -> str:
    """Return the error line for a folder without a config: what is missing and where to get it."""
    missing = f"{run_folder.CONFIG} is missing"
    if not has_weights(folder):
        return missing
    above = folder.resolve().parent / run_folder.CONFIG
    return f"{missing}; copy it from {above if above.is_file() else 'the model that was trained'}"


def quantized(names: Collection[str], config: Mapping[str, Any]) -> str | None:
    """Explain in one line that tensors are of a quantized model or an adapter; None for other tensors.

    >>> quantized(["model.layers.0.mlp.up_proj.qweight"], {"quantization_config": {"quant_method": "awq"}})[:33]
    'is quantized (awq): weights are s'
    >>> quantized(["h.0.attn.c_attn.weight"], {})
    """
    endings = {name.rpartition(".")[2] for name in names}
    if any(".lora_" in name or ".base_layer." in name for name in names):
        return (
            "has an unmerged LoRA adapter in its weights; call PEFT's merge_and_unload(), then save the model with "
            "save_pretrained"
        )
    method = next((CODES[ending] for ending in CODES if ending in endings), None)
    if method is None and all(any(ending.endswith(part) for ending in endings) for part in MXFP4):
        method = "MXFP4"
    return codes(method, config) if method else None


def codes(found: str, config: Mapping[str, Any]) -> str:
    """Return the error line for quantized weights.

    Args:
        found: quantization method or number type seen in the tensors, used if the config names none.
        config: of the model.
    """
    section = config.get("quantization_config")
    method = section.get("quant_method") if isinstance(section, Mapping) else None
    return (
        f"is quantized ({method if isinstance(method, str) else found}): weights are stored as codes, which have no "
        "distances; use the checkpoint that was quantized, or dequantize this one (in transformers: "
        "model.dequantize(), then save_pretrained)"
    )
