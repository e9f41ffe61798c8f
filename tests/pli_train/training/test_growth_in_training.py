"""Every operator and policy in a real run: what it does to the loop, and that a resumed run does the same."""

import copy
from itertools import pairwise

import pytest
import torch

from pli_analysis.metrics.drift.drift import drift
from pli_analysis.runs.opening import open_run
from pli_analysis.scalars.reading import read
from pli_train.checkpointing import checkpoint
from pli_train.core import learning_rate
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.growth.schedules.adaptive import ready
from pli_train.training import launch
from tests.growing import WIDE
from tests.interrupted import kill_and_resume
from tests.run_files import content
from tests.thinned import thinned


@pytest.fixture(params=sorted(WIDE))
def family(request):
    return request.param


KILLS = [("gpt2", at) for at in (1, 3, 4, 5, 6, 7, 8, 10)] + [("bert", 3), ("bert", 9), ("llama", 4), ("llama", 8)]


@pytest.mark.parametrize(("family", "at"), thinned(KILLS))
def test_a_run_with_every_operator_resumes_to_the_same_bytes(everything, unbroken, family, tmp_path, at):
    run = tmp_path / "run"
    kill_and_resume(everything(family), run, at)
    assert content(run) == content(unbroken[family])


def test_save_load_save_is_identical(unbroken, family, tmp_path):
    """What a checkpoint gives back writes the same files again, padded layers and all."""
    from pli_train.optim import optimizer
    from pli_train.optim.config import OptimConfig

    for name, folder in run_folder.checkpoints(unbroken[family]):
        found = checkpoint.read(folder)
        adam = optimizer.build(found.model, OptimConfig())
        optimizer.load_state(adam, found.model, found.anatomy, found.lineage.stack, found.optimizer)
        again = checkpoint.write(
            tmp_path, name, found.model, found.anatomy, adam, found.lineage, copy.deepcopy(found.trainer_state)
        )
        for file in (run_folder.WEIGHTS, run_folder.OPTIMIZER, run_folder.LINEAGE, run_folder.CONFIG):
            assert (again / file).read_bytes() == (folder / file).read_bytes(), f"{name}/{file}"


def test_the_lineage_says_what_was_done_and_how(unbroken, family):
    lineage = Lineage.read(unbroken[family] / run_folder.LINEAGE)
    assert lineage.stack == ["d", "b", "a", "c"]
    assert [lineage.shape(id) for id in "abcd"] == [(6, 80), (4, 80), (4, 80), (6, 80)]
    policies = [(e.facts["optimizer_state"], e.facts["learning_rate"]) for e in lineage.events]
    assert policies == [
        *[("zero", "none")] * 2,
        ("zero", "rewarm-new"),
        ("copy", "none"),
        *[("zero", "none")] * 2,
        ("zero", "rewarm"),
        ("zero", "none"),
        ("reset-all", "rewind"),
    ]


def test_drift_is_measured_past_growth_of_heads_and_width(unbroken, family):
    run = open_run(unbroken[family])
    for of in ("layer", "head", "ffn", "norms", "attention"):
        table = drift(run, of)
        first = table.drop_duplicates("part", keep="first")
        assert (first["relative_l2"] == 0).all(), of
        assert table["relative_l2"].notna().all()
    heads = drift(run, "head")
    assert heads.query("step == 12")["part"].nunique() == 6 + 4 + 4 + 6
    assert heads.query("part == 'a.h2'")["age"].tolist()[0] == 0
    # Frozen from step 2 to 4, layer a stays where it was while b moves.
    layers = drift(run).set_index(["part", "checkpoint"])["relative_l2"]
    assert layers["a", "checkpoint-2"] == layers["a", "checkpoint-4-before"]
    assert layers["b", "checkpoint-4-before"] > 0


def weights(run, name):
    return checkpoint.read(run / name).model.state_dict()


