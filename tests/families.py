"""Tiny configs and models of every family with a parameter table."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from pli_train.core import anatomy
from pli_train.models.build import AUTO_CLASS

WIDTH, HEADS, UNITS, LAYERS, VOCABULARY, POSITIONS = 32, 4, 48, 2, 64, 64
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, "pad_token_id": 0}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2}
USUAL = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": UNITS}
SHARED = {"num_key_value_heads": 2}

TINY: dict[str, dict[str, Any]] = {
    "bert": TEXT | USUAL,
    "roberta": TEXT | USUAL,
    "distilbert": TEXT | {"dim": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "hidden_dim": UNITS},
    "modernbert": TEXT | USUAL | {"local_attention": 8},
    "gpt2": {key: value for key, value in TEXT.items() if key != "max_position_embeddings"}
    | {"n_positions": POSITIONS, "n_embd": WIDTH, "n_head": HEADS, "n_layer": LAYERS, "n_inner": UNITS},
    "opt": TEXT | {key: value for key, value in USUAL.items() if key != "intermediate_size"} | {"ffn_dim": UNITS},
    "gpt_neox": TEXT | USUAL,
    "llama": TEXT | USUAL | SHARED,
    "qwen2": TEXT | USUAL | SHARED,
    "qwen3": TEXT | USUAL | SHARED | {"head_dim": 8},
    "mistral": TEXT | USUAL | SHARED | {"head_dim": 8},
    "xlm-roberta": TEXT | USUAL,
    "camembert": TEXT | USUAL,
    "vit": USUAL | {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10},
}

T5 = {"vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 8, "d_ff": UNITS, "num_heads": HEADS}
T5 |= {"num_layers": LAYERS, "num_decoder_layers": 3}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}
SIDES = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {"attention_heads": HEADS, "ffn_dim": UNITS}.items()
}
IMAGES = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}

ANALYZED: dict[str, dict[str, Any]] = {
    "mixtral": TEXT | USUAL | SHARED | {"num_local_experts": 3},
    "gemma": TEXT | USUAL | SHARED | {"head_dim": 8},
    "gemma2": TEXT | USUAL | SHARED | {"head_dim": 8},
    "gemma3_text": TEXT | USUAL | SHARED | {"head_dim": 8},
    "phi": TEXT | USUAL | {"qk_layernorm": True},
    "phi3": TEXT | USUAL | SHARED,
    "olmo": TEXT | USUAL | SHARED,
    "olmo2": TEXT | USUAL | SHARED,
    "stablelm": TEXT | USUAL | SHARED | {"qk_layernorm": True},
    "electra": TEXT | USUAL | {"embedding_size": 16},
    "deberta-v2": TEXT | USUAL | DEBERTA | {"position_buckets": 8},
    "deberta": TEXT | USUAL | DEBERTA,
    "albert": TEXT | USUAL | {"embedding_size": 16},
    "gpt_neo": TEXT | USUAL | {"num_layers": LAYERS, "num_heads": HEADS, "attention_types": [[["global", "local"], 1]]},
    "gptj": {key: value for key, value in TINY["gpt2"].items() if key != "pad_token_id"} | {"rotary_dim": 4},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS},
    "falcon": {
        "vocab_size": VOCABULARY,
        "multi_query": False,
        "new_decoder_architecture": False,
        "alibi": True,
        "bias": True,
    }
    | {key: value for key, value in USUAL.items() if key != "intermediate_size"}
    | {"ffn_hidden_size": UNITS},
    "t5": T5,
    "mt5": T5,
    "bart": TEXT | SIDES | {"d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": 3, "forced_eos_token_id": 2},
    "dinov2": {key: value for key, value in USUAL.items() if key != "intermediate_size"} | IMAGES,
    "deit": USUAL | IMAGES | {"architectures": ["DeiTForImageClassification"]},
}
"""Families whose parameter table is for analysis only."""

CLASSES = dict.fromkeys(("t5", "mt5", "bart"), "AutoModelForSeq2SeqLM") | {"albert": "AutoModelForMaskedLM"}
"""Model class of families whose parameter table has no task."""

OPTIONAL = {
    "modernbert": {"norm_bias": True, "attention_bias": True, "mlp_bias": True},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"attention_bias": True},
}
"""Config fields that add tensors which are in a parameter table, but not in the default model."""


def tiny(model_type: str, **more: Any) -> PreTrainedModel:
    """Return the tiny model of a family, in eval mode, with fixed weights; `more` are further fields of its config.

    Weights of norms differ from 1 and biases from 0, so that nothing is equal by accident.
    """
    config = AutoConfig.for_model(model_type, **(TINY | ANALYZED)[model_type] | more)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        auto = CLASSES.get(model_type) or AUTO_CLASS[anatomy.family(model_type).task]
        model = getattr(transformers, auto).from_config(config)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def inputs(model: PreTrainedModel, count: int = 3, length: int = 12) -> dict[str, torch.Tensor]:
    """Return inputs of a tiny model: `count` blocks of `length` tokens, or `count` images."""
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        size = model.config.image_size
        return {"pixel_values": torch.rand(count, model.config.num_channels, size, size, generator=generator)}
    return {"input_ids": torch.randint(3, VOCABULARY, (count, length), generator=generator)}


def logits(model: PreTrainedModel, **how: Any) -> torch.Tensor:
    """Return a model's logits for `inputs`."""
    with torch.no_grad():
        return model(**inputs(model, **how)).logits
