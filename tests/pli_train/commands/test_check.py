"""What growth does at birth: figures against PyTorch's own, identities that change nothing, clones that do."""

import copy
import json
import math
import sys

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import cross_entropy

from pli_train.commands import check
from pli_train.core import anatomy
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.data.objective import IGNORED, Batch
from tests.families import inputs, tiny

LLAMA = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
CHANGES = ("max_dlogit", "kl", "flip_rate")


@pytest.fixture(params=["gpt2", "bert", "llama"])
def checked(request, config_of):
    """Check a schedule on a tiny model of each family: `checked({"growth.initializer": "clone"})` → rows."""

    def rows(overrides, batches=2, origin=None):
        settings = config_of("bert" if request.param == "bert" else "gpt2", model_of(request.param) | overrides)
        return list(check.check(check.prepare(settings, origin), batches))

    return rows


def model_of(model_type):
    """Two trained-like layers: weights far enough from 0 that a layer says something."""
    wide = {"initializer_range": 0.2}
    table = {"model.initial_layers": 2, "growth.schedule": "3@1 6@3", "growth.noise": 0.0}
    if model_type == "bert":
        sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 32}
    elif model_type == "gpt2":
        sizes = {"n_embd": 32, "n_head": 2, "n_positions": 32}
    else:
        sizes, table["model.family"] = LLAMA, "llama"
    return table | {"model.config": sizes | wide}


def test_kl_and_flips_are_those_of_torchs_distributions():
    generator = torch.Generator().manual_seed(0)
    before, after = (3 * torch.randn(2500, 7, generator=generator) for _ in range(2))  # more rows than one piece
    found = check.at_birth(before, after)
    message = kl_divergence(Categorical(logits=before.double()), Categorical(logits=after.double())).mean()
    assert found.kl == pytest.approx(float(message), rel=1e-12)
    assert found.max_logit == float((after - before).abs().max())
    same = sum(int(torch.argmax(p)) == int(torch.argmax(q)) for p, q in zip(before, after, strict=True))
    assert found.flips == 1 - same / 2500
    assert found.positions == 2500


def test_kl_goes_from_before_to_after_and_not_the_other_way():
    """KL([½, ½] ‖ [¾, ¼]) = ½ ln(4/3); the other way round it is ¾ ln(3/2) + ¼ ln(1/2)."""
    even, uneven = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    assert check.at_birth(even, uneven).kl == pytest.approx(0.5 * math.log(4 / 3), abs=1e-7)
    assert check.at_birth(uneven, even).kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-7)


def test_logits_moved_by_a_constant_say_the_same():
    logits = torch.randn(5, 9)
    found = check.at_birth(logits, logits + 2)
    assert (round(found.max_logit, 5), found.flips) == (2, 0) and abs(found.kl) < 1e-12