def test_freezing_holds_everything_that_was_there_before(config_of, tmp_path):
    overrides = {"growth": {"schedule": "3@1", "initializer": "identity", "freeze_steps": 4}, "checkpoint.every": 1}
    run = launch.begin(config_of("gpt2", overrides), tmp_path / "run").run().parent
    lineage = Lineage.read(run / run_folder.LINEAGE)
    for earlier, later in pairwise(range(3, 9)):
        before, after = weights(run, f"checkpoint-{earlier}"), weights(run, f"checkpoint-{later}")
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        newborn = {name for name in before if name.startswith(f"transformer.h.{lineage.index('b')}.")}
        assert moved & newborn
        assert (moved <= newborn) == (later <= 7), later


def test_frozen_parts_keep_their_moments(config_of, tmp_path):
    overrides = {"growth": {"schedule": "3@1", "initializer": "identity", "freeze_steps": 4}, "checkpoint.every": 1}
    run = launch.begin(config_of("gpt2", overrides), tmp_path / "run").run().parent
    moments = [checkpoint.read(run / f"checkpoint-{step}").optimizer for step in (3, 7, 8)]
    old = [name for name in moments[0] if "<a>" in name]
    assert old and all(torch.equal(moments[0][name], moments[1][name]) for name in old)
    assert not all(torch.equal(moments[1][name], moments[2][name]) for name in old)


FREEZES = [
    {"operator": "heads", "at": 1, "to": 4, "output": "kept"},
    {"operator": "heads", "at": 3, "to": 6, "output": "kept", "freeze_steps": 3},
    {"at": 8, "index": 1, "freeze_steps": 2},
]
"""Heads that learn beside frozen ones of the same tensors (steps 3 to 6), then a layer that learns alone (8 to 10)."""


@pytest.fixture(scope="module")
def freezing(config_of, tmp_path_factory):
    """A finished run of each family that froze rows of tensors, and tensors whose rows are of different births."""
    folders = {}
    for family in WIDE:
        model = {"family": family, "config": WIDE[family], "initial_layers": 1, "initial_heads": 2}
        overrides = {"model": model, "growth": {"schedule": FREEZES}, "checkpoint.every": 1, "optim.weight_decay": 0.3}
        config = config_of(family, overrides | {"train.grad_norms_every": 1, "train.update_ratios": True})
        folders[family] = tmp_path_factory.mktemp("freezing") / family
        launch.begin(config, folders[family]).run()
    return folders


def by_part(run, name):
    """Every weight, moment and count of a checkpoint: (entry, parameter by layer id, part) → tensor."""
    found = checkpoint.read(run / name)
    parts, stack = found.anatomy, found.lineage.stack
    tensors = {("weights", parts.by_id(n, stack)): p.detach() for n, p in found.model.named_parameters()}
    shapes = {name: tensor.shape for (_, name), tensor in tensors.items()}
    kept = {tuple(key.split("/", 1)): value for key, value in found.optimizer.items()}
    rows = {name for entry, name in kept if entry == "row_step"}
    kept = {key: value for key, value in kept.items() if key[0] != "step" or key[1] not in rows}
    tensors |= {(e.replace("row_step", "step"), name): value.expand(shapes[name]) for (e, name), value in kept.items()}
    cut = {}
    for (entry, name), tensor in tensors.items():
        _, _, inner = name.partition(">.")
        heads = found.model.config.num_attention_heads if not inner else found.lineage.shape("a")[0]
        sizes = parts.sizes(found.model.config)
        sizes |= {"head": heads, "group": heads // sizes["member"]}
        split = parts.split(inner, tensor, sizes) if inner else [("", tensor)]
        cut |= {(entry, name, part): segment for part, segment in split}
    return cut


def test_rows_that_are_frozen_do_not_move_in_a_bit_and_neither_do_their_moments_and_counts(freezing, family):
    """Heads born at step 3 learn; those of steps 0 and 1, in the same tensors, and all else wait until step 6."""
    begun, later, after = (by_part(freezing[family], f"checkpoint-{step}") for step in (3, 6, 7))
    assert begun.keys() == later.keys()
    updates = {"h2": (2, 2, 3), "h3": (2, 2, 3), "g1": (2, 2, 3), "h4": (0, 3, 4), "h5": (0, 3, 4), "g2": (0, 3, 4)}
    for key, tensor in begun.items():
        entry, name, part = key
        assert torch.equal(tensor, later[key]) != ("<a>" in name and part in ("h4", "h5", "g2")), key
        if entry == "step":
            counts = tuple(set(each[key].flatten().tolist()) for each in (begun, later, after))
            assert counts == tuple({count} for count in updates.get(part, (3, 3, 4))), key
    assert {part for _, name, part in begun if "<a>" in name} >= {"h0", "h3", "h5"}


def test_a_layer_of_mixed_birth_is_frozen_as_a_whole(freezing, family):
    """Its tensors have rows of steps 0, 1 and 3; the layer b of step 8 learns alone until step 10."""
    begun, later = (checkpoint.read(freezing[family] / f"checkpoint-{step}") for step in (8, 10))
    old = [key for key in begun.optimizer if "<b>" not in key]
    assert any(key.startswith("row_step/") and "<a>" in key for key in old)
    assert all(torch.equal(begun.optimizer[key], later.optimizer[key]) for key in old)
    weights = [
        {found.anatomy.by_id(n, found.lineage.stack): p for n, p in found.model.named_parameters()}
        for found in (begun, later)
    ]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]) != ("<b>" in name), name


