"""GrowthCallback in Hugging Face's own Trainer."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    TrainerCallback,
)
from transformers import set_seed as seed_everything
from transformers.optimization import get_linear_schedule_with_warmup
from transformers.trainer_utils import get_last_checkpoint, sort_checkpoints

from pli_analysis.scalars.reading import read as read_scalars
from pli_train.core import anatomy
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.integrations import GrowthCallback
from tests import families
from tests.thinned import thinned
from tests.trainers import data, trainer_of

ROOT = Path(__file__).parents[3]
STEPS = 10
AUTO = {"bert": AutoModelForMaskedLM, "gpt2": AutoModelForCausalLM, "llama": AutoModelForCausalLM}
EVENTS = [
    {"at": 2, "index": 1, "initializer": "clone-noise", "noise": 0.1, "optimizer_state": "copy"},
    {"at": 4, "operator": "heads", "to": 4, "initializer": "random", "learning_rate": "rewarm", "rewarm_steps": 3},
    {"at": 6, "index": 0, "initializer": "random", "freeze_steps": 2},
    {"at": 6, "operator": "ffn", "to": 56},
]
PARTIAL = [{"at": 2, "operator": "heads", "to": 3, "layers": ["a"]}, {"at": 3, "index": 1}]


class Watch(TrainerCallback):
    """What each update found: the rates that the scheduler had set, and whether every parameter was in one group."""

    def __init__(self):
        self.rates, self.once = [], []

    def on_pre_optimizer_step(self, args, state, control, **its):
        self.rates.append([group["lr"] for group in its["optimizer"].param_groups])
        held = sorted(id(p) for group in its["optimizer"].param_groups for p in group["params"])
        self.once.append(held == sorted(id(p) for p in its["model"].parameters()))


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", params=AUTO)
def grown(request, tmp_path_factory):
    """One family's unbroken run with inserts, heads and FFN units: (family, trainer, callback, watch)."""
    growth, on_progress = GrowthCallback(EVENTS, initial_heads=2), Watch()
    trainer = trainer_of(request.param, tmp_path_factory.mktemp(request.param), growth, on_progress)
    trainer.train()
    return request.param, trainer, growth, on_progress


def test_every_parameter_is_in_exactly_one_group_at_every_update(grown):
    assert grown[3].once == [True] * STEPS


def test_the_scheduler_sets_the_rate_it_would_set_without_growth(grown):
    probe = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    scheduler = get_linear_schedule_with_warmup(probe, 3, STEPS)
    for rates in grown[3].rates:
        assert rates == [probe.param_groups[0]["lr"]] * 2
        probe.step()
        scheduler.step()


def test_checkpoints_record_the_index_of_each_layer(grown):
    _, trainer, growth, _ = grown
    folder = Path(trainer.args.output_dir)
    for step, stack in ((1, "a b"), (2, "a b"), (3, "a c b"), (6, "a c b"), (7, "d a c b"), (STEPS, "d a c b")):
        assert str(Lineage.read(folder / f"checkpoint-{step}" / "lineage.json")) == stack
    assert Lineage.read(folder / "lineage.json").to_json() == growth.lineage.to_json()
    assert growth.lineage.layers["a"].heads["a.h3"].step == 4


