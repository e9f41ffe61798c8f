"""Conductance against Captum and scripts of its definition; completeness; layers that add nothing."""

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import pli_analysis
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.metrics.attribution import conductance as metric
from pli_analysis.metrics.attribution import faithfulness
from pli_analysis.metrics.attribution.path_integral import Block, complete_conductance, conductance, difference
from pli_analysis.report import conductance as report
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.commands import call, refused
from tests.families import tiny

FAMILIES = ["bert", "gpt2", "llama", "qwen3"]
STACKS = {"bert": "bert.encoder.layer", "gpt2": "transformer.h"}
GROWTH = [{"operator": "heads", "at": 1, "to": 4, "layers": ["a"]}, {"at": 2, "index": 1}]


class Update(torch.nn.Module):
    """What a layer adds to its input."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden, *inputs, **named):
        output = self.layer(hidden, *inputs, **named)
        return (output[0] if isinstance(output, tuple) else output) - hidden


class Layer(torch.nn.Module):
    """A layer whose update is the output of a module, so that it can be attributed to."""

    def __init__(self, layer, *_):
        super().__init__()
        self.update = Update(layer)

    def forward(self, hidden=None, *inputs, hidden_states=None, **named):
        hidden = hidden_states if hidden is None else hidden
        return hidden + self.update(hidden, *inputs, **named)


def case_of(family):
    """A tiny random model, its stack, and a block, some of whose tokens are not predicted."""
    model = tiny(family, attn_implementation="eager").requires_grad_(False)
    model.config.use_cache = False
    chance = torch.Generator().manual_seed(1)
    tokens, labels = (torch.randint(3, 60, (12,), generator=chance) for _ in range(2))
    labels[[2, 7]] = -100
    embedded = model.get_input_embeddings()(tokens)
    stack = model.get_submodule(STACKS.get(family, "model.layers"))
    return model, stack, Block(tokens, labels, embedded.mean(0).expand_as(embedded), embedded)


def log_probability(model, block):
    """F of embeddings, (points,), by the model's own argument for embeddings."""

    def of(embedded):
        known = block.labels >= 0
        logs = model(inputs_embeds=embedded).logits.double().log_softmax(-1)[:, known]
        return logs.gather(2, block.labels[known].expand(len(embedded), -1)[..., None]).sum((1, 2))

    return of


def by_captum(attr, forward, module, block, steps=300):
    """Captum's conductance of a module's output at each token."""
    found = attr.LayerConductance(forward, module).attribute(block.embedded[None], block.baseline[None], n_steps=steps)
    return (found[0] if isinstance(found, tuple) else found)[0].detach().sum(-1).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_conductance_is_complete_and_that_of_captum(family):
    """Captum attributes to the output of each layer, and to a module that computes the update of the second one."""
    attr = pytest.importorskip("captum.attr")
    model, stack, block = case_of(family)
    forward = log_probability(model, block)
    ends = forward(torch.stack([block.baseline, block.embedded]))
    total = float(ends[1] - ends[0])
    found = complete_conductance(model, stack, block, 0.002 * abs(total), 16, 512)
    assert found.difference == pytest.approx(total, rel=1e-4)
    assert difference(model, block) == pytest.approx(total, rel=1e-4)
    assert found.outputs.sum(1).numpy() == pytest.approx(np.full(3, total), rel=0.002)
    gradients = attr.IntegratedGradients(forward).attribute(block.embedded[None], block.baseline[None], n_steps=100)
    close = {"abs": 0.01 * float(found.outputs.abs().max())}
    assert found.outputs[0].numpy() == pytest.approx(gradients[0].sum(-1).numpy(), **close)
    assert torch.equal(found.updates[0], found.outputs[0])
    for index, layer in enumerate(stack):
        assert found.outputs[index + 1].numpy() == pytest.approx(by_captum(attr, forward, layer, block), **close)
    stack[1] = Layer(stack[1])
    update = by_captum(attr, forward, stack[1].update, block)
    assert found.updates[2].numpy() == pytest.approx(update, **close)
    assert np.abs(update - found.outputs[2].numpy()).max() > 5 * close["abs"]


def test_too_few_steps_are_doubled_until_the_integral_is_complete():
    model, stack, block = case_of("gpt2")
    whole = abs(difference(model, block))
    coarse = conductance(model, stack, block, 2)
    assert float(coarse.errors.abs().max()) > 0.01 * whole
    found = complete_conductance(model, stack, block, 0.01 * whole, 2, 256)
    assert found.steps > 2 and float(found.errors.abs().max()) <= 0.01 * whole
    assert complete_conductance(model, stack, block, 0.0, 2, 8).steps == 8


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_layer_that_returns_its_input_contributes_nothing(family):
    """Its output has the conductance of the total, as that of any layer."""
    model, stack, block = case_of(family)
    layer = stack[1]
    layer.register_forward_hook(lambda _, inputs, output: (inputs[0],) if isinstance(output, tuple) else inputs[0])
    found = conductance(model, stack, block, 64)
    assert not found.updates[2].any() and found.updates[1].abs().max() > 0.1
    assert float(found.outputs[2].sum()) == pytest.approx(found.difference, rel=0.02)
    errors, changes = faithfulness.prediction_errors(model, stack, block, found, torch.Generator())
    assert not changes[2].any() and not errors[2].any()
    assert torch.isnan(faithfulness.max_sensitivity(model, stack, block, found, torch.Generator())[2])


