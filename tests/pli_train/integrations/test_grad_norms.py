"""GradNormCallback in Hugging Face's own Trainer: the raw norms, by part, whatever Trainer clips."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from pli_analysis.scalars.reading import read
from pli_train.core import anatomy
from pli_train.core.errors import BadInput
from pli_train.integrations import GradNormCallback, GrowthCallback
from tests import families
from tests.by_hand import SUMS, slow_heads
from tests.trainers import trainer_of

CLIPPED = 0.01
EVENTS = [
    {"at": 2, "index": 1, "initializer": "clone-noise", "noise": 0.1},
    {"at": 4, "operator": "heads", "to": 4, "initializer": "random"},
    {"at": 4, "index": 0, "initializer": "random", "freeze_steps": 2},
]


def images(count=40):
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(count, 1, 8, 8, generator=generator)
    return [{"pixel_values": image, "labels": number % 10} for number, image in enumerate(pixels)]


def run_of(family, folder, *callbacks, begun=True, **more):
    trainer = trainer_of(family, folder, **{"max_steps": 4, "save_steps": 99, "max_grad_norm": CLIPPED} | more)
    if family == "vit":
        trainer.train_dataset = images()
    for callback in callbacks:
        trainer.add_callback(callback)
    if begun:
        trainer.train()
    return trainer


def parts_at(folder, step, prefix="grad_norm/"):
    values = read(folder).values
    return {
        tag.removeprefix(prefix): at[step][1] for tag, at in values.items() if tag.startswith(prefix) and step in at
    }


class Watch(TrainerCallback):
    """The gradients that each update found, and how many hooks hung on parameters when it began and was done."""

    def __init__(self):
        self.heads, self.hooks = [], []

    def on_step_begin(self, args, state, control, **its):
        self.hooks.append(self.count(its["model"]))

    def on_pre_optimizer_step(self, args, state, control, **its):
        model = its["model"]
        parts = anatomy.family(model.config.model_type)
        self.heads.append(slow_heads(model, parts, ["a", "b"]))

    def on_step_end(self, args, state, control, **its):
        assert self.count(its["model"]) == 0

    @staticmethod
    def count(model):
        return sum(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters())


@pytest.mark.parametrize("family", families.TINY)
def test_norms_are_the_raw_ones_and_sum_to_trainers_own(family, tmp_path):
    trainer = run_of(family, tmp_path, GradNormCallback(every=2))
    logged = {entry["step"]: entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry}
    assert min(logged.values()) > 10 * CLIPPED
    assert sorted(read(tmp_path).values["grad_norm/total"]) == [1, 2, 4]
    for step in (1, 2, 4):
        parts = parts_at(tmp_path, step)
        assert parts["total"] == pytest.approx(logged[step], rel=1e-5)
        squares = sum(norm**2 for tag, norm in parts.items() if tag.split("/")[0] not in SUMS)
        assert squares == pytest.approx(parts["total"] ** 2, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bert", "qwen2"])
def test_each_head_is_as_cut_by_hand_from_unclipped_gradients(family, tmp_path):
    """Two batches to an update; the first update of an unclipped twin finds the same gradients, and keeps them."""
    on_progress = Watch()
    run_of(family, tmp_path / "clipped", GradNormCallback(every=3), max_steps=1)
    run_of(family, tmp_path / "raw", on_progress, max_steps=1, max_grad_norm=0.0)
    found = {tag.split("/")[1]: norm for tag, norm in parts_at(tmp_path / "clipped", 1).items() if "." in tag}
    assert found == pytest.approx(on_progress.heads[0], rel=1e-5)


def test_hooks_hang_on_measured_steps_only(tmp_path):
    on_progress = Watch()
    trainer = run_of("gpt2", tmp_path, GradNormCallback(every=3), on_progress)
    each = len(list(trainer.model.parameters()))
    assert on_progress.hooks == [each, 0, each, 0]


def test_measuring_changes_no_bit_of_training(tmp_path):
    with_norms = run_of("bert", tmp_path / "a", GradNormCallback(every=1, updates=True))
    without = run_of("bert", tmp_path / "b")
    ours, theirs = with_norms.model.state_dict(), without.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_parts_are_followed_by_id_through_growth_and_a_resume(family, tmp_path):
    def run(folder, checkpoint=None):
        growth = GrowthCallback(EVENTS, initial_heads=2)
        settings = {"max_steps": 8, "save_steps": 1, "max_grad_norm": CLIPPED}
        trainer = trainer_of(family, folder, growth, GradNormCallback(every=3, growth=growth), **settings)
        trainer.train(resume_from_checkpoint=growth.prepared(trainer, checkpoint) if checkpoint else None)
        return trainer

    whole = run(tmp_path / "whole")
    logged = {entry["step"]: entry["grad_norm"] for entry in whole.state.log_history if "grad_norm" in entry}
    values = read(tmp_path / "whole").values
    assert sorted(values["grad_norm/total"]) == [1, 3, 5, 6]
    steps = {tag.removeprefix("grad_norm/"): sorted(points) for tag, points in values.items()}
    assert steps["layer/c"] == [3, 5, 6] and steps["layer/d"] == steps["head/a.h3"] == [5, 6]
    assert steps["norms/a"] == steps["norms/b"] == [1, 3]  # frozen in updates 5 and 6: they have no gradient then
    assert steps["head/a.h0"] == [1, 3] and steps["layer/a"] == [1, 3, 5, 6]  # beside a.h3, which learns then
    for step in (1, 3, 5, 6):
        assert parts_at(tmp_path / "whole", step)["total"] == pytest.approx(logged[step], rel=1e-5)
    run(tmp_path / "again", tmp_path / "whole" / "checkpoint-4")
    again = read(tmp_path / "again").values
    for tag, points in values.items():
        later = {step: value for step, (_, value) in points.items() if step > 4}
        assert {step: value for step, (_, value) in again.get(tag, {}).items()} == later


def test_updates_over_weights_are_of_the_update_that_was_done(tmp_path):
    model = families.tiny("gpt2")
    kept = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    run_of("gpt2", tmp_path, GradNormCallback(every=1, updates=True), model=model, max_steps=1, warmup_steps=0)
    names = [name for name in kept if name.startswith("transformer.h.1.mlp.")]
    moved = {name: p.detach().double() - kept[name] for name, p in model.named_parameters()}
    ratio = (sum(moved[n].square().sum() for n in names) / sum(kept[n].square().sum() for n in names)) ** 0.5
    assert len(names) == 4 and ratio > 0
    assert parts_at(tmp_path, 1, "update_ratio/")["ffn/b"] == pytest.approx(float(ratio), rel=1e-4)


class Lone(torch.nn.Module):
    """No Hugging Face model: blocks, and a loss."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(families.VOCABULARY, 16)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(3))
        self.head = torch.nn.Linear(16, families.VOCABULARY)

    def forward(self, input_ids, labels):
        x = self.embed(input_ids)
        for block in self.blocks:
            x = x + block(x).relu()
        logits = self.head(x)
        return {"loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def test_a_model_without_a_table_is_logged_by_layer(tmp_path):
    trainer = run_of("gpt2", tmp_path, GradNormCallback(every=1, groups=["layer", "total"]), model=Lone())
    values = read(tmp_path).values
    assert sorted(values) == [f"grad_norm/{tag}" for tag in ("layer/a", "layer/b", "layer/c", "total")]
    logged = {entry["step"]: entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry}
    assert {step: norm for step, (_, norm) in values["grad_norm/total"].items()} == pytest.approx(logged, rel=1e-5)


@pytest.mark.slow
def test_a_compiled_model_has_the_same_norms(tmp_path):
    settings = {"max_steps": 2, "torch_compile": True, "torch_compile_backend": "eager"}
    trainer = run_of("gpt2", tmp_path, GradNormCallback(every=1), **settings)
    logged = {entry["step"]: entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry}
    total = {step: norm for step, (_, norm) in read(tmp_path).values["grad_norm/total"].items()}
    assert total == pytest.approx(logged, rel=1e-5)


FINE = {"fp16": False, "deepspeed": None, "fsdp": [], "world_size": 1, "n_gpu": 0, "optim": "adamw_torch_fused"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"fp16": True}, "fp16 scales gradients while they are measured; train in bf16"),
        ({"deepspeed": "ds.json"}, "DeepSpeed does not expose gradients"),
        ({"fsdp": ["full_shard"]}, "FSDP has only a shard of each gradient on each device"),
        ({"world_size": 2}, "several processes or GPUs are not supported"),
        ({"n_gpu": 2}, "several processes or GPUs are not supported"),
        ({"optim": "galore_adamw_layerwise"}, "consumes each gradient during the backward pass"),
        ({"optim": "lomo"}, "consumes each gradient during the backward pass"),
    ],
)
def test_what_it_cannot_measure_right_is_refused_in_one_line(more, message, tmp_path):
    trainer_of("gpt2", tmp_path)  # accelerate's state is there, as it is whenever Trainer calls
    with pytest.raises(BadInput, match=message) as refused:
        GradNormCallback().on_init_end(SimpleNamespace(**FINE | more), None, None, model=families.tiny("gpt2"))
    assert len(refused.value.mistakes) == 1 and "\n" not in str(refused.value)
    GradNormCallback().on_init_end(SimpleNamespace(**FINE), None, None, model=families.tiny("gpt2"))


def test_bad_arguments_and_models_are_refused_in_one_line(tmp_path):
    with pytest.raises(BadInput, match="every=0 is not a whole number from 1"):
        GradNormCallback(every=0)
    with pytest.raises(BadInput, match=r"groups: no 'heads'; did you mean 'head'"):
        GradNormCallback(groups=["heads"])
    with pytest.raises(BadInput, match="no ModuleList of equal blocks"):
        trainer_of("gpt2", tmp_path, GradNormCallback(), model=torch.nn.Sequential(torch.nn.Linear(2, 2)))
    growth = GrowthCallback("1@1")
    with pytest.raises(BadInput, match=r"the model has 3 layers and its lineage 2.*GradNormCallback\(growth=…\)"):
        run_of("gpt2", tmp_path, growth, GradNormCallback(every=1))
