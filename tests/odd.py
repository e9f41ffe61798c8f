"""Small Hugging Face checkpoints of a tiny model whose weights move at random, and functions that change them."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from pli_analysis import api
from pli_train.core.run_format import run_folder
from tests import families

STEPS = (1, 2, 3)
STACKS = {"llama": "model.layers", "bert": "bert.encoder.layer"}
UP = "model.layers.1.mlp.up_proj.weight"


def saved(folder, family="llama", steps=STEPS, **config):
    """Write checkpoints of a model whose parameters move at random: `folder/checkpoint-1` and so on."""
    model, generator = families.tiny(family, **config), torch.Generator().manual_seed(3)
    for step in steps:
        model.save_pretrained(folder / f"checkpoint-{step}")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return folder


def changed(folder, to, change=lambda tensors: tensors, only=STEPS, **config):
    """Copy checkpoints, some of them with changed tensors or config fields."""
    copy = Path(shutil.copytree(folder, to))
    for step in only:
        at = copy / f"checkpoint-{step}"
        tensors = {name: tensor.contiguous() for name, tensor in change(load_file(at / run_folder.WEIGHTS)).items()}
        save_file(tensors, at / run_folder.WEIGHTS, metadata={"format": "pt"})
        fields = json.loads((at / run_folder.CONFIG).read_text())
        (at / run_folder.CONFIG).write_text(json.dumps(fields | config))
    return copy


def renamed(change):
    """Return a function that renames tensors."""
    return lambda tensors: {change(name): tensor for name, tensor in tensors.items()}


def spoilt(name, value=float("nan")):
    """Return a function that changes the first number of a tensor."""

    def change(tensors):
        tensors[name].view(-1)[0] = value
        return tensors

    return change


def moved(birth, now, stack):
    """Return ‖θ(t) − θ(b)‖ ÷ ‖θ(b)‖ of each layer, from two state dicts and the path of the stack."""
    distances, index = [], 0
    while names := [name for name in birth if name.startswith(f"{stack}.{index}.")]:
        squares = sum(float((now[name].double() - birth[name].double()).square().sum()) for name in names)
        distances.append((squares / sum(float(birth[name].double().square().sum()) for name in names)) ** 0.5)
        index += 1
    return distances


def expected_drift(folder, family):
    """Return relative L2 by (step, layer), from models that plain transformers loads."""
    auto = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    states = {
        step: auto.from_pretrained(folder / f"checkpoint-{step}", dtype=torch.float32).state_dict() for step in STEPS
    }
    return np.array([moved(states[1], states[step], STACKS[family]) for step in STEPS])


def measured_drift(run):
    """Return relative L2 by (step, layer), as drift measures it."""
    table = api.drift(run)
    return table.pivot(index="step", columns="part", values="relative_l2").to_numpy()
