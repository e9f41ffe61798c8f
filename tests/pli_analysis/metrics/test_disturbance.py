"""What growth disturbs: identities that must hold, and slow independent references."""

import copy
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import transformers
from safetensors.numpy import save_file

from pli_analysis.inference import eval_tokens
from pli_analysis.metrics.disturbance.disturbance import BLOCKS, EVENTS, LAYERS, disturbance
from pli_analysis.metrics.disturbance.event_context import EventContext, twins_beside
from pli_analysis.metrics.disturbance.layer_effects import Layers
from pli_analysis.metrics.disturbance.layer_speeds import LayerSpeeds
from pli_analysis.metrics.disturbance.loss_effect import Losses
from pli_analysis.report import disturbance as message
from pli_analysis.runs.opening import open_run
from pli_train.commands import fork
from pli_train.core.run_format import run_folder
from pli_train.growth.config import SwappingConfig
from pli_train.growth.swap_regularizer import SwapRegularizer
from pli_train.training import launch
from tests.commands import call, refused

MODELS = {"bert": "AutoModelForMaskedLM", "gpt2": "AutoModelForCausalLM", "llama": "AutoModelForCausalLM"}
TWINNED = ("bert", "gpt2")
STEPS = {
    "train.steps": 100,
    "train.accumulation": 1,
    "checkpoint.every": 5,
    "optim.warmup_ratio": 0.1,
    "optim.lr": 3e-3,
}
GROWTH = [
    {"at": 20, "operator": "insert", "index": 1, "initializer": "random"},
    {"at": 40, "operator": "insert", "index": 1, "initializer": "identity"},
]


@pytest.fixture(scope="module")
def grown(config_of, tmp_path_factory):
    """A run of each family, from 2 to 4 layers, beside two a fork at step 20 that did not grow: family → folder."""
    folders = {}
    for family in MODELS:
        folders[family] = tmp_path_factory.mktemp("grown") / family
        changes = STEPS | {"growth.schedule": GROWTH, "model.initial_layers": 2, "train.grad_norms_every": 2}
        launch.begin(config_of(family, changes), folders[family]).run()
        if family in TWINNED:
            fork.fork(folders[family], 20, folders[family].with_name("twin"), growth=False).run()
    return folders


@pytest.fixture(scope="module")
def still(config_of, tmp_path_factory):
    """A run that never grows, and a fork of it with nothing changed."""
    run = tmp_path_factory.mktemp("still") / "run"
    launch.begin(config_of("gpt2", STEPS | {"growth.schedule": "", "train.grad_norms_every": 2}), run).run()
    fork.fork(run, 30, run.with_name("twin")).run()
    return run


@pytest.fixture(scope="module")
def found(grown):
    """What disturbed each run, without its twin: family → Disturbance."""
    return {family: disturbance(open_run(path), blocks=8) for family, path in grown.items()}


@pytest.mark.parametrize("family", MODELS)
def test_nothing_below_an_insertion_changes_on_the_spot(found, family):
    first = found[family].layers.query("step == 20")
    below, above = first[first["layers_from_event"] < 0], first[first["layers_from_event"] > 0]
    assert len(below) == len(above) == 1
    assert (below["output_change"] == 0).all() and (above["output_change"] > 1e-3).all()
    assert (below["cka_distance"].abs() < 1e-9).all() and (above["cka_distance"] > 0).all()
    event = found[family].events.iloc[0]
    assert event["kl"] > 0 and event["loss_change_low"] < event["loss_change"] < event["loss_change_high"]


@pytest.mark.parametrize("family", MODELS)
def test_an_identity_at_birth_changes_nothing_on_the_spot(found, family):
    second, event = found[family].layers.query("step == 40"), found[family].events.iloc[1]
    bound = 1e-5 if family == "bert" else 0.0  # post-LN: exact up to float32
    # A post-LN newborn takes over the last norm of the layer right below, whose own output changes by that.
    kept = second[second["layers_from_event"] != -1] if family == "bert" else second
    assert len(second) == 3 and kept["output_change"].max() <= bound
    assert abs(event["loss_change"]) <= bound and event["kl"] <= bound and event["flips"] <= bound
    # What a layer learns may change all the same: a new layer above it sends other gradients down, or none other.
    assert second["grad_cosine_distance"].notna().all()