def test_what_is_frozen_has_no_norm_and_a_layer_the_norm_of_what_learns(freezing, family):
    values = read(freezing[family]).values
    message = {
        step: {
            tag.removeprefix("grad_norm/"): at[step][1]
            for tag, at in values.items()
            if "grad_norm/" in tag and step in at
        }
        for step in range(1, 13)
    }
    heads = {f"head/a.h{n}" for n in (4, 5)}
    groups = {"attention/a.g2"} if family == "llama" else set()
    for step in (4, 5, 6):
        assert message[step].keys() == heads | groups | {"layer/a", "total"}
        for whole in ("layer/a", "total"):
            parts = sum(message[step][part] ** 2 for part in heads | groups)
            assert message[step][whole] ** 2 == pytest.approx(parts, rel=1e-5)
    for step in (9, 10):
        assert {tag.split("/")[-1].partition(".")[0] for tag in message[step]} == {"b", "total"}
    for step in (3, 7, 8, 11):
        assert {"head/a.h0", "ffn/a", "norms/a", "embeddings", "layer/a"} <= message[step].keys()
    ratios = {tag for tag, at in values.items() if tag.startswith("update_ratio/") and 5 in at}
    assert {tag.removeprefix("update_ratio/") for tag in ratios} == message[5].keys()


def test_new_heads_warm_up_alone_and_old_ones_do_not_notice(config_of, tmp_path):
    """AdamW's update is proportional to its rate: the first of ten warm-up steps moves new heads a tenth as far."""
    model = {"family": "gpt2", "config": WIDE["gpt2"], "initial_layers": 1, "initial_heads": 2}
    finals = {}
    for policy in ("none", "rewarm-new"):
        heads = {"operator": "heads", "at": 3, "to": 4, "initializer": "random", "learning_rate": policy}
        growth = {"schedule": [{**heads, "rewarm_steps": 10}]}
        config = config_of("gpt2", {"model": model, "growth": growth, "train.steps": 5, "checkpoint.every": 1})
        run = launch.begin(config, tmp_path / policy).run().parent
        finals[policy] = [checkpoint.read(run / f"checkpoint-{step}") for step in (3, 4)]
    anatomy = finals["none"][0].anatomy
    name = "transformer.h.0.attn.c_attn.weight"
    sizes = anatomy.sizes(finals["none"][0].model.config) | {"head": 4}
    moves = {}
    for policy, states in finals.items():
        before, after = (dict(anatomy.split(name[16:], s.model.state_dict()[name], sizes)) for s in states)
        moves[policy] = {head: after[head] - before[head] for head in before}
    for head in ("h0", "h1"):
        assert torch.equal(moves["none"][head], moves["rewarm-new"][head])
    for head in ("h2", "h3"):
        assert moves["none"][head].abs().max() > 0
        assert torch.allclose(moves["rewarm-new"][head], moves["none"][head] / 10, rtol=1e-2, atol=1e-7)


