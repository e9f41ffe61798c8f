"""What transformers' own models compute: the reference for measurements of layers."""

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from pli_analysis.runs.opening import open_run
from pli_train.training import launch


def run_of(family, runs, config_of, folder):
    """A finished run of BERT, GPT-2 or Llama, and its last model in transformers."""
    if family == "llama":
        launch.begin(config_of("llama", {"train.steps": 3, "growth.schedule": "1@1 2@1"}), folder / "llama").run()
    run = open_run([folder / "llama" if family == "llama" else runs[family]])
    auto = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    return run, auto.from_pretrained(run.checkpoints[-1].path, attn_implementation="eager").eval()


def outputs(model, tokens):
    """The input of the first layer and the output of each, before the final norm, and the logits."""
    base = getattr(model, model.base_model_prefix)
    last = (base.encoder.layer if hasattr(base, "encoder") else base.h if hasattr(base, "h") else base.layers)[-1]
    kept = []
    hook = last.register_forward_hook(lambda _, inputs, out: kept.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        found = model(input_ids=tokens, output_hidden_states=True, use_cache=False)
    hook.remove()
    return [*found.hidden_states[:-1], kept[0]], found.logits  # their list has the last one after the norm