@pytest.mark.parametrize("family", MODELS)
def test_the_instant_is_what_plain_transformers_says(grown, found, family, monkeypatch, tmp_path):
    """Both models loaded by the library, all at once, in float64."""
    run = open_run(grown[family])
    tokens, labels, design, _ = eval_tokens.sample_of(run, None, 8)
    sides = []
    for name in ("checkpoint-20-before", "checkpoint-20"):
        kind = getattr(transformers, MODELS[family])
        model = kind.from_pretrained(run.path / name, dtype=torch.float64, attn_implementation="eager").eval()
        output = model(input_ids=tokens, output_hidden_states=True)
        losses = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), reduction="none")
        losses[labels.flatten() != -100].mean().backward()
        sides.append((model, output, losses.reshape(labels.shape)))
    (old, was, before), (new, now, after) = sides
    kept = labels != -100
    sums, counts = (after - before).sum(1).detach().numpy(), kept.sum(1).numpy()
    event, sizes = found[family].events.iloc[0], design.sizes
    of = [np.flatnonzero(design.stratum == number) for number in range(4)]  # pairs, each from a stratum
    count = sum(size * counts[pair].mean() for size, pair in zip(sizes, of, strict=True))
    delta = sum(size * sums[pair].mean() for size, pair in zip(sizes, of, strict=True)) / count
    assert event["loss_change"] == pytest.approx(delta, abs=1e-6)
    spread = [np.var(sums[pair] - delta * counts[pair], ddof=1) / 2 for pair in of]
    parts = [size**2 * (1 - 2 / size) * of_pair for size, of_pair in zip(sizes, spread, strict=True)]
    freedom = sum(parts) ** 2 / sum(part**2 for part in parts)  # Satterthwaite's
    reach = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts)) / count
    assert event["loss_change_high"] - event["loss_change"] == pytest.approx(reach, rel=1e-3)
    p, q = was.logits[kept].log_softmax(-1), now.logits[kept].log_softmax(-1)
    assert event["kl"] == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)
    assert event["flips"] == pytest.approx(float((p.argmax(-1) != q.argmax(-1)).double().mean()))
    stack = {"bert": "bert.encoder.layer", "gpt2": "transformer.h", "llama": "model.layers"}[family]
    for row in found[family].layers.query("step == 20").itertuples():
        position = open_run(run.path).checkpoints[0].lineage.stack.index(row.layer)
        g, h = (
            torch.cat([p.grad.flatten() for p in model.get_submodule(f"{stack}.{index}").parameters()])
            for model, index in ((old, position), (new, row.index))
        )
        assert row.log_grad_norm_ratio == pytest.approx(float((h.norm() / g.norm()).log()), abs=1e-4)
        assert row.grad_cosine_distance == pytest.approx(1 - float(torch.cosine_similarity(g, h, 0)), abs=1e-4)
        if family == "bert":  # the other two put their last norm into the last hidden state
            a, b = was.hidden_states[position + 1], now.hidden_states[row.index + 1]
            assert row.output_change == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-4)


def test_heads_and_units_that_were_born_are_no_change_of_what_was_there(config_of, tmp_path):
    growth = [
        {"at": 4, "operator": "heads", "layers": ["a"], "to": 2, "initializer": "random"},
        {"at": 8, "operator": "ffn", "to": 160, "initializer": "random"},
    ]
    changes = {"growth.schedule": growth, "model.initial_heads": 1, "model.initial_layers": 2}
    config = config_of("gpt2", STEPS | changes | {"train.steps": 12, "checkpoint.every": 2})
    launch.begin(config, tmp_path / "run").run()
    layers = disturbance(open_run(tmp_path / "run"), blocks=4).layers
    assert layers["output_change"].max() < 1e-5
    assert layers["log_grad_norm_ratio"].abs().max() < 1e-3 and layers["grad_cosine_distance"].max() < 1e-5


# --- movement ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MODELS)
def test_speed_is_way_by_size_and_rates(grown, family):
    run = open_run(grown[family])
    speeds = LayerSpeeds(run).speeds(20, 30)
    kind = getattr(transformers, MODELS[family])
    first, last = (kind.from_pretrained(run.path / f"checkpoint-{step}").state_dict() for step in (20, 30))
    rates = run.scalars.of("train/lr").values[20:30].sum()
    table = run.checkpoints[-1].anatomy
    for index, id in enumerate(run.lineage.stack_at(20)):
        names = [name for name in last if (position := table.locate(name)) and position[1] == index]
        way = sum(float((last[name] - first[name]).double().square().sum()) for name in names) ** 0.5
        size = sum(float(last[name].double().square().sum()) for name in names) ** 0.5
        assert speeds[id] == pytest.approx(way / size / rates, rel=1e-3)