def test_rates_follow_the_policies(config_of, unbroken, everything, family):
    """As logged: rewarm climbs over three steps after step 7, rewind starts the schedule over after step 9."""
    logged = {step: rate for step, (_, rate) in read(unbroken[family]).values[run_folder.LR].items()}
    plain = [learning_rate.at_step(step, 12, everything(family).optim) for step in range(12)]
    for step in range(12):
        assert logged[step + 1] == pytest.approx(
            {7: plain[7] / 3, 8: plain[8] * 2 / 3, 9: 1e-2, 10: 1e-2 * 2 / 3, 11: 1e-2 / 3}.get(step, plain[step])
        )
    own = {step: rate for step, (_, rate) in read(unbroken[family]).values[run_folder.LR_OF_LAYER + "a"].items()}
    assert own[3] == own[4] == 0 < own[5]


def test_swapping_leaves_lineage_order_and_checkpoints_alone(config_of, tmp_path):
    """Every step swapped: gradients differ from the unswapped run's, places never do."""
    growth = {"schedule": "3@0 6@2", "initializer": "clone-noise", "noise": 0.1}
    runs = {}
    for probability in (0.0, 1.0):
        config = config_of("gpt2", {"growth": {**growth, "swapping": {"probability": probability}}})
        runs[probability] = launch.begin(config, tmp_path / str(probability)).run().parent
    plain, swapped = runs[0.0], runs[1.0]
    assert (plain / run_folder.LINEAGE).read_bytes() == (swapped / run_folder.LINEAGE).read_bytes()
    before, after = weights(swapped, "checkpoint-3-before"), weights(swapped, "checkpoint-3")
    ours = weights(plain, "checkpoint-3")
    assert all(torch.equal(after[name], ours[name]) for name in ours), "a stack of one layer has nothing to swap"
    assert before.keys() < after.keys()
    assert any(not torch.equal(weights(swapped, "checkpoint-4")[n], weights(plain, "checkpoint-4")[n]) for n in ours)
    scalars = read(swapped).values
    assert {step: value for step, (_, value) in scalars[run_folder.SWAPPED].items()} == {
        step: float(step > 3) for step in range(1, 13)
    }
    assert scalars[run_folder.EVAL_LOSS_SWAPPED].keys() == scalars[run_folder.EVAL_LOSS].keys()
    unswapped = scalars[run_folder.EVAL_LOSS]
    differ = [step for step, (_, v) in scalars[run_folder.EVAL_LOSS_SWAPPED].items() if v != unswapped[step][1]]
    assert 12 in differ and 0 not in differ
    assert run_folder.SWAPPED not in read(plain).values


def test_how_often_and_which_pairs_are_swapped():
    from pli_train.growth.config import SwappingConfig
    from pli_train.growth.swap_regularizer import SwapRegularizer

    swapping = SwapRegularizer(SwappingConfig(probability=0.4, anneal="linear"), seed=3, total_steps=4000)
    halves = [sum(swapping.is_due(step, 6) for step in part) for part in (range(2000), range(2000, 4000))]
    # Means 0.3 and 0.1 of 2000 steps; four standard errors.
    assert abs(halves[0] - 600) < 4 * 21 and abs(halves[1] - 200) < 4 * 14
    assert not any(swapping.is_due(step, 1) for step in range(500))
    adjacent = {swapping.pair(step, 4) for step in range(300)}
    assert adjacent == {(0, 1), (1, 2), (2, 3)}
    above = SwapRegularizer(SwappingConfig(probability=1.0), 3, 4000, lowest=1)
    assert {above.pair(step, 4) for step in range(300)} == {(1, 2), (2, 3)}
    assert not any(above.is_due(step, 2) for step in range(50)) and above.is_due(0, 3)
    anywhere = SwapRegularizer(SwappingConfig(probability=0.4, pairs="random"), 3, 4000)
    assert {anywhere.pair(step, 4) for step in range(300)} == {(i, j) for j in range(4) for i in range(j)}


