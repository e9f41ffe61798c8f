import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pli_train.core import anatomy
from pli_train.data.objective import IGNORED, Batch, Objective, loss_sum
from pli_train.data.tokenization import train_bpe
from pli_train.models import build as models
from pli_train.models import flops
from pli_train.models.config import ModelConfig
from tests.families import HEADS, LAYERS, TINY, UNITS, tiny


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["some words to learn from, some more words"] * 3, 280)


@pytest.fixture
def blocks(tokenizer):
    made = np.random.default_rng(0).integers(3, len(tokenizer), (64, 128))
    made[:, 7] = tokenizer.eos_token_id
    return made


def test_masks_are_a_function_of_their_seed(tokenizer, blocks):
    objective = Objective("masked-lm", tokenizer, 0.15)
    one, same, other = (objective.batch(blocks, seed) for seed in (1, 1, 2))
    assert torch.equal(one.inputs, same.inputs) and torch.equal(one.labels, same.labels)
    assert not torch.equal(one.labels, other.labels)


def test_masking_keeps_to_devlins_shares(tokenizer, blocks):
    batch = Objective("masked-lm", tokenizer, 0.15).batch(blocks, 3)
    tokens, chosen = torch.from_numpy(blocks), batch.labels != IGNORED
    candidates = blocks.size - len(blocks)

    def near(count, of, share):
        return abs(count - of * share) < 4 * (of * share * (1 - share)) ** 0.5

    assert torch.equal(batch.labels[chosen], tokens[chosen])
    assert torch.equal(batch.inputs[~chosen], tokens[~chosen])
    assert not chosen[:, 7].any(), "the end of a document is never masked"
    total = batch.targets
    assert near(total, candidates, 0.15)
    assert near(int((batch.inputs[chosen] == tokenizer.mask_token_id).sum()), total, 0.8)
    kept = int((batch.inputs[chosen] == tokens[chosen]).sum())
    assert near(kept, total, 0.1 + 0.1 / len(tokenizer))


def test_the_loss_equals_that_of_transformers(family, tokenizer, blocks):
    table = {"bert": {"hidden_size": 32, "num_attention_heads": 2}, "gpt2": {"n_embd": 32, "n_head": 2}}[family]
    made, parts = models.build(ModelConfig(family=family, config=table, initial_layers=2), tokenizer, 128, seed=0)
    made.eval()
    batch = Objective(parts.task, tokenizer, 0.15).batch(blocks[:4], 0)
    labels = batch.labels if parts.task == "masked-lm" else batch.inputs
    with torch.no_grad():
        theirs = made(input_ids=batch.inputs, labels=labels).loss
        assert loss_sum(made, batch) / batch.targets == pytest.approx(float(theirs), rel=1e-5)


def test_logits_are_made_where_something_is_predicted_only(tokenizer, blocks):
    made, _ = models.build(ModelConfig(family="bert", config=TINY["bert"], initial_layers=2), tokenizer, 64, seed=0)
    batch = Objective("masked-lm", tokenizer, 0.15).batch(blocks[:4, :64].copy(), 0)
    seen = []
    handle = made.get_output_embeddings().register_forward_hook(lambda *args: seen.append(args[-1].shape))
    loss_sum(made, batch).backward()
    handle.remove()
    assert seen == [(batch.targets, len(tokenizer))] and 0 < batch.targets < batch.labels.numel() / 4
    assert made(input_ids=batch.inputs).logits.shape[:-1] == batch.inputs.shape, "a later call finds the model whole"


def test_a_batch_without_anything_to_predict_has_no_loss_and_no_gradient(tokenizer):
    made, _ = models.build(ModelConfig(family="bert", config=TINY["bert"], initial_layers=1), tokenizer, 64, seed=0)
    tokens = torch.ones(2, 8, dtype=torch.int64)
    loss = loss_sum(made, Batch.of("masked-lm", tokens, torch.full_like(tokens, IGNORED)))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not any(p.grad.any() for p in made.parameters() if p.grad is not None)


def test_a_model_that_fails_is_left_as_it_was(tokenizer):
    made, _ = models.build(ModelConfig(family="bert", config=TINY["bert"], initial_layers=1), tokenizer, 64, seed=0)
    tokens = torch.full((1, 8), len(tokenizer), dtype=torch.int64)  # no such token
    with pytest.raises(IndexError):
        loss_sum(made, Batch.of("masked-lm", tokens, tokens))
    assert made(input_ids=tokens * 0).logits.shape == (1, 8, len(tokenizer))


TEXT = sorted(family for family in TINY if anatomy.family(family).task != "image-classification")


def counted(made, length):
    """FLOPs of forward and backward of two blocks, by torch's own counter on the running model."""
    from torch.utils.flop_counter import FlopCounterMode

    made.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        made(input_ids=torch.ones(2, length, dtype=torch.long)).logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", TEXT)
def test_flops_equal_those_that_torch_counts_at_any_shape(family):
    """A model of few heads and layers is measured once; what that says of other shapes is counted on such models."""
    parts, made = anatomy.family(family), tiny(family)
    size, few = flops.measure(made, parts), parts.sizes(made.config)["member"]
    whole = [(HEADS, UNITS)] * LAYERS
    rotary = 2 * 2 * 16 * 4 if hasattr(made.base_model, "rotary_emb") else 0  # the angles of rotary positions
    assert size.flops_per_token(whole, 16) * 32 == pytest.approx(counted(made, 16), abs=4 * rotary)
    assert size.parameters(whole) == sum(p.numel() for p in made.parameters())
    shrink = [(few, UNITS), (HEADS, UNITS - 8)]
    models.shrink(made, parts, shrink)
    assert size.flops_per_token(shrink, 16) * 32 == pytest.approx(counted(made, 16), abs=4 * rotary)
    assert size.parameters(shrink) == sum(p.numel() for p in made.parameters())


def test_a_model_without_storage_measures_the_same():
    wanted = ModelConfig(family="gpt2", config={"n_embd": 48, "n_head": 4, "n_layer": 3})
    depth, skeleton, parts = models.skeleton(wanted, 100, 16)
    real = AutoModelForCausalLM.from_config(models.model_config(wanted, 100, 16))
    assert depth == 3
    assert flops.measure(skeleton, parts) == flops.measure(real, parts)
