"""One training by `pli-train run` and by Hugging Face's Trainer with our callbacks: analysis tells the same of both.

Trainer is fed the very blocks that the run takes, the same held-out blocks, and the run's settings of AdamW. Both add
up losses, gradients and moments in float32, in another order. A loss then differs by some 1e-7 of itself and weights by
1e-6 after 40 steps, as long as the learning rate is low and Adam's epsilon lies above rounding: the gradient of keys'
biases is zero but for rounding, which a small epsilon would turn into whole steps. Differences of losses, ratios of
small norms and deviations over a MAD lose one or two digits more. Hence the tolerances.
"""

from contextlib import closing

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator

from pli_analysis import api
from pli_analysis.metrics import loss as loss_metric
from pli_analysis.metrics.grad_norms import logged
from pli_analysis.report import content
from pli_analysis.runs.opening import open_run
from pli_train.core.randomness import derive
from pli_train.data.prefetch import BatchPrefetcher
from pli_train.integrations import GradNormCallback, GrowthCallback
from pli_train.training import launch
from tests.thinned import thinned

STEPS, SEED, BATCH, LR, EPS = 40, 3, 8, 1e-3, 1e-5
SCHEDULE = [{"at": 8, "index": 1, "initializer": "clone"}, {"at": 24, "index": 0, "initializer": "random"}]
PHASES = {"falling": "linear", "level": "constant"}
"""What is told of rates that were logged → what it is called in a run whose schedule is known."""
UNKNOWN = ["documents", "flops", "seconds"]
"""Columns that Trainer has no word for: what documents its rows are of, FLOPs by our count, seconds of training."""


class InOrder(Trainer):
    """Takes rows as they come."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


def row_of(inputs, labels):
    """A row as Hugging Face's models take it: they move labels one place themselves."""
    return {"input_ids": inputs, "labels": torch.cat([torch.tensor([-100]), labels[:-1]])}


@pytest.fixture(scope="module", params=thinned(["linear", "constant"]))
def both(request, config_of, tmp_path_factory):
    """The run, and Trainer's output."""
    folder = tmp_path_factory.mktemp(request.param)
    model = {"n_embd": 32, "n_head": 2, "n_positions": 32}
    model |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    settings = {
        "seed": SEED,
        "model.config": model,
        "model.initial_layers": 2,
        "train.steps": STEPS,
        "train.batch_size": BATCH,
        "train.accumulation": 1,
        "train.eval_blocks": 1000,
        "train.grad_norms_every": 4,
        "optim.lr": LR,
        "optim.eps": EPS,
        "optim.schedule": request.param,
        "optim.warmup_ratio": 0.0,
        "growth.schedule": SCHEDULE,
        "growth.noise": 0.0,
        "checkpoint.every": 2,
    }
    ours = launch.begin(config_of("gpt2", settings), folder / "ours")
    ours.run()
    rows = [
        row_of(inputs, labels) for step in range(STEPS) for inputs, labels in zip(*batch_of(ours, step), strict=True)
    ]
    probe = load_file(folder / "ours" / "probe.safetensors")
    held_out = [row_of(*pair) for pair in zip(probe["inputs"].long(), probe["labels"].long(), strict=True)]
    # The callback draws at random: so that it draws them in the order that the run drew them in.
    order = np.random.default_rng(derive(SEED, "held out")).permutation(len(held_out))
    args = TrainingArguments(
        str(folder / "theirs"),
        seed=SEED,
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        learning_rate=LR,
        adam_epsilon=EPS,
        lr_scheduler_type=request.param,
        weight_decay=0.01,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=4,
        eval_on_start=True,
        save_steps=2,
        include_num_input_tokens_seen="all",
        report_to="tensorboard",
        use_cpu=True,
        disable_tqdm=True,
    )
    growth = GrowthCallback(SCHEDULE, held_out=1000)
    trainer = InOrder(
        AutoModelForCausalLM.from_pretrained(folder / "ours" / "checkpoint-0"),
        args,
        train_dataset=rows,
        eval_dataset=[held_out[position] for position in np.argsort(order)],
        data_collator=default_data_collator,
        callbacks=[GradNormCallback(every=4, growth=growth), growth],
    )
    trainer.train()
    return open_run(folder / "ours"), open_run(folder / "theirs")


def batch_of(trainer, step):
    plan = trainer.plan
    with closing(BatchPrefetcher(plan.blocks, plan.objective, plan.blocks_per_step, plan.config.seed)) as batches:
        batch = batches.make(step, trainer.state.context)
    return batch.inputs, batch.labels


def agree(ours, theirs, rtol, atol=1e-6):
    """Two tables are equal, numbers within a tolerance."""
    assert list(ours.columns) == list(theirs.columns) and len(ours) == len(theirs)
    for column in ours.columns.difference(UNKNOWN, sort=False):
        mine, other = ours[column].reset_index(drop=True), theirs[column].reset_index(drop=True)
        if column == "lr_phase":
            other = other.map(lambda name: PHASES.get(name, name))
        if pd.api.types.is_numeric_dtype(mine) and not pd.api.types.is_bool_dtype(mine):
            pairs = (values.astype(float).to_numpy() for values in (mine, other))
            np.testing.assert_allclose(*pairs, rtol=rtol, atol=atol, err_msg=column)
        else:
            assert mine.astype(str).tolist() == other.astype(str).tolist(), column


def test_losses_and_rates_are_the_same(both):
    tables = [loss_metric.loss(run.scalars) for run in both]
    agree(*tables, rtol=1e-6)
    assert len(tables[0]) == STEPS + STEPS // 4 + 1 and (tables[1]["tokens"] > 0).sum() == len(tables[1]) - 1


def test_lineage_is_the_same_to_the_letter(both):
    ours, theirs = both
    given = theirs.lineage.to_json().replace('"given"', '"random"')
    assert given == ours.lineage.to_json()
    assert [str(c.name) for c in ours.checkpoints] == [str(c.name) for c in theirs.checkpoints]
    assert [c.tokens for c in ours.checkpoints] == [c.tokens for c in theirs.checkpoints]
    assert theirs.notes == [] and theirs.damaged == []


def test_drift_is_the_same(both):
    agree(*(api.drift(run, "all") for run in both), rtol=5e-5, atol=1e-7)


def test_gradient_norms_are_the_same(both):
    agree(*(logged.logged(run.scalars, run.lineage) for run in both), rtol=1e-5)


def test_disturbance_is_the_same(both):
    ours, theirs = (api.disturbance(run) for run in both)
    agree(ours.events, theirs.events, rtol=1e-5)
    agree(ours.layers, theirs.layers, rtol=1e-4, atol=1e-6)
    assert ours.layers["score"].notna().any() and (ours.events["loss_change"].abs() > 1e-5).all()
    assert ours.notes == theirs.notes == []


def test_reports_have_the_same_sections_and_tables(both):
    ours, theirs = (content.build(run) for run in both)
    assert [section.title for section in ours.sections] == [section.title for section in theirs.sections]
    for mine, other in zip(ours.sections[:-1], theirs.sections[:-1], strict=True):
        assert [figure.title for figure in mine.figures] == [figure.title for figure in other.figures]
        assert [title for title, _ in mine.tables] == [title for title, _ in other.tables]
        for (_, one), (_, two) in zip(mine.tables, other.tables, strict=True):
            agree(one, two, rtol=1e-4, atol=1e-6)
        assert [name for name, _ in mine.points] == [name for name, _ in other.points]
