"""Any model with a list of equal blocks has a stack."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM

from pli_train.core import anatomy
from pli_train.core.anatomy.discovery import discover
from pli_train.core.errors import BadInput
from pli_train.models.build import stack_of
from tests.bare_models import Block, ResidualConvNet, ResidualMLP
from tests.families import TINY, tiny


class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = (nn.ModuleList(Block() for _ in range(2)) for _ in "ab")


@pytest.mark.parametrize(("make", "stack"), [(ResidualMLP, "trunk.blocks"), (ResidualConvNet, "blocks")])
def test_the_stack_is_the_list_of_equal_blocks(make, stack):
    model = make()
    found = discover(model)
    assert found.stack == stack
    assert stack_of(model, found) is model.get_submodule(stack)
    located = [position for name, _ in model.named_parameters() if (position := found.locate(name))]
    assert len(located) == len(list(model.get_submodule(stack).parameters()))
    assert found.sizes({})["head"] == 0


def test_a_block_taken_from_the_stack_is_one_the_model_can_do_without():
    """The stack found is the one that forward walks: without its silent last block nothing changes."""
    model = ResidualMLP()
    layers, x = stack_of(model, discover(model)), torch.randn(5, 4)
    with torch.no_grad():
        layers[-1].down.weight.zero_()
        layers[-1].down.bias.zero_()
        before = model(x)
        del layers[-1]
        assert torch.equal(model(x), before)


def test_a_stack_of_one_block_is_a_stack():
    assert discover(ResidualMLP(depth=1)).stack == "trunk.blocks"


def test_everything_in_a_block_is_of_kind_other():
    found = discover(ResidualMLP())
    (only,) = found.split("up.weight", np.arange(6).reshape(2, 3), found.sizes({}))
    assert only[0] == "other" and only[1].shape == (2, 3)


def test_where_two_lists_could_be_meant_the_user_picks():
    with pytest.raises(BadInput, match=r"select one with stack=…: 'left' \(2 × Block\), 'right' \(2 × Block\)"):
        discover(Twins())
    assert discover(Twins(), stack="right").stack == "right"


def test_a_wrong_pick_is_answered_with_the_right_ones():
    with pytest.raises(
        BadInput, match=r"stack='unlike': ResidualMLP has no list of equal blocks there.*'trunk.blocks'"
    ):
        discover(ResidualMLP(), stack="unlike")


def test_a_model_without_a_list_of_equal_blocks_is_refused():
    with pytest.raises(BadInput, match="Linear has no ModuleList of equal blocks"):
        discover(nn.Linear(2, 2))


def test_a_hugging_face_model_without_a_table_is_understood():
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 3}
    config = AutoConfig.for_model("electra", vocab_size=20, embedding_size=16, **small)
    model = AutoModelForMaskedLM.from_config(config)
    found = discover(model)
    assert (found.model_type, found.task, found.stack) == ("electra", "masked-lm", "encoder.layer")
    assert found.config == {"depth": "num_hidden_layers"}
    assert found.locate("electra.encoder.layer.2.output.dense.bias") == (
        "electra.encoder.layer",
        2,
        "output.dense.bias",
    )
    assert found.stack == anatomy.family("bert").stack, "electra's layers are BERT's"


@pytest.mark.parametrize("family", [name for name in TINY if name != "modernbert"])
def test_discovery_and_tables_agree(family):
    found, table = discover(tiny(family)), anatomy.family(family)
    assert (found.stack, found.task, found.model_type) == (table.stack, table.task, table.model_type)
    assert found.config["depth"] == table.config["depth"]


def test_the_depth_goes_by_the_familys_own_name():
    assert discover(tiny("distilbert")).config == {"depth": "n_layers"}


def test_blocks_that_are_not_all_alike_are_no_stack():
    """ModernBERT's lowest layer lacks a norm: without its table nothing says how to grow it."""
    with pytest.raises(BadInput, match="has no ModuleList of equal blocks"):
        discover(tiny("modernbert"))
