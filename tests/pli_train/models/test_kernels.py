"""Faster forms of the same functions: equal, and shared by layers that come later."""

import copy
import sys

import pytest
import torch
import torch._inductor.config
from transformers.activations import ACT2FN, GELUTanh, NewGELUActivation

from pli_train.core import anatomy
from pli_train.core.errors import BadInput
from pli_train.data.objective import IGNORED, Batch, loss_sum
from pli_train.models import build as models
from pli_train.models import kernels
from pli_train.training import allocator, launch
from tests.families import TINY, inputs, tiny


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_fused_models_are_the_same_functions(model_type):
    model = tiny(model_type)
    fused = copy.deepcopy(model)
    kernels.fuse(fused)
    arguments = inputs(model)
    with torch.no_grad():
        torch.testing.assert_close(fused(**arguments).logits, model(**arguments).logits, rtol=1e-5, atol=1e-5)
    assert [n for n, _ in fused.named_parameters()] == [n for n, _ in model.named_parameters()]


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast"])
def test_slow_activations_are_fused_wherever_they_are(name):
    model = torch.nn.ModuleDict({"deep": torch.nn.Sequential(ACT2FN[name]), "other": ACT2FN["gelu"]})
    other = model["other"]
    kernels.fuse(model)
    assert isinstance(model["deep"][0], GELUTanh) and model["other"] is other


def test_newborn_layers_are_fused_too(config_of, tmp_path):
    made = launch.begin(config_of("gpt2", {"growth.initializer": "random"}), tmp_path / "run")
    made.run()
    assert len(made.state.model.layers) > 1
    assert not any(isinstance(module, NewGELUActivation) for module in made.state.model.bare.modules())


def test_where_nothing_compiles_it_is_said_in_one_line(config_of, tmp_path):
    without = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with without, pytest.raises(BadInput, match=r"train\.compile: no C\+\+ compiler found"):
        launch.begin(config_of("gpt2", {"train.compile": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="speaks of glibc")
def test_freed_memory_is_kept():
    assert allocator.keep()


def losses(model, task):
    """A loss over a batch and its gradients."""
    tokens = inputs(model)["input_ids"]
    labels = torch.full_like(tokens, IGNORED)
    labels[:, :-1] = tokens[:, 1:]
    loss = loss_sum(model, Batch.of(task, tokens, labels))
    model.zero_grad()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "modernbert"])
def test_an_inserted_layer_reuses_what_was_compiled(model_type):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model, parts = tiny(model_type), anatomy.family(model_type)
    eager, layers = copy.deepcopy(model), models.stack_of(model, parts)
    kernels.compile_layers(layers)
    first = losses(model, parts.task)
    torch.testing.assert_close(first, losses(eager, parts.task), rtol=1e-4, atol=1e-4)
    compiled = counters["stats"]["unique_graphs"]
    assert compiled >= 1

    models.put_into_stack(copy.deepcopy(layers[1]), 1, model, parts, like=1)
    kernels.compile_layers(layers)
    losses(model, parts.task)
    assert counters["stats"]["unique_graphs"] == compiled
