"""Any sequence of valid events, on any family: all that names a layer, a head or a unit agrees with the model."""

import copy
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import TrainerState

from pli_train.checkpointing import checkpoint
from pli_train.core import anatomy
from pli_train.core.lineage import BadLineage, Lineage
from pli_train.core.run_format import run_folder
from pli_train.growth.initial_shape import start_of
from pli_train.growth.initializers import INITIALIZERS
from pli_train.growth.operators.ffn import WidenFFN
from pli_train.growth.operators.heads import AddHeads
from pli_train.growth.operators.insert import Insert
from pli_train.growth.operators.swap import Swap
from pli_train.models import build as models
from pli_train.models import resize
from pli_train.optim import optimizer, row_steps
from pli_train.optim.config import OptimConfig
from pli_train.training.trainer_state import OURS
from tests.families import TINY, tiny
from tests.growing import logits, step_of

PARTS = {
    "initializer": st.sampled_from(["random", "clone", "clone-noise"]),
    "output": st.sampled_from(["zero", "kept"]),
}
STATE = st.sampled_from(["zero", "reset-all"])
OPERATORS = st.one_of(
    st.builds(
        Insert,
        at=st.just(0),
        index=st.integers(0, 4),
        initializer=st.sampled_from(sorted(INITIALIZERS)),
        donor=st.sampled_from(["below", "above"]),
        noise=st.just(0.1),
        optimizer_state=STATE,
    ),
    st.builds(AddHeads, at=st.just(0), to=st.integers(1, 8), optimizer_state=STATE, **PARTS),
    st.builds(WidenFFN, at=st.just(0), to=st.integers(1, 90), optimizer_state=STATE, **PARTS),
    st.builds(Swap, at=st.just(0), indices=st.tuples(st.integers(0, 3), st.integers(0, 3)), optimizer_state=STATE),
)


def agrees(model, parts, lineage, adam):
    """Stack, heads, units, config and optimizer are what the lineage says."""
    layers = models.stack_of(model, parts)
    sizes = [resize.sizes_of(layer, parts, model.config) for layer in layers]
    assert [(size["head"], size["unit"]) for size in sizes] == lineage.shapes()
    assert getattr(model.config, parts.config["depth"]) == len(layers) == len(lineage.stack)
    assert getattr(model.config, parts.config["units"]) == max(units for _, units in lineage.shapes())
    assert getattr(model.config, parts.config["heads"]) >= max(heads for heads, _ in lineage.shapes())
    grouped = [id(p) for group in adam.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted({id(p) for p in model.parameters()})
    for group in adam.param_groups:
        assert {p.dim() > 1 for p in group["params"]} <= {group["weight_decay"] > 0}
    for parameter, state in adam.state.items():
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape
        counts = row_steps.of(state, [1] * parameter.dim(), parameter.device)
        assert counts.expand(parameter.shape).numel() and (counts <= state["step"]).all()
    assert Lineage.from_json(lineage.to_json()) == lineage


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(family=st.sampled_from(sorted(TINY)), events=st.lists(OPERATORS, min_size=1, max_size=6))
def test_any_valid_sequence_of_events_keeps_everything_consistent(family, events):
    parts, model = anatomy.family(family), tiny(family)
    few = parts.sizes(model.config)["member"]
    start = start_of(model, parts, len(models.stack_of(model, parts)), few, None)
    lineage = start.lineage()
    models.shrink(model, parts, lineage.shapes())
    models.sync_config(model, parts)
    adam = optimizer.build(model, OptimConfig())
    step_of(model, adam)
    for number, event in enumerate(events):
        try:
            recorded = copy.deepcopy(lineage)
            event.record(recorded, step=number)
        except BadLineage:
            continue  # what a rehearsal refuses never reaches a model
        if event.misfit(start):
            continue
        origins = event.grow(model, parts, lineage, seed=number)
        lineage = recorded
        optimizer.grow(adam, origins, event.optimizer_state)
        model.eval()
        agrees(model, parts, lineage, adam)
        step_of(model, adam)
        assert torch.isfinite(logits(model)).all()
    with tempfile.TemporaryDirectory() as folder:
        kept = [Path(folder) / side for side in ("first", "second")]
        for path in kept:
            path.mkdir()
        name = run_folder.CheckpointName(len(events))
        ours = {OURS: {"tokens": 0, "flops": 0, "seconds": 0.0}}
        state = TrainerState(global_step=len(events), stateful_callbacks=ours)
        first = checkpoint.write(kept[0], name, model, parts, adam, lineage, state)
        found = checkpoint.read(first)
        assert found.lineage == lineage
        assert torch.equal(logits(found.model.eval()), logits(model))
        again = optimizer.build(found.model, OptimConfig())
        optimizer.load_state(again, found.model, parts, lineage.stack, found.optimizer)
        agrees(found.model, parts, found.lineage, again)
        second = checkpoint.write(kept[1], name, found.model, parts, again, found.lineage, state)
        for file in (run_folder.WEIGHTS, run_folder.OPTIMIZER, run_folder.LINEAGE, run_folder.CONFIG):
            assert (first / file).read_bytes() == (second / file).read_bytes(), file