def test_infidelity_is_that_of_a_slow_script_and_of_captum():
    """Of the embeddings by Captum; of the first layer by a loop over sets that replaces its output token by token."""
    metrics = pytest.importorskip("captum.metrics")
    model, stack, block = case_of("gpt2")
    forward = log_probability(model, block)
    found = conductance(model, stack, block, 64)
    errors, changes = faithfulness.prediction_errors(model, stack, block, found, torch.Generator().manual_seed(4))
    sets = torch.rand(len(errors[0]), 12, generator=torch.Generator().manual_seed(4)) < 0.5
    remaining = iter(sets)

    def perturb(inputs):
        masks = torch.stack([next(remaining) for _ in inputs]).repeat_interleave(32, dim=1)
        return masks.double(), torch.where(masks, block.baseline.flatten(), inputs)

    flat = metrics.infidelity(
        lambda values: forward(values.unflatten(-1, (12, -1))),
        perturb,
        block.embedded.flatten()[None],
        torch.nn.functional.pad(found.updates[0][:, None], (0, 31)).flatten()[None],  # masks are those of whole tokens
        n_perturb_samples=len(sets),
    )
    assert float(errors[0].square().mean()) == pytest.approx(float(flat), rel=1e-3)
    with torch.no_grad():
        states = [
            model(inputs_embeds=end[None], output_hidden_states=True).hidden_states[:2]
            for end in (block.baseline, block.embedded)
        ]
        (start, end) = ((after - before)[0] for before, after in states)
        for number, chosen in enumerate(sets):
            changed, predicted = states[1][1][0].clone(), 0.0
            for token in range(12):
                if chosen[token]:
                    changed[token] += start[token] - end[token]
                    predicted += float(found.updates[1][token])
            hook = stack[0].register_forward_hook(
                lambda _, inputs, output, changed=changed: (
                    (changed[None], *output[1:]) if isinstance(output, tuple) else changed[None]
                )
            )
            values = forward(block.embedded[None])
            hook.remove()
            change = float(forward(block.embedded[None]) - values)
            assert float(changes[1][number]) == pytest.approx(change, abs=1e-4)
            assert float(errors[1][number]) == pytest.approx(predicted - change, abs=1e-4)


def test_sensitivity_is_that_of_captum_and_of_a_slow_script():
    """Of the embeddings by Captum's integrated gradients; of a layer by the definition, for the same draws."""
    attr, metrics = pytest.importorskip("captum.attr"), pytest.importorskip("captum.metrics")
    model, stack, block = case_of("gpt2")
    forward = log_probability(model, block)
    found = conductance(model, stack, block, 64)
    mine = faithfulness.max_sensitivity(model, stack, block, found, torch.Generator().manual_seed(4))
    chance = torch.Generator().manual_seed(4)
    size = faithfulness.RADIUS * float((block.embedded - block.baseline).pow(2).mean().sqrt())
    draws = [(2 * torch.rand(block.embedded.shape, generator=chance) - 1) * size for _ in range(faithfulness.NEARBY)]
    gradients = attr.IntegratedGradients(forward)
    remaining = iter(draws)

    def explained(inputs):  # a tuple at first, then a tensor
        values = inputs[0] if isinstance(inputs, tuple) else inputs
        return (gradients.attribute(values, block.baseline[None], n_steps=60).sum(-1),)

    theirs = metrics.sensitivity_max(
        explained,
        block.embedded[None],
        perturb_func=lambda inputs: block.embedded[None] + next(remaining),
        n_perturb_samples=len(draws),
        max_examples_per_batch=1,
    )
    assert float(mine[0]) == pytest.approx(float(theirs), rel=0.05)
    changes = [
        conductance(model, stack, block._replace(embedded=block.embedded + draw), 64).updates[2] - found.updates[2]
        for draw in draws
    ]
    expected = max(float((change**2).sum()) ** 0.5 for change in changes) / float((found.updates[2] ** 2).sum()) ** 0.5
    assert float(mine[2]) == pytest.approx(expected, rel=1e-6)


def test_a_layer_that_runs_twice_is_refused():
    model, stack, block = case_of("gpt2")
    stack[1] = stack[0]
    with pytest.raises(BadInput, match="GPT2LMHeadModel: its layers do not run once each in a forward pass"):
        conductance(model, stack, block, 2)


