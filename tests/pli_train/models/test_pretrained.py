"""Weights that a run begins with are those that were trained: nothing is drawn in place of what a folder lacks."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel

from pli_train.core.errors import BadInput, PliError
from pli_train.core.run_format import run_folder
from pli_train.models import build
from pli_train.models.config import ModelConfig
from tests import families
from tests.odd import changed, renamed, saved, spoilt

BLOCK = 8
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("plain") / "out", steps=(1,))


def begun(path):
    return build.build(ModelConfig(name_or_path=str(path), weights="pretrained"), None, BLOCK, seed=0)[0]


def test_plain_weights_are_begun_with_as_they_are(folder):
    theirs = load_file(folder / "checkpoint-1" / run_folder.WEIGHTS)
    mine = begun(folder / "checkpoint-1").state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)


CHANGES = {
    "lacks model.embed_tokens.weight, .* and has module.lm_head.weight and 20 others": (
        renamed(lambda name: f"module.{name}"),
        {},
    ),
    f"lacks {UP}: save": (lambda tensors: {name: each for name, each in tensors.items() if name != UP}, {}),
    f"has numbers that are not finite in {UP}: use an earlier checkpoint": (spoilt(UP), {}),
    "lacks model.layers.2.input_layernorm.weight": (lambda tensors: tensors, {"num_hidden_layers": 3}),
    "its config has 1 layers, but its weights have 2": (lambda tensors: tensors, {"num_hidden_layers": 1}),
    "is quantized": (lambda tensors: tensors, {"quantization_config": {"quant_method": "unknown"}}),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_run_does_not_begin_with_what_nobody_trained(message, folder, tmp_path):
    change, config = CHANGES[message]
    odd = changed(folder, tmp_path / "odd", change, only=(1,), **config)
    with pytest.raises(BadInput, match=message) as error:
        begun(odd / "checkpoint-1")
    assert str(error.value).startswith("model.name_or_path: ") and "\n" not in str(error.value)


def test_an_encoder_without_the_head_of_its_task_will_do(tmp_path):
    encoder = families.tiny("bert").bert
    assert isinstance(encoder, BertModel)
    encoder.save_pretrained(tmp_path)
    mine = begun(tmp_path).bert.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 64])
def test_a_damaged_file_is_one_line(data, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "odd")
    (copy / "checkpoint-1" / run_folder.WEIGHTS).write_bytes(data)
    with pytest.raises(PliError, match="cannot be loaded") as error:
        begun(copy / "checkpoint-1")
    assert "\n" not in str(error.value)
