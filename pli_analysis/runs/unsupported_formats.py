"""Name checkpoint formats that are not read, and say how to convert them.

Files are told by their names and never opened. Pickles can run code, so none is read, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pli_train.core.run_format import run_folder

WEIGHTS = (run_folder.WEIGHTS, run_folder.WEIGHTS_INDEX)
ADAPTER = "adapter_config.json"
WITH_CONFIG = f"beside the model's {run_folder.CONFIG}"

FOLDERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (ADAPTER, "adapter_model.safetensors", "adapter_model.bin"),
        "is an adapter of PEFT, and not a model: merge it with its base model (PeftModel.from_pretrained(…)"
        ".merge_and_unload().save_pretrained(…))",
    ),
    (
        ("*.distcp", "*/*.distcp"),
        "holds shards of FSDP (torch.distributed.checkpoint), which are not read here: merge them "
        f"(accelerate merge-weights SHARDS OUT) {WITH_CONFIG}",
    ),
    (
        ("*mp_rank_*_states.pt", "zero_to_fp32.py", "global_step*/*_states.pt"),
        "holds DeepSpeed's state, a format that can run code and is not read here: merge it "
        f"(python zero_to_fp32.py . OUT --safe_serialization) {WITH_CONFIG}",
    ),
    (
        ("random_states_*.pkl", "scheduler.bin"),
        "holds a state of accelerate in a format that can run code and is not read here: save it with "
        f"save_state(…, safe_serialization=True), or the model alone with save_pretrained, {WITH_CONFIG}",
    ),
    (
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
        "has its weights in pytorch_model.bin, a format that can run code and is not read here: convert it with "
        "save_pretrained",
    ),
    (
        ("*.ckpt",),
        "holds a checkpoint of Lightning, a format that can run code and is not read here: load it there and "
        "save_pretrained the model",
    ),
    (
        ("tf_model.h5", "*.ckpt.index", "model.ckpt-*", "flax_model.msgpack", "tf_model.h5.index.json"),
        "has weights of TensorFlow or Flax, which are not read here: convert it with transformers below 5 "
        "(from_pretrained(…, from_tf=True or from_flax=True), save_pretrained)",
    ),
    (
        ("*.gguf",),
        "has its weights in GGUF, which is not read here: convert it with transformers (from_pretrained(…, "
        "gguf_file=…), save_pretrained)",
    ),
    (
        ("consolidated*", "original/consolidated*"),
        "has weights of a release that is not Hugging Face's (consolidated…), which are not read here: convert it with "
        "the script of that family in transformers (convert_…_weights_to_hf.py)",
    ),
)
"""Names of files → what a folder with any of them is, and what to do. The first that fits is told."""
NO_MODEL = (run_folder.OPTIMIZER, run_folder.PROBE)
"""Our own files that hold no model: a run that begins has them before anything else."""
PICKLES = (".pt", ".pth", ".bin", ".pkl")
BESIDE = ("optimizer", "scheduler", "scaler", "rng_state", "training_args", "random_states")
"""How files of Trainer and accelerate begin that are pickles and hold no weights of a model."""

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
"""How the name of a tensor ends that only a quantized model has → what quantized it."""
MXFP4 = ("_blocks", "_scales")


def explain(folder: Path) -> str | None:
    """What a folder without readable weights is, and what to do about it, in a few words; None where it is nothing."""
    for patterns, message in FOLDERS:
        if any(_holds(folder, pattern) for pattern in patterns):
            return message
    pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES and not path.name.startswith(BESIDE)]
    if pickles:
        return (
            f"has its weights in {min(pickles)}, a format that can run code and is not read here: load them into the "
            "model and save_pretrained it"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in NO_MODEL)
    if len(others) == 1 and not (folder / run_folder.WEIGHTS).exists():
        return f"has {others[0]} and no {run_folder.WEIGHTS}: call it that if it holds the model's weights"
    return None


def has_weights(folder: Path) -> bool:
    """Whether a folder has files called as the weights of a model are that are read here."""
    return any((folder / name).exists() or (folder / name).is_symlink() for name in WEIGHTS)


def _holds(folder: Path, pattern: str) -> bool:
    return (folder / pattern).is_symlink() or next(iter(folder.glob(pattern)), None) is not None


def missing_config(folder: Path) -> str:
    """What to say of a folder that has weights and no config."""
    message = f"lacks {run_folder.CONFIG}"
    if not has_weights(folder):
        return message
    above = folder.resolve().parent / run_folder.CONFIG
    source = str(above) if above.is_file() else "that of the model that was trained"
    return f"{message}, which describes the model: copy {source} there"


def quantized(names: Collection[str], config: Mapping[str, Any]) -> str | None:
    """What to say of the tensors of a quantized model or of an adapter, in a few words; None for other tensors.

    >>> quantized(["model.layers.0.mlp.up_proj.qweight"], {"quantization_config": {"quant_method": "awq"}})[:33]
    'is quantized (awq): its weights a'
    >>> quantized(["h.0.attn.c_attn.weight"], {})
    """
    endings = {name.rpartition(".")[2] for name in names}
    if any(".lora_" in name or ".base_layer." in name for name in names):
        return (
            "has an adapter (LoRA) beside its weights: merge it into them (PEFT's merge_and_unload), and "
            "save_pretrained the model"
        )
    found = next((CODES[ending] for ending in CODES if ending in endings), None)
    if found is None and all(any(ending.endswith(part) for ending in endings) for part in MXFP4):
        found = "MXFP4"
    return codes(found, config) if found else None


def codes(found: str, config: Mapping[str, Any]) -> str:
    """What to say of weights that are codes.

    Args:
        found: what they look like.
        config: of the model, which may tell.
    """
    section = config.get("quantization_config")
    method = section.get("quant_method") if isinstance(section, Mapping) else None
    return (
        f"is quantized ({method if isinstance(method, str) else found}): its weights are codes, which have no "
        "distances; take the checkpoint it was made from, or dequantize it (model.dequantize() in transformers, "
        "save_pretrained)"
    )
