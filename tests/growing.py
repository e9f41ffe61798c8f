"""Growth of tiny models outside any training, and the schedule and the models that every operator fits."""

import torch
from torch.nn.functional import cross_entropy

from pli_train.growth.initial_shape import start_of
from pli_train.models import build as models
from pli_train.optim import optimizer
from tests.families import inputs, tiny

EVERYTHING = [
    {"operator": "context", "at": 0, "to": 16},
    {"at": 2, "index": 1, "initializer": "identity", "freeze_steps": 2},
    {"operator": "heads", "at": 4, "to": 4, "learning_rate": "rewarm-new", "rewarm_steps": 3},
    {"operator": "ffn", "at": 5, "to": 80, "initializer": "clone-noise", "noise": 0.1, "optimizer_state": "copy"},
    {"operator": "swap", "at": 6, "indices": [0, 1]},
    {"operator": "context", "at": 6, "to": 32},
    {"at": 7, "index": 2, "initializer": "random", "learning_rate": "rewarm", "rewarm_steps": 3},
    {"operator": "heads", "at": 8, "to": 6, "layers": ["a"], "initializer": "random", "freeze_steps": 1},
    {"at": 9, "index": 0, "donor": "a", "optimizer_state": "reset-all", "learning_rate": "rewind"},
]
WIDE = {
    "bert": {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 64, "max_position_embeddings": 32},
    "gpt2": {"n_embd": 48, "n_head": 6, "n_inner": 64, "n_positions": 32},
    "llama": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 64}
    | {"max_position_embeddings": 32, "attention_dropout": 0.1},
}


def begin(model, parts, heads=None):
    """Slim a model to so many heads a layer; its lineage."""
    lineage = start_of(model, parts, len(models.stack_of(model, parts)), heads, None).lineage()
    models.shrink(model, parts, lineage.shapes())
    models.sync_config(model, parts)
    return lineage


def apply_event(event, model, parts, lineage, seed=1, adam=None):
    """Grow a model, its lineage and, if given, its optimizer."""
    origins = event.grow(model, parts, lineage, seed)
    event.record(lineage, step=lineage.events[-1].step if lineage.events else 0)
    if adam is not None:
        optimizer.grow(adam, origins, event.optimizer_state)
    model.eval()
    return origins


def logits(model):
    """What a model of any precision says of the usual inputs."""
    dtype = next(model.parameters()).dtype
    given = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs(model).items()}
    with torch.no_grad():
        return model(**given).logits


def few_heads(parts):
    """The least number of heads that is a whole K/V group."""
    return parts.sizes(tiny(parts.model_type).config)["member"]


def step_of(model, adam):
    """One update."""
    message = model(**inputs(model)).logits.flatten(0, -2)
    cross_entropy(message, torch.arange(len(message)) % message.shape[-1]).backward()
    adam.step()
    adam.zero_grad()
