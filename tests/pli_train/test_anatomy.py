import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from pli_train import anatomy
from pli_train.errors import BadInput
from pli_train.model import stack_of

AUTO = {"masked-lm": AutoModelForMaskedLM, "causal-lm": AutoModelForCausalLM}
SMALL = {
    "bert": {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 20, "num_hidden_layers": 2},
    "gpt2": {"n_embd": 12, "n_head": 3, "n_layer": 2},
}


@pytest.fixture
def model(family):
    return AUTO[anatomy.family(family).task].from_config(AutoConfig.for_model(family, vocab_size=30, **SMALL[family]))


def test_every_family_with_a_table_is_tested_here():
    assert set(anatomy.families()) == set(SMALL)


def test_the_table_names_every_tensor_of_a_layer(family, model):
    layer = stack_of(model, anatomy.family(family))[0]
    assert set(anatomy.family(family).tensors) == {name for name, _ in layer.named_parameters()}


def test_parts_share_out_every_element_exactly_once(family, model):
    parts = anatomy.family(family)
    counted, total = {}, 0
    for name, parameter in stack_of(model, parts)[0].named_parameters():
        # Every element carries a number of its own: none may be lost and none may come twice.
        numbered = np.arange(total, total + parameter.numel()).reshape(parameter.shape)
        total += parameter.numel()
        for part, values in parts.split(name, numbered, heads=3):
            counted.setdefault(part, []).append(np.asarray(values).ravel())
    assert set(counted) == {"h0", "h1", "h2", "attention", "ffn", "norms"}
    everything = np.concatenate([chunk for chunks in counted.values() for chunk in chunks])
    assert np.array_equal(np.sort(everything), np.arange(total))


def test_a_heads_slice_is_what_that_head_computes_with(family, model):
    """Silencing the slices of all heads but one leaves that head's contribution to attention's output, exactly."""
    parts = anatomy.family(family)
    layer = stack_of(model, parts)[0]
    attention = layer.attention if family == "bert" else layer.attn
    hidden = torch.randn(1, 5, 12)

    def output():
        if family == "bert":
            context = attention.self(hidden)[0]
            return attention.output.dense(context)
        return attention(hidden)[0]

    def silence(head):
        for name, parameter in layer.named_parameters():
            for part, values in parts.split(name, parameter.data, heads=3):
                if part == f"h{head}":
                    before = parameter.data.clone()
                    # A split may be a copy; find its elements by marking them.
                    marks = torch.zeros_like(parameter.data)
                    numbered = torch.arange(parameter.numel()).reshape(parameter.shape)
                    chosen = dict(parts.split(name, numbered, heads=3))[part].flatten()
                    marks.view(-1)[chosen] = 1
                    assert torch.equal(before.view(-1)[chosen].sort().values, values.flatten().sort().values)
                    parameter.data.mul_(1 - marks)

    model.eval()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        whole = output()
        alone = []
        for kept in range(3):
            layer.load_state_dict(state)
            for head in range(3):
                if head != kept:
                    silence(head)
            alone.append(output())
    assert torch.allclose(sum(alone), whole, atol=1e-6)
    assert all(part.abs().max() > 0 for part in alone)


def test_names_by_id_follow_the_layer_and_not_the_place(family, model):
    parts = anatomy.family(family)
    names = [name for name, _ in model.named_parameters()]
    before = {parts.by_id(name, ["a", "b"]) for name in names}
    assert len(before) == len(names)
    moved = parts.by_id(next(n for n in names if parts.locate(n) and parts.locate(n)[1] == 1), ["c", "a"])
    assert moved in before


def test_a_family_without_a_table_is_named_with_its_neighbour():
    with pytest.raises(BadInput, match="did you mean 'gpt2'"):
        anatomy.family("gpt3")