def test_a_second_call_reads_the_cache(grown, tmp_path, monkeypatch):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "cache"))
    run = grown["gpt2"]
    first = disturbance(open_run(run), blocks=4)
    monkeypatch.setattr("pli_analysis.inference.checkpoint_model.model_of", None)
    monkeypatch.setattr("pli_analysis.runs.checkpoint.Checkpoint.layer", None)
    second = disturbance(open_run(run), blocks=4)
    pd.testing.assert_frame_equal(first.layers, second.layers)
    pd.testing.assert_frame_equal(first.events, second.events)


# --- the whole --------------------------------------------------------------------------------------------------------


def test_the_tables_have_a_row_for_each_event_and_layer_that_was_there(found):
    for of in found.values():
        assert list(of.events) == EVENTS and list(of.layers) == LAYERS
        assert of.events["step"].tolist() == [20, 40] and of.events["event"].tolist() == ["+c", "+d"]
        assert of.layers.groupby("step")["layer"].apply(list).to_dict() == {20: ["a", "b"], 40: ["a", "c", "b"]}
        assert of.layers["layers_from_event"].tolist() == [-1, 1, -1, 1, 2]
        assert (of.layers["p"].isna() | (of.layers["p"] >= of.layers["min_p"])).all()


def test_a_fork_with_nothing_changed_shows_no_excess_at_all(still):
    run = open_run(still)
    (twin,) = twins_beside(run)
    of = disturbance(run, [twin], window=10, at=[30], blocks=4)
    assert of.events["reference"].tolist() == ["twin"]
    assert (of.curves[30].excess == 0).all() and of.events["spike"].tolist() == [0.0]
    assert of.layers["reference"].tolist() == ["twin"] and (of.layers["excess_log_update_rate"] == 0).all()


def test_a_twin_that_stopped_growing_is_found_and_held_against(grown):
    run = open_run(grown["gpt2"])
    twins = twins_beside(run)
    assert [twin.name for twin in twins] == ["twin"]
    assert twins_beside(twins[0]) == []
    of = disturbance(run, twins, blocks=4)
    assert of.events["reference"].tolist() == ["twin", "trend"]
    rows = of.layers.query("step == 20").set_index("layer")
    assert set(rows["reference"]) == {"twin"}
    end = 20 + rows["placebo_window"].iloc[0]
    mine, theirs = LayerSpeeds(run).speeds(20, end), LayerSpeeds(twins[0]).speeds(20, end)
    for id, row in rows.iterrows():
        assert row["excess_log_update_rate"] == pytest.approx(math.log(mine[id] / theirs[id]))
    losses, others = run.scalars.of("train/loss"), twins[0].scalars.of("train/loss")
    expected = losses.values[20:30] - others.values[:10]
    assert others.steps[0] == 21 and np.allclose(of.curves[20].excess, expected)


def test_a_step_without_an_event_is_examined_like_one(still):
    of = disturbance(open_run(still), window=5, at=[30, 45], blocks=4)
    assert of.events["event"].tolist() == ["no event"] * 2
    assert of.events["kl"].isna().all() and of.layers["output_change"].isna().all()
    assert of.layers["excess_log_update_rate"].notna().all() and of.layers["score"].notna().all()
    assert (of.layers["min_p"] == 1 / (1 + of.layers["placebos"])).all()


def test_placebo_steps_are_of_the_same_phase_as_the_step(still):
    """Warm-up ends at step 10 of 100, and the rate falls from there."""
    run = open_run(still)
    layers = Layers(EventContext(run, (), 5), 40, None, BLOCKS, lambda: None)
    assert sorted(layers.sources(30, 5)) == [*range(15, 96, 5)]
    assert layers.sources(10, 5) == {}  # half of its window is warm-up
    losses = Losses(EventContext(run, (), 8), 40)
    assert min(losses.sources(40, 8)) == 20 and max(losses.sources(40, 8)) == 80
    assert min(losses.sources(20, 8)) == 18  # a window that begins with the first update after warm-up
    of = disturbance(run, window=8, at=[10], blocks=4)
    (event,) = of.events.to_dict("records")
    assert event["lr_phase"] is None and math.isnan(event["spike_p"]) and event["placebos"] == 0
    assert "no p: the learning-rate phase changes within 8 steps" in message.readings(of)[0]


