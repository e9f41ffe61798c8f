"""Models made from a template are those that transformers loads, bit for bit."""

import pandas as pd
import pytest
import torch

from pli_analysis.inference import checkpoint_model, eval_tokens, model_template
from pli_analysis.inference.block_losses import block_losses
from pli_analysis.metrics.grad_norms.recomputed import recomputed
from pli_analysis.metrics.similarity.similarity import similarity
from pli_analysis.runs.opening import open_run
from pli_train.core import safe_model
from pli_train.training import launch

UNEQUAL = [{"at": 1, "index": 1}, {"at": 2, "operator": "heads", "to": 6, "layers": ["b"]}]


@pytest.fixture(scope="module", params=["gpt2", "bert", "llama"])
def run(request, runs, config_of, tmp_path_factory):
    """A run with growth events between its checkpoints; the layers of the Llama have unequal numbers of heads."""
    if request.param != "llama":
        return open_run(runs[request.param])
    folder = tmp_path_factory.mktemp("template") / "llama"
    launch.begin(config_of("llama", {"train.steps": 4, "growth.schedule": UNEQUAL}), folder).run()
    return open_run(folder)


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """No templates at the beginning and the end; a list with an item for each model that transformers loads."""
    models, fill = [], safe_model.fill

    def counted(*arguments, **options):
        models.append(1)
        return fill(*arguments, **options)

    monkeypatch.setattr(safe_model, "fill", counted)
    model_template._kept.clear()
    yield models
    model_template._kept.clear()


def everything_of(model):
    """All parameters and buffers, tied ones under each name."""
    return dict(model_template._named(model))


@pytest.mark.parametrize("head", [True, False])
def test_a_copy_has_the_tensors_settings_and_losses_of_a_loaded_model(run, head, loaded):
    checkpoints = run.checkpoints[-2:]
    checkpoint_model.model_of(checkpoints[0], head)
    copied = checkpoint_model.model_of(checkpoints[1], head)
    assert len(loaded) == 1
    model_template._kept.clear()
    fresh = checkpoint_model.model_of(checkpoints[1], head)
    assert len(loaded) == 2
    expected, found = everything_of(fresh), everything_of(copied)
    unused = {name for name in expected if name.startswith("pooler.")}  # after the layers, and in no checkpoint
    assert list(found) == list(expected)
    for name in expected.keys() - unused:
        assert torch.equal(found[name], expected[name]) and found[name].requires_grad == expected[name].requires_grad
    shared = [
        {name for name, entry in each.items() if entry is one} for each in (expected, found) for one in each.values()
    ]
    assert shared[: len(expected)] == shared[len(expected) :]
    assert copied.config.to_dict() == fresh.config.to_dict() and not copied.training
    if head:
        sample = eval_tokens.sample_of(run, None, 2)
        assert (block_losses(copied, sample) == block_losses(fresh, sample)).all()


def test_what_is_done_to_one_model_reaches_no_other(run):
    sample = eval_tokens.sample_of(run, None, 2)
    *_, before, last = run.checkpoints
    expected = block_losses(checkpoint_model.model_of(last), sample)
    for checkpoint in (before, last):
        model = checkpoint_model.model_of(checkpoint).requires_grad_(False)
        model.config.use_cache = False
        stack = checkpoint_model.stack_of(model, checkpoint.anatomy)
        stack[0].register_forward_hook(lambda *_: 1 / 0)
        for entry in everything_of(model).values():
            entry.zero_()
    again = checkpoint_model.model_of(last)
    assert all(parameter.requires_grad for parameter in again.parameters()) and again.config.use_cache is not False
    assert (block_losses(again, sample) == expected).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "measure", [lambda run: similarity(run, None, blocks=4, over_time=True), lambda run: recomputed(run, blocks=2)]
)
def test_tables_are_those_without_templates(run, measure, monkeypatch):
    found = measure(run)
    monkeypatch.setattr(model_template, "_entries", lambda *_: None)
    model_template._kept.clear()
    pd.testing.assert_frame_equal(found, measure(run), check_exact=True)


def test_there_is_no_template_if_a_tensor_was_converted(run):
    model = checkpoint_model.model_of(run.checkpoints[-1])
    tensors = dict(model.named_parameters())
    assert model_template._entries(model, tensors, set()) is not None
    name = next(iter(tensors))
    assert model_template._entries(model, tensors | {name: tensors[name] + 1}, set()) is None
    assert model_template._entries(model, tensors | {"other": tensors[name]}, set()) is None
    assert model_template._entries(model, tensors | {"other": tensors[name]}, {"other"}) is not None