def test_a_plateau_grows_the_model_when_the_history_says_so(config_of, tmp_path):
    schedule = {"name": "adaptive", "layers": 4, "position": "end", "window": 2, "threshold": 0.6, "until": None}
    overrides = {"growth": {"schedule": schedule}, "train.steps": 60, "train.eval_every": 3, "checkpoint.every": 20}
    config = config_of("gpt2", overrides)
    run = launch.begin(config, tmp_path / "run").run().parent
    lineage = Lineage.read(run / run_folder.LINEAGE)
    assert 1 <= len(lineage.events) <= 3
    history = checkpoint.read(run / "checkpoint-60").trainer_state.log_history
    evals = [(int(e["step"]), e["flops"], e["eval_loss"]) for e in history if "eval_loss" in e]
    # Asked again at every evaluation, the rule says yes exactly where the run grew.
    since, expected = 0, []
    for count, (step, *_) in enumerate(evals, 1):
        if len(expected) < 3 and step < 60 and ready(evals[:count], since, config.growth.plateau(), 60):
            expected.append(step)
            since = step
    assert [event.step for event in lineage.events] == expected


def test_growth_from_an_empty_stack(config_of, tmp_path):
    overrides = {
        "model.initial_layers": 0,
        "growth": {"schedule": {"name": "single-shot", "layers": 3, "at": 0.5}, "optimizer_state": "zero"},
    }
    run = launch.begin(config_of("gpt2", overrides), tmp_path / "run").run().parent
    layers = {step: value for step, (_, value) in read(run).values[run_folder.LAYERS].items()}
    assert (layers[6], layers[7]) == (0, 3)
    evals = {step: value for step, (_, value) in read(run).values[run_folder.EVAL_LOSS].items()}
    assert evals[12] < evals[0]


def test_the_loss_is_evaluated_on_both_sides_of_an_event_but_once_before_training(config_of, tmp_path):
    overrides = {"train.steps": 4, "train.eval_every": 4, "growth.schedule": "0@0 2@0"}
    values = read(launch.begin(config_of("gpt2", overrides), tmp_path / "run").run().parent).values
    assert list(values[run_folder.EVAL_LOSS]) == [0, 2, 4]
    assert list(values[run_folder.EVAL_LOSS_AFTER_EVENT]) == [2]


WRONG = [
    {"operator": "heads", "at": 0.1, "to": 7},
    {"operator": "ffn", "at": 0.2, "to": 8},
    {"operator": "swap", "at": 0.3, "indices": [0, 1]},
    {"operator": "context", "at": 0.4, "to": 5},
    {"at": 0.5, "index": 4},
    {"at": 0.45, "index": 0, "donor": "q"},
    {"operator": "heads", "at": 0.6, "to": 4, "layers": ["z"]},
]


def test_every_mistake_of_a_schedule_is_reported_before_training(config_of, tmp_path):
    model = {"family": "gpt2", "config": WIDE["gpt2"], "initial_layers": 1, "initial_heads": 2}
    with pytest.raises(BadInput) as caught:
        config = config_of("gpt2", {"model": model, "growth.schedule": WRONG})
        launch.begin(config, tmp_path / "run")
    message = "\n".join(caught.value.mistakes)
    assert not (tmp_path / "run").exists()
    for line in ("event 3 (0.3 swap 0 1): index 1 is outside", "event 4 (0.4 context → 5): context 5 does not divide"):
        assert line in message
    assert "event 5 (0.5@4): index 4 is outside the stack" in message
    assert "event 6 (0.45@0): is earlier than the event listed before" in message
    assert "event 6 (0.45@0): the donor 'q' is not in the stack at that step (a)" in message
    assert "event 7 (0.6 heads → 4): layer 'z' is not in the stack at that step (a)" in message


def test_what_only_the_model_knows_is_reported_before_training_too(config_of, tmp_path):
    model = {"family": "llama", "config": WIDE["llama"], "initial_layers": 1, "initial_heads": 2}
    schedule = [{"operator": "heads", "at": 0.1, "to": 5}, {"operator": "ffn", "at": 0.2, "to": 8}]
    with pytest.raises(BadInput) as caught:
        launch.begin(config_of("llama", {"model": model, "growth.schedule": schedule}), tmp_path / "run")
    assert caught.value.mistakes == (
        "growth.schedule: event 1 (0.1 heads → 5): 5 heads cannot be divided into K/V groups of 2",
        "growth.schedule: event 2 (0.2 ffn → 8): every layer has 8 or more then",
    )
    assert not (tmp_path / "run").exists()