def test_a_layer_is_held_against_its_own_placebo_steps_alone(grown):
    """Few steps of several layers are few steps all the same."""
    of = disturbance(open_run(grown["gpt2"]), window=5, at=[30], blocks=4)
    assert len(of.layers) > 1 and of.layers["placebos"].max() < 20
    assert (of.layers["p"] >= 1 / (1 + of.layers["placebos"])).all()
    (words,) = message.readings(of)
    assert "the smallest possible p is" in words and "checkpoint.every" in words


def test_without_placebo_checkpoints_the_words_say_which_key_makes_some(grown, tmp_path):
    run = Path(shutil.copytree(grown["gpt2"], tmp_path / "run"))
    for path in run.glob("checkpoint-*"):
        if path.name.removesuffix("-before") not in (
            "checkpoint-0",
            "checkpoint-20",
            "checkpoint-40",
            "checkpoint-100",
        ):
            shutil.rmtree(path)
    for words in message.readings(disturbance(open_run(run), blocks=4, window=8)):
        assert "Its layers have no score" in words and "A smaller checkpoint.every" in words


def test_steps_that_trained_with_layers_swapped_are_left_out(config_of, tmp_path):
    changes = STEPS | {"train.log_every": 20, "train.steps": 60, "checkpoint.every": 30, "model.initial_layers": 2}
    changes |= {"growth": {"schedule": "", "swapping": {"probability": 0.3}}}
    launch.begin(config_of("gpt2", changes), tmp_path / "run").run()
    run = open_run(tmp_path / "run")
    rule = SwapRegularizer(SwappingConfig(probability=0.3), seed=run.record["seed"], total_steps=60)
    expected = [step + 1 for step in range(60) if not rule.is_due(step, depth=len(run.lineage.stack))]
    ((steps, _),) = Losses(EventContext(run), 40).logged.values()
    assert steps.tolist() == expected and 30 < len(expected) < 55


def test_each_event_is_reported_in_plain_words(found):
    first, second = message.readings(found["gpt2"])
    assert first.startswith("+c at step 20 ") and "of predictions" in first
    assert second.startswith("+d at step 40 changed no prediction.")
    for of in found.values():
        for figure in message.section(of).figures:
            assert figure.caption.endswith(".")


def test_words_follow_the_numbers(found):
    of = copy.deepcopy(found["gpt2"])
    of.events.loc[0, ["spike", "noise", "is_recovered", "recovery_steps", "spike_p", "placebo_window"]] = [
        0.21,
        0.01,
        True,
        7,
        0.03,
        9,
    ]
    of.layers.loc[1, ["score", "p", "excess_log_update_rate", "excess_log_update_rate_z"]] = [
        9.0,
        0.02,
        math.log(1.8),
        99.0,
    ]
    first = message.readings(of)[0]
    assert "The loss rose 0.21 above its trend and recovered after 7 steps (p 0.030 over 9 steps" in first
    assert "Most disturbed is layer b, one above the event: it moved 1.80 times as fast as expected" in first
    of.layers.loc[1, ["log_grad_norm_ratio", "log_grad_norm_ratio_z"]] = [math.log(2), 100.0]
    assert "b, one above the event: its gradient became 2.00 times as large at the event" in message.readings(of)[0]
    of.events.loc[0, "is_recovered"] = False
    assert "and did not recover within 7 steps" in message.readings(of)[0]
    of.events.loc[0, "noise"] = 1.0
    assert "stayed within the noise of its trend" in message.readings(of)[0]
    of.events.loc[0, ["reference", "late_excess"]] = ["twin", 1e-8]
    assert "stayed within the noise of its difference from its twin twin" in message.readings(of)[0]
    assert "in the last quarter of the window the loss was equal to its twin's" in message.readings(of)[0]
    of.events.loc[0, ["loss_change", "kl", "flips"]] = [1e-7, 1e-9, 0.0]
    assert "changed no prediction." in message.readings(of)[0]
    of.events.loc[0, "flips"] = 0.0002
    assert "changed 0.02% of predictions, and the loss by rounding error only" in message.readings(of)[0]