@pytest.mark.parametrize("step", [1, 3, 4, 7, STEPS])
def test_a_checkpoint_loads_with_plain_from_pretrained_to_the_same_logits(grown, step, tmp_path):
    family, trainer, *_ = grown
    folder = Path(trainer.args.output_dir) / f"checkpoint-{step}"
    padded_form = AUTO[family].from_pretrained(folder).eval()
    growth = GrowthCallback(EVENTS, initial_heads=2)
    again = trainer_of(family, tmp_path, growth)
    growth.prepared(again, folder)
    again._load_from_checkpoint(str(folder))
    shrink = again.model.eval()
    assert padded_form.config.num_hidden_layers == len(growth.lineage.stack)
    torch.testing.assert_close(families.logits(padded_form), families.logits(shrink), atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", thinned([3, 1, 2, 7, 4, 5, 9, 6]))
def test_a_resumed_run_ends_with_the_same_bits(grown, step, tmp_path):
    family, trainer, unbroken, _ = grown
    growth = GrowthCallback(EVENTS, initial_heads=2)
    again = trainer_of(family, tmp_path, growth, save_steps=1000)
    again.train(resume_from_checkpoint=growth.prepared(again, Path(trainer.args.output_dir) / f"checkpoint-{step}"))
    assert same(weights(again), weights(trainer))
    assert growth.lineage.to_json() == unbroken.lineage.to_json()


@pytest.mark.parametrize("family", AUTO)
def test_layers_of_different_sizes_are_saved_padded_and_resumed(family, tmp_path):
    # One layer has 3 of 4 heads, its clone too, and the other 2.
    events = [{**event, "layers": ["a"]} if event.get("operator") == "heads" else event for event in PARTIAL]
    events[0] |= {"to": 4 if family == "llama" else 3}
    growth = GrowthCallback(events, initial_heads=2)
    trainer = trainer_of(family, tmp_path / "whole", growth, max_steps=6)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    padded_form = AUTO[family].from_pretrained(tmp_path / "final").eval()
    torch.testing.assert_close(families.logits(padded_form), families.logits(trainer.model.eval()), atol=1e-5, rtol=0)
    growth = GrowthCallback(events, initial_heads=2)
    again = trainer_of(family, tmp_path / "again", growth, max_steps=6)
    again.train(resume_from_checkpoint=growth.prepared(again, tmp_path / "whole" / "checkpoint-4"))
    assert same(weights(again), weights(trainer))


@pytest.mark.parametrize("family", ["gpt_neox", "modernbert"])
def test_families_saved_under_other_names_or_with_an_odd_bottom_layer_resume_too(family, tmp_path):
    def run(folder, checkpoint=None):
        growth = GrowthCallback([{"at": 2, "index": 1}, {"at": 4, "operator": "heads", "to": 4}], initial_heads=2)
        trainer = trainer_of(family, folder, growth, max_steps=6)
        trainer.train(resume_from_checkpoint=growth.prepared(trainer, checkpoint) if checkpoint else None)
        return weights(trainer)

    assert same(run(tmp_path / "whole"), run(tmp_path / "again", tmp_path / "whole" / "checkpoint-3"))


def test_without_an_event_the_run_is_the_one_without_the_callback(tmp_path):
    found = []
    for growth in (None, GrowthCallback("")):
        trainer = trainer_of("gpt2", tmp_path / str(growth is None), growth)
        trainer.train()
        found.append(weights(trainer))
    assert same(*found)
    assert str(Lineage.read(tmp_path / "False" / f"checkpoint-{STEPS}" / "lineage.json")) == "a b"


def test_an_identity_insert_at_step_zero_leaves_the_first_loss(tmp_path):
    losses = []
    for growth in (None, GrowthCallback("0@1", initializer="identity")):
        trainer = trainer_of("llama", tmp_path / str(growth is None), growth, max_steps=1, save_steps=1000)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_a_share_of_training_counts_the_steps_that_trainer_will_make(tmp_path):
    growth = GrowthCallback("0.5@1")
    trainer = trainer_of("gpt2", tmp_path, growth, max_steps=-1, num_train_epochs=2, save_steps=1000)
    trainer.train()
    assert trainer.state.max_steps == 20
    assert [event.step for event in growth.lineage.events] == [10]


def test_rewarm_and_rewind_scale_the_update_and_not_the_scheduler(tmp_path):
    ends, rates = [], []
    for policy in ("none", "rewarm", "rewind"):
        growth, on_progress = GrowthCallback("4@1", learning_rate=policy, rewarm_steps=4), Watch()
        trainer = trainer_of("gpt2", tmp_path / policy, growth, on_progress, save_steps=1000)
        trainer.train()
        rates.append(on_progress.rates)
        ends.append(weights(trainer))
    assert rates[0] == rates[1] == rates[2]
    assert not same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_the_rate_at_the_update_is_the_run_s_own_formula():
    from pli_train.api import Growth
    from pli_train.core.learning_rate import at_step
    from pli_train.optim.config import OptimConfig

    for policy in ("rewarm", "rewind"):
        for shape in ("linear", "cosine", "constant"):
            model = families.tiny("gpt2")
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            settings = OptimConfig(lr=0.1, schedule=shape, warmup_ratio=0.2)
            curve = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda s, settings=settings: _continuous(s, settings, 20, 4) / 0.1
            )
            growing = Growth("8@1", learning_rate=policy, rewarm_steps=5).on(
                model, optimizer, total_steps=20, scheduler=curve, warmup_steps=4
            )
            used = []
            optimizer.register_step_pre_hook(lambda o, *_, used=used: used.append(o.param_groups[0]["lr"]))
            for step in range(20):
                growing.step(step)
                optimizer.step()
                curve.step()
            wanted = [at_step(step, 20, settings, growing.lineage.events) for step in range(20)]
            assert used == pytest.approx(wanted, abs=1e-9), (policy, shape)