def test_batches_count_by_their_positions():
    before, after = torch.randn(2, 60, 11)
    whole = check.at_birth(before, after)
    segments = [check.at_birth(before[a:b], after[a:b]) for a, b in ((0, 7), (7, 60))]
    joined = check.over_batches(segments)
    assert joined.kl == pytest.approx(whole.kl) and joined.flips == pytest.approx(whole.flips)
    assert (joined.max_logit, joined.positions) == (whole.max_logit, 60)


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama"])
def test_loss_and_gradient_are_those_of_one_backward_pass(model_type):
    model = tiny(model_type)
    tokens = inputs(model, count=4)["input_ids"]
    labels = torch.full_like(tokens, IGNORED)
    labels[:, :-1] = tokens[:, 1:]
    labels[0, :5] = IGNORED  # batches with unequally many targets
    task = anatomy.family(model_type).task
    batches = [Batch.of(task, tokens[rows], labels[rows]) for rows in (slice(1), slice(1, None))]
    loss, norm = check.loss_and_gradient(model, batches)
    other = copy.deepcopy(model)
    mean = cross_entropy(other(input_ids=tokens).logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    mean.backward()
    flat = torch.cat([p.grad.flatten() for p in other.parameters() if p.grad is not None])
    assert loss == pytest.approx(float(mean.detach()), rel=1e-5)
    assert norm == pytest.approx(float(torch.linalg.vector_norm(flat.double())), rel=1e-5)
    assert all(p.grad is None for p in model.parameters())


def test_an_identity_changes_nothing_and_every_event_begins_where_the_last_one_left(checked):
    rows = checked({"growth.initializer": "identity"})
    assert [row["event"] for row in rows] == [1, 2]
    for row in rows:
        assert row["max_dlogit"] <= 1e-5 and abs(row["kl"]) <= 1e-8
        assert row["loss_after"] == pytest.approx(row["loss_before"], abs=1e-6)
        assert row["grad_after"] > row["grad_before"] > 0  # the newborn's own gradient comes on top
        assert row["parameters_after"] > row["parameters_before"]
    assert rows[1]["loss_before"] == rows[0]["loss_after"]
    assert rows[1]["grad_before"] == rows[0]["grad_after"]
    assert rows[1]["parameters_before"] == rows[0]["parameters_after"]


@pytest.mark.parametrize("initializer", ["random", "clone"])
def test_other_newborns_change_what_the_model_says(checked, initializer):
    for row in checked({"growth.initializer": initializer}):
        assert row["max_dlogit"] > 1e-2 and row["kl"] > 1e-6 and row["flip_rate"] > 0
        assert row["loss_after"] != row["loss_before"]


@pytest.mark.parametrize(("model_type", "few", "many"), [("gpt2", 1, 2), ("bert", 1, 2), ("llama", 2, 4)])
def test_new_heads_and_units_with_silent_outputs_change_nothing(config_of, model_type, few, many):
    growth = [{"operator": "heads", "at": 3, "to": many}, {"operator": "ffn", "at": 6, "to": 160}]
    more = model_of(model_type) | {"growth.schedule": growth, "model.initial_heads": few}
    rows = list(check.check(check.prepare(config_of("bert" if model_type == "bert" else "gpt2", more)), 1))
    assert len(rows) == 2 and all(row["max_dlogit"] <= 1e-5 for row in rows)
    assert all(row["parameters_after"] > row["parameters_before"] for row in rows)


def test_swaps_and_contexts_are_checked_too(checked):
    growth = [{"operator": "swap", "at": 3, "indices": [0, 1]}, {"operator": "context", "at": 6, "to": 8}]
    swap, context = checked({"growth.schedule": growth})
    assert swap["max_dlogit"] > 1e-2 and context["max_dlogit"] > 1e-2
    assert swap["parameters_after"] == swap["parameters_before"] == context["parameters_after"]


def test_a_checked_event_is_the_one_that_training_would_do(runs, family, config_of):
    """From the checkpoint right before an event, the figures are those of the two checkpoints around it."""
    source = runs[family] / "checkpoint-3-before"
    rows = list(check.check(check.prepare(config_of(family), source), 2))
    assert [row["event"] for row in rows] == [1, 2, 3, 4]
    state = run_folder.read_json(runs[family] / "checkpoint-3" / run_folder.TRAINER_STATE)
    assert rows[0]["step"] == 3 and state["global_step"] == 3
    after = next(check.check(check.prepare(config_of(family), runs[family] / "checkpoint-3"), 2))
    assert after["event"] == 2
    assert after["loss_before"] == pytest.approx(rows[0]["loss_after"], rel=1e-6)
    assert after["grad_before"] == pytest.approx(rows[0]["grad_after"], rel=1e-5)


def test_a_run_is_entered_before_its_last_event_with_what_the_config_changes(runs, family, config_of):
    more = {"growth.initializer": "identity", "growth.noise": 0.0}
    (row,) = check.check(check.prepare(config_of(family, more), runs[family]), 1)
    assert (row["event"], row["step"]) == (4, 9) and row["max_dlogit"] <= 1e-5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"growth.schedule": ""}, r"growth.schedule: has no event, so there is nothing to check"),
        ({"growth.schedule": "3@0 6@1 6@1 9@2"}, r"--from .*checkpoint-6.* after 3 events its layers .* differ from"),
        ({"growth.schedule": "3@0 6@2 6@1"}, r"--from .*: all 3 events of the schedule are done"),
        ({"data.test_share": 0.5}, r"--from .*: its corpus or tokenizer differs"),
    ],
)
def test_what_cannot_be_checked_is_refused(runs, config_of, overrides, message):
    with pytest.raises(BadInput, match=message):
        check.prepare(config_of("gpt2", overrides), runs["gpt2"] / "checkpoint-6")


def test_the_command_prints_rows_and_writes_nothing(corpus, tmp_path, monkeypatch, capsys):
    from pli_train import cli

    monkeypatch.chdir(tmp_path)
    words = ["tokenizer.vocab_size=300", "train.block_size=32", f"data.source={corpus}", "model.config.n_embd=32"]
    sets = [word for value in words for word in ("--set", value)]
    monkeypatch.setattr(sys, "argv", ["pli-train", "check", "tiny-gpt2", *sets, "--batches", "1", "--format", "json"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert left.value.code in (0, None) and len(rows) == 5 and "event 5 of 5" in err
    assert all(row[name] is not None for row in rows for name in CHANGES)
    assert not list(tmp_path.iterdir())


def test_a_plateau_event_has_no_step(config_of):
    named = {"name": "adaptive", "layers": 3, "position": "end"}
    rows = list(check.check(check.prepare(config_of("gpt2", {"growth.schedule": named})), 1))
    assert [row["step"] for row in rows] == [None, None]
    assert all(row["what"].startswith("plateau@") for row in rows)


def test_image_models_are_checked_too():
    from pli_train.config import loading

    sets = ["growth.initializer=identity", "growth.schedule=0.5@1", "train.batch_size=4"]
    (row,) = check.check(check.prepare(loading.load("tiny-vit", sets)), 2)
    assert row["max_dlogit"] <= 1e-5 and row["grad_after"] > row["grad_before"] > 0
