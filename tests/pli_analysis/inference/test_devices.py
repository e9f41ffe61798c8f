"""Models on another device than the CPU: every measurement gives the same table there."""

import inspect
import shutil

import pandas as pd
import pytest
import torch

import pli_analysis
from pli_analysis.cli import app
from pli_analysis.inference import devices, eval_tokens
from pli_analysis.metrics.ablation.ablation import ablation
from pli_analysis.metrics.ablation.pruning import pruning
from pli_analysis.metrics.attention import attention
from pli_analysis.metrics.attribution.attribution import attribution
from pli_analysis.metrics.attribution.conductance import conductance
from pli_analysis.metrics.disturbance import at_event
from pli_analysis.metrics.grad_norms.recomputed import squares_at
from pli_analysis.metrics.influence import influence
from pli_analysis.metrics.lens import lens
from pli_analysis.metrics.maps.embedding import embed
from pli_analysis.metrics.neurons.neurons import neurons
from pli_analysis.metrics.probing.probe import probe
from pli_analysis.metrics.similarity.similarity import similarity
from pli_analysis.runs.opening import open_run
from pli_train.commands.sample import sample
from pli_train.config import loading as configs
from pli_train.core.errors import BadInput
from pli_train.training import launch
from tests.pretend_device import DEVICE, pretended

SLOW = pytest.mark.slow
FAMILIES = ["gpt2", pytest.param("bert", marks=SLOW), pytest.param("llama", marks=SLOW)]
UNEQUAL = [{"at": 1, "index": 1}, {"at": 2, "operator": "heads", "to": 6, "layers": ["b"]}]


def event(run):
    """The last growth event of a run, as a table."""
    before = next(each for each in reversed(run.checkpoints) if not each.name.after)
    found = at_event.compare(before, run.states[before.step], eval_tokens.sample_of(run, None), 4)
    return pd.DataFrame([vars(found) | {id: str(vars(layer)) for id, layer in found.layers.items()}]).drop(
        columns="layers"
    )


def gradients(run):
    """Squared gradient norms at the last checkpoint, as a table."""
    return pd.DataFrame([squares_at(run.checkpoints[-1], *eval_tokens.batch_of(run, None, 2))])


QUICK = {"lens", "attention", "attribution", "gradients", "event"}
"""Measurements that the default tests try on GPT-2; all others are slow."""
MEASUREMENTS = {
    "ablation": lambda run: ablation(run, blocks=2),
    "pruning": lambda run: pruning(run, blocks=2),
    "lens": lambda run: lens(run, blocks=2),
    "attention": lambda run: attention(run, blocks=2),
    "attribution": lambda run: attribution(run, blocks=2),
    "conductance": lambda run: conductance(run, blocks=1),
    "influence": lambda run: influence(run, blocks=2, checkpoints=2),
    "probe": lambda run: probe(run, blocks=4),
    "neurons": lambda run: neurons(run, blocks=2),
    "similarity": lambda run: similarity(run, None, blocks=4),
    "map": lambda run: embed(run, space="function", blocks=2).table,
    "gradients": gradients,
    "event": event,
}


@pytest.fixture(scope="module", params=FAMILIES)
def run(request, runs, config_of, tmp_path_factory):
    """A grown run with a sample of its training blocks; the layers of the Llama have unequal numbers of heads."""
    folder = tmp_path_factory.mktemp("devices") / request.param
    if request.param == "llama":
        launch.begin(config_of("llama", {"train.steps": 4, "growth.schedule": UNEQUAL}), folder).run()
    else:
        shutil.copytree(runs[request.param], folder)
    sample(configs.of_run(folder), folder, 2)
    return open_run(folder)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else SLOW) for name in MEASUREMENTS])
def test_every_measurement_is_the_same_on_another_device(run, name, tmp_path, monkeypatch):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "cpu"))
    expected = MEASUREMENTS[name](run)
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "device"))
    with pretended(monkeypatch) as moved:
        found = MEASUREMENTS[name](run)
    assert moved, "no model was on the device"
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_the_pretended_device_refuses_what_a_device_refuses(monkeypatch):
    with pretended(monkeypatch):
        there = torch.ones(2).to(DEVICE)
        assert (there + 1).cpu().tolist() == [2.0, 2.0]
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(2)
        with pytest.raises(TypeError, match="float64"):
            there.double()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


def test_auto_is_a_gpu_if_there_is_one(monkeypatch):
    monkeypatch.setattr(devices, "_chosen", "auto")
    for available, expected in (((), "cpu"), (("mps",), "mps"), (("cuda", "mps"), "cuda")):
        monkeypatch.setattr(devices, "_is_available", lambda name, available=available: name in available)
        assert devices.device() == torch.device(expected)
        for name in available:
            pli_analysis.use_device(name)
            assert devices.device() == torch.device(name)
        pli_analysis.use_device("auto")


def test_the_cpu_can_be_chosen_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(devices, "_chosen", "auto")
    monkeypatch.setattr(devices, "_is_available", lambda name: True)
    pli_analysis.use_device("cpu")
    assert devices.device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "problem"), [("cuda", "PyTorch finds none on this machine"), ("cude", "is none of auto, cpu, cuda, mps")]
)
def test_a_device_that_cannot_be_used_is_one_line(name, problem, monkeypatch):
    monkeypatch.setattr(devices, "_is_available", lambda name: False)
    with pytest.raises(BadInput, match=problem):
        pli_analysis.use_device(name)


def test_every_command_that_evaluates_models_takes_a_device():
    named = [set(inspect.signature(command.callback).parameters) for command in app.registered_commands]
    evaluating = [names for names in named if names & {"blocks", "explain"}]
    assert len(evaluating) > 10 and all("device" in names for names in evaluating)