def _continuous(step, settings, total, warmup):
    from pli_train.core.learning_rate import SHAPES

    if step < warmup:
        return settings.lr * (step + 1) / warmup
    return settings.lr * SHAPES[settings.schedule](min((step - warmup) / (total - warmup), 1.0))


def test_a_frozen_part_keeps_its_bits_while_it_waits(tmp_path):
    growth = GrowthCallback("4@1", freeze_steps=3)
    trainer = trainer_of("bert", tmp_path, growth)
    trainer.train()
    found = [AutoModelForMaskedLM.from_pretrained(tmp_path / f"checkpoint-{step}").state_dict() for step in (4, 7, 8)]
    parts = anatomy.family("bert")
    for name in found[0]:
        newborn = "<c>" in parts.by_id(name, ["a", "c", "b"])
        if not newborn:
            assert torch.equal(found[0][name], found[1][name]), name
    key = "bert.encoder.layer.1.output.dense.weight"
    assert not torch.equal(found[0][key], found[1][key])
    assert not torch.equal(found[1]["bert.encoder.layer.0.output.dense.weight"], found[2][key.replace("1", "0", 1)])
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


class Residual(torch.nn.Module):
    """Not Hugging Face's: returns a loss as Trainer wants it."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(families.VOCABULARY, 16)
        self.blocks = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU()) for _ in "ab")

    def forward(self, input_ids, labels):
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        logits = hidden @ self.embed.weight.T
        return {"loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def test_a_model_that_is_not_hugging_face_s_grows_and_resumes(tmp_path):
    def run(folder, checkpoint=None):
        seed_everything(1)
        growth = GrowthCallback("3@1 5@3", initializer="random")
        trainer = trainer_of("", folder, growth, model=Residual())
        trainer.train(resume_from_checkpoint=growth.prepared(trainer, checkpoint) if checkpoint else None)
        return trainer

    whole = run(tmp_path / "whole")
    assert len(whole.model.blocks) == 4
    assert same(weights(run(tmp_path / "again", tmp_path / "whole" / "checkpoint-4")), weights(whole))


def test_what_cannot_grow_is_refused_in_one_line(tmp_path):
    cases = [
        ({"torch_compile": True}, "torch_compile"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"load_best_model_at_end": True, "eval_strategy": "no", "save_strategy": "no"}, "load_best_model_at_end"),
    ]
    for more, word in cases:
        with pytest.raises((BadInput, ValueError), match=word):
            trainer_of("gpt2", tmp_path, GrowthCallback("0.5@1"), **more)
    with pytest.raises(BadInput, match="unknown key; did you mean 'initializer'"):
        GrowthCallback("0.5@1", initialzer="clone")
    with pytest.raises(BadInput, match="plateau"):
        trainer_of("gpt2", tmp_path, GrowthCallback({"name": "adaptive", "layers": 3})).train()


def test_a_resume_that_was_not_prepared_is_an_error_with_instructions(grown, tmp_path):
    family, trainer, *_ = grown
    again = trainer_of(family, tmp_path, GrowthCallback(EVENTS, initial_heads=2))
    with pytest.raises(BadInput, match="prepared"):
        again.train(resume_from_checkpoint=str(Path(trainer.args.output_dir) / "checkpoint-3"))


def test_another_schedule_cannot_go_on_with_a_checkpoint(grown, tmp_path):
    family, trainer, *_ = grown
    growth = GrowthCallback("2@0", initial_heads=2)
    with pytest.raises(BadInput, match="another model, schedule or seed"):
        growth.prepared(trainer_of(family, tmp_path, growth), Path(trainer.args.output_dir) / "checkpoint-3")


def test_moments_in_another_order_are_noticed(grown, tmp_path):
    family, trainer, *_ = grown
    folder = Path(trainer.args.output_dir) / "checkpoint-3"
    names = json.loads((folder / "optimizer_names.json").read_text())
    growth = GrowthCallback(EVENTS, initial_heads=2)
    again = trainer_of(family, tmp_path, growth)
    assert any("<c>" in name for name in names[0])
    try:
        (folder / "optimizer_names.json").write_text(json.dumps([names[0][::-1], names[1]]))
        with pytest.raises(BadInput, match="another order"):
            again.train(resume_from_checkpoint=growth.prepared(again, folder))
    finally:
        (folder / "optimizer_names.json").write_text(json.dumps(names))


# --- what is kept beside Trainer's checkpoints -----------------------------------------------------------------------


def kept(folder):
    return [str(name).removeprefix("checkpoint-") for name, _ in run_folder.checkpoints(Path(folder) / "_growth")]


def test_states_around_events_outlive_trainers_rotation_and_are_not_taken_for_its_checkpoints(tmp_path):
    growth = GrowthCallback(EVENTS, initial_heads=2)
    trainer = trainer_of("gpt2", tmp_path, growth, save_total_limit=1)
    trainer.train()
    assert kept(tmp_path) == ["0", "2-before", "2", "4-before", "4", "6-before", "6"]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{STEPS}"]
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / f"checkpoint-{STEPS}")
    assert sort_checkpoints(str(tmp_path)) == [str(tmp_path / f"checkpoint-{STEPS}")]
    for step, layers in ((0, 2), (2, 3), (6, 4)):
        folder = tmp_path / "_growth" / f"checkpoint-{step}"
        assert AutoModelForCausalLM.from_pretrained(folder).config.n_layer == layers
        assert not (folder / "optimizer.safetensors").exists()


def test_a_state_before_an_event_is_what_trainer_saved_at_that_step(tmp_path):
    growth = GrowthCallback("2@1 4@0", initializer="random")
    trainer_of("bert", tmp_path, growth, max_steps=5).train()
    for step in (2, 4):
        mine, theirs = (
            load_file(tmp_path / name / "model.safetensors")
            for name in (f"_growth/checkpoint-{step}-before", f"checkpoint-{step}")
        )
        assert same(mine, theirs)


@pytest.mark.parametrize(
    ("keep", "left"), [(None, ["0", "2-before", "2", "4-before", "4"]), (1, ["0", "4-before", "4"]), (0, [])]
)
def test_how_many_events_keep_their_states_is_up_to_the_user(keep, left, tmp_path):
    trainer_of("gpt2", tmp_path, GrowthCallback("2@1 4@0", keep=keep), max_steps=5, save_steps=5).train()
    assert kept(tmp_path) == left if keep != 0 else not (tmp_path / "_growth").exists()


def test_a_resumed_training_drops_the_states_of_what_it_leaves_behind_and_keeps_the_rest(tmp_path):
    trainer_of("gpt2", tmp_path, GrowthCallback("2@1 4@0 6@1"), max_steps=8).train()
    assert kept(tmp_path) == ["0", "2-before", "2", "4-before", "4", "6-before", "6"]
    growth = GrowthCallback("2@1 4@0 7@1")
    again = trainer_of("gpt2", tmp_path, growth, max_steps=8)
    again.train(resume_from_checkpoint=growth.prepared(again, tmp_path / "checkpoint-4"))
    assert kept(tmp_path) == ["0", "2-before", "2", "4-before", "4", "7-before", "7"]
    trainer_of("gpt2", tmp_path, GrowthCallback("3@1"), max_steps=4).train()
    assert kept(tmp_path) == ["0", "3-before", "3"]


def test_an_event_at_the_start_has_two_sides_and_one_at_a_stop_waits_for_the_next_update(tmp_path):
    class StopAt4(TrainerCallback):
        def on_step_end(self, args, state, control, **its):
            control.should_training_stop = state.global_step == 4

    growth = GrowthCallback("0@1 4@0")
    trainer = trainer_of("gpt2", tmp_path, growth, StopAt4())
    trainer.train()
    assert kept(tmp_path) == ["0-before", "0"] and str(growth.lineage) == "a c b"
    growth = GrowthCallback("0@1 4@0")
    again = trainer_of("gpt2", tmp_path, growth)
    again.train(resume_from_checkpoint=growth.prepared(again, tmp_path / "checkpoint-4"))
    assert kept(tmp_path) == ["0-before", "0", "4-before", "4"] and str(growth.lineage) == "d a c b"


def test_held_out_tokens_are_those_of_the_first_evaluation_with_labels_as_a_run_has_them(tmp_path):
    trainer = trainer_of("gpt2", tmp_path, GrowthCallback("2@1", held_out=5), max_steps=3, eval_on_start=True)
    trainer.eval_dataset = rows = data(9)
    trainer.train()
    found = load_file(tmp_path / "_growth" / "probe.safetensors")
    assert found["inputs"].shape == (5, 12) and found["strata"].tolist() == [9]
    for position, inputs, labels in zip(found["block"].tolist(), found["inputs"], found["labels"], strict=True):
        assert torch.equal(inputs.long(), rows[position]["input_ids"])
        assert labels.tolist() == [*rows[position]["labels"][1:].tolist(), -100]
    logged = read_scalars(tmp_path / "_growth")
    for side in ("before", "after"):
        folder = tmp_path / "_growth" / ("checkpoint-2" + ("-before" if side == "before" else ""))
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            loss = model(input_ids=found["inputs"].long(), labels=found["inputs"].long()).loss.item()
        assert logged.at(f"eval/loss_{side}_event", 2) == pytest.approx(loss, rel=1e-5)
    assert logged.of("growth/layers").values.tolist() == [2, 3]


def test_two_growth_callbacks_in_one_trainer_are_refused_in_one_line(tmp_path):
    trainer = trainer_of("gpt2", tmp_path, GrowthCallback("2@1"))
    trainer.add_callback(GrowthCallback("4@1"))
    with pytest.raises(BadInput, match="two GrowthCallbacks in one Trainer"):
        trainer.train()


@pytest.mark.parametrize("wrong", [{"keep": -1}, {"keep": 1.5}, {"held_out": True}])
def test_counts_that_are_none_are_refused(wrong):
    with pytest.raises(BadInput, match="not a whole number from 0"):
        GrowthCallback("2@1", **wrong)


def test_the_example_runs_and_goes_on(tmp_path, monkeypatch, capsys):
    def printed(*more):
        monkeypatch.setattr(sys, "argv", ["hf_trainer.py", "--steps", "12", "--output", str(tmp_path / "run"), *more])
        runpy.run_path(str(ROOT / "examples/hf_trainer.py"), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    once = printed()
    assert "layers, bottom to top: a c d b" in once
    assert printed("--resume")[-1] == once[-1]