@pytest.fixture(scope="module", params=["llama", pytest.param("bert", marks=pytest.mark.slow)])
def grown(request, runs, config_of, tmp_path_factory):
    """(run, the table): BERT of five layers, and Llama with shared keys and heads that one of two layers gained."""
    folder = runs.get(request.param)
    if folder is None:
        wanted = {"train.steps": 3, "model.initial_heads": 2, "growth.schedule": GROWTH}
        folder = tmp_path_factory.mktemp("conductance") / "llama"
        launch.begin(config_of("llama", wanted), folder).run()
    run = open_run([folder])
    return run, metric.conductance(run, blocks=2)


def test_the_table_of_a_grown_run_adds_up(grown):
    """The total is the difference of transformers' log-probabilities; all conductances are the total."""
    run, table = grown
    auto = AutoModelForMaskedLM if run.checkpoints[-1].anatomy.task == "masked-lm" else AutoModelForCausalLM
    model = auto.from_pretrained(run.checkpoints[-1].path).eval()
    sample = eval_tokens.sample_of(run, None, 2)
    embedded = model.get_input_embeddings()(sample.tokens).detach()
    known = sample.labels >= 0
    with torch.no_grad():
        ends = [
            model(inputs_embeds=values).logits.double().log_softmax(-1)[known].gather(1, sample.labels[known][:, None])
            for values in (embedded.mean((0, 1)).expand_as(embedded), embedded)
        ]
    total = table[table.part_type == "total"].iloc[0]
    assert (total.predicted_tokens, total.blocks, total.share) == (int(known.sum()), 2, 1)
    assert total.contribution == pytest.approx(float((ends[1] - ends[0]).mean()), abs=1e-4)
    parts = table[table.part_type != "total"]
    assert parts.part.tolist() == ["embedding", *run.lineage.stack]
    assert (parts.completeness_error <= metric.TOLERANCE).all() and (parts.completeness_error > 0).all()
    assert parts.conductance.tolist() == pytest.approx([total.contribution] * len(parts), abs=0.01)
    assert parts.contribution.iloc[0] == parts.conductance.iloc[0]
    assert (parts.share * total.contribution).tolist() == pytest.approx(parts.contribution.tolist())
    assert (parts[["infidelity", "relative_infidelity", "sensitivity"]] > 0).all(axis=None)


def test_layers_inserted_as_the_identity_contribute_nothing(config_of, tmp_path):
    schedule = [{"at": 2, "index": 1}]
    config = config_of("gpt2", {"train.steps": 3, "growth.schedule": schedule, "growth.initializer": "identity"})
    launch.begin(config, tmp_path / "run").run()
    table = metric.conductance(open_run([tmp_path / "run"]), blocks=1, at=2).set_index("part")
    assert table.contribution["b"] == 0 and table.contribution["a"] != 0
    assert table.infidelity["b"] == 0 and np.isnan(table.relative_infidelity["b"]) and np.isnan(table.sensitivity["b"])


def test_an_integral_that_is_not_complete_is_said(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path))
    monkeypatch.setattr(metric, "FEWEST", 1)
    monkeypatch.setattr(metric, "MOST", 1)
    table = metric.conductance(open_run([runs["gpt2"]]), blocks=1)
    assert "The integrals are not complete: their error is up to" in report.verdict(table)
    assert report.section(table).figures[1].caption.endswith(".")


def test_the_command_writes_a_table_and_a_page_and_keeps_results(runs, tmp_path, monkeypatch):
    words = ["conductance", str(runs["gpt2"]), "--blocks", "1", "-o", "table.csv", "--html", "page.html"]
    done = call("pli-analyze", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The text changes the log-probability of the right token by" in done.stderr
    assert "not complete" not in done.stderr
    assert (tmp_path / "table.csv").read_text().startswith("run,checkpoint,step,layer,index,age,is_inserted,part_type")
    assert "Infidelity and sensitivity" in (tmp_path / "page.html").read_text()
    monkeypatch.setattr(checkpoint_model, "model_of", lambda _: pytest.fail("was measured again"))
    assert len(pli_analysis.conductance(open_run([runs["gpt2"]]), blocks=1)) == 7


def test_models_of_images_and_runs_without_blocks_are_one_clear_line(runs, tmp_path):
    tiny("vit").save_pretrained(tmp_path / "vit")
    lines = refused(call("pli-analyze", "conductance", tmp_path / "vit"), "a vit does not read text")
    assert len(lines) == 1
    run = shutil.copytree(runs["gpt2"], tmp_path / "run")
    (run / run_folder.PROBE).unlink()
    lines = refused(
        call("pli-analyze", "conductance", run), "keeps no held-out blocks (probe.safetensors); give a text"
    )
    assert len(lines) == 1