def test_the_command_prints_tables_sentences_and_a_page(grown, still, tmp_path):
    page_file = tmp_path / "d.html"
    done = call("pli-analyze", "disturbance", grown["bert"], "--blocks", "4", "--html", page_file, "-f", "csv")
    assert done.returncode == 0 and done.stdout.startswith("step,event,index,loss_change")
    assert "+c at step 20" in done.stderr and "twin" in done.stdout
    written = page_file.read_text()
    assert "Excess loss after each growth event" in written or "Disturbance score of each layer" in written
    done = call("pli-analyze", "disturbance", grown["bert"], "--blocks", "4", "--layers", "-f", "csv")
    assert len(done.stdout.splitlines()) == 6
    refused(call("pli-analyze", "disturbance", grown["bert"], "--at", "40"), "--at 40: is the step of a growth event")
    refused(call("pli-analyze", "disturbance", grown["bert"], "--at", "41"), "has no checkpoint of step 41")
    done = call("pli-analyze", "disturbance", still, "--blocks", "4")
    assert done.returncode == 0


def test_a_run_that_did_not_grow_says_so(still):
    assert "did not grow" in message.disturbance(open_run(still)).words[0]


def test_without_held_out_blocks_what_followed_is_reported_all_the_same(grown, tmp_path):
    run = Path(shutil.copytree(grown["gpt2"], tmp_path / "run"))
    (run / run_folder.PROBE).unlink()
    of = disturbance(open_run(run))
    assert of.notes == [
        "run keeps no held-out blocks: to measure the instant effects of events, give a text with --text FILE"
    ]
    assert of.events["loss_change"].isna().all() and of.events["loss_after"].notna().all()
    assert of.layers["excess_log_update_rate"].notna().all() and of.layers["output_change"].isna().all()
    assert message.readings(of)[0].startswith("+c at step 20 changed the eval loss by ")


def test_too_few_placebo_checkpoints_for_a_p_say_nothing_of_layers(grown):
    """Three give a score, but none of the three has two others to be scored beside."""
    of = disturbance(open_run(grown["gpt2"]), blocks=4, most=3)
    assert of.layers["score"].notna().any() and of.layers["p"].isna().all()
    for line in message.readings(of):
        assert "can have a p below 0.05: there are too few placebo checkpoints for a p; a larger --placebos" in line


def test_without_placebo_steps_nothing_is_reported_beside_them(grown):
    for line in message.readings(disturbance(open_run(grown["gpt2"]), blocks=4, most=0)):
        assert not re.search("placebo|no p:|score|checkpoint.every", line)


def test_counts_of_one_are_singular(grown):
    of = disturbance(open_run(grown["gpt2"]), window=10, blocks=4, most=4)
    of.events["recovery_steps"], of.layers["placebo_window"] = 1, 1
    words = [message.build(open_run(grown["gpt2"]), of).lead, *message.readings(of), message.section(of).headline]
    assert not [line for line in words if re.search(r"\b1 (steps|spikes|events|pairs|blocks)\b", line)]


def test_a_run_of_an_older_version_has_a_report_that_says_what_its_blocks_lack(small_run, tmp_path):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    save_file({"tokens": np.zeros((2, 32), np.int32)}, run / run_folder.PROBE)
    note = "run keeps the held-out blocks of an older version, without labels: to measure the instant effects of events"
    assert disturbance(open_run(run)).notes[0] == f"{note}, give a text with --text FILE"
    shown = call("pli-analyze", "report", run)
    assert shown.returncode == 0 and note[4:] in " ".join(shown.stdout.split())


def test_an_event_whose_checkpoint_is_gone_is_reported_without_its_layers(grown, tmp_path):
    run = Path(shutil.copytree(grown["gpt2"], tmp_path / "run"))
    shutil.rmtree(run / "checkpoint-20")
    shutil.rmtree(run / "checkpoint-20-before")
    of = disturbance(open_run(run), blocks=4)
    assert set(of.layers["step"]) == {40} and of.events["step"].tolist() == [20, 40]
    assert of.notes == ["run has no checkpoints right before and after step 20: its layers are not measured"]


def test_a_fork_that_learnt_at_other_rates_is_no_twin(grown, tmp_path):
    run = open_run(grown["gpt2"])
    other = tmp_path / "sooner"
    fork.fork(run.path, 20, other, growth=False, changes=["optim.lr=1e-3"]).run()
    of = disturbance(run, [open_run(other)], blocks=4)
    assert of.events["reference"].tolist() == ["trend", "trend"]
    assert of.notes == ["sooner had other learning rates than gpt2 after step 20: it is not used as a twin"]
