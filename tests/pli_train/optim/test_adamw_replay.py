"""A run's optimizer beside a slow reference: plain torch.optim.AdamW on a separate parameter for every birth.

The reference cuts each tensor into pieces that were born together, by index arithmetic of its own, and gives each piece
its own AdamW, neither fused nor vectorised. It is fed the run's gradients as they are before clipping and does all
else itself: rates, clipping over what learns, freezing, and what growth does to moments and step counts. Only the
weights that an event makes are taken from the run: initializers are tested elsewhere.
"""

import copy
import itertools
import re
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from pli_train.api import Growth
from pli_train.core import anatomy
from pli_train.growth import schedule as growth_schedule
from pli_train.integrations import GrowthCallback
from pli_train.optim import optimizer
from pli_train.training import launch
from pli_train.training.callback import Callback
from tests import families
from tests.interrupted import KillAt, Killed
from tests.thinned import thinned
from tests.trainers import trainer_of

LR, STEPS, WARM, CLIP, DECAY, BETAS, EPS = 1e-2, 20, 5, 0.5, 0.1, (0.9, 0.99), 1e-8
FOUNDER = -1
ADAMW = partial(torch.optim.AdamW, betas=BETAS, eps=EPS)

SIZES = {
    "bert": {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 40, "max_position_embeddings": 32},
    "gpt2": {"n_embd": 48, "n_head": 6, "n_inner": 40, "n_positions": 32},
    "qwen3": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 40}
    | {"max_position_embeddings": 32, "head_dim": 8},
}
HEADS_IN_A_ROW = {"bert": 1, "gpt2": 1, "qwen3": 2}  # Qwen3's heads share keys and values by two

LAYOUT = {
    "bert": {
        **{f"attention.self.{name}.weight": (0, "heads", 1) for name in ("query", "key", "value")},
        **{f"attention.self.{name}.bias": (0, "heads", 1) for name in ("query", "key", "value")},
        "attention.output.dense.weight": (1, "heads", 1),
        "intermediate.dense.weight": (0, "ffn", 1),
        "intermediate.dense.bias": (0, "ffn", 1),
        "output.dense.weight": (1, "ffn", 1),
    },
    "gpt2": {
        "attn.c_attn.weight": (1, "heads", 3),
        "attn.c_attn.bias": (0, "heads", 3),
        "attn.c_proj.weight": (0, "heads", 1),
        "mlp.c_fc.weight": (1, "ffn", 1),
        "mlp.c_fc.bias": (0, "ffn", 1),
        "mlp.c_proj.weight": (0, "ffn", 1),
    },
    "qwen3": {
        **{f"self_attn.{name}_proj.weight": (0, "heads", 1) for name in "qkv"},
        "self_attn.o_proj.weight": (1, "heads", 1),
        "mlp.gate_proj.weight": (0, "ffn", 1),
        "mlp.up_proj.weight": (0, "ffn", 1),
        "mlp.down_proj.weight": (1, "ffn", 1),
    },
}
"""Family → tensor of a layer → (axis, what its rows are, how many blocks of all rows follow each other on the axis)."""


def by_id(name, stack):
    """`transformer.h.1.mlp.c_fc.bias` → `transformer.h.<b>.mlp.c_fc.bias`."""
    return re.sub(r"\.(\d+)\.", lambda found: f".<{stack[int(found[1])]}>.", name, count=1)


class Segment:
    """Rows of a tensor that were born together and have had the same updates, as a parameter of their own."""

    def __init__(self, rows, weights, born, make, state=None):
        self.rows, self.born = rows, born
        self.weights = torch.nn.Parameter(weights.detach().clone())
        self.adam = make([self.weights], foreach=False, weight_decay=DECAY if weights.dim() > 1 else 0.0)
        if state:
            self.adam.state[self.weights] = state

    @property
    def state(self):
        return self.adam.state.get(self.weights, {})


class Reference:
    """All pieces of a run's model, updated by the book.

    `make` makes an optimizer of parameters; `early` is 1 where the first step of the warm-up has a rate above 0.
    """

    def __init__(self, family, model, stack, make=ADAMW, early=1):
        self.family, self.events, self.segments, self.make, self.early = family, [], {}, make, early
        for name, tensor in self.tensors(model, stack).items():
            self.segments[name] = [self.segment(name, tensor, FOUNDER, self.all_rows(model, name))]

    @staticmethod
    def tensors(model, stack):
        return {by_id(name, stack): parameter for name, parameter in model.named_parameters()}

    def layout(self, name):
        return LAYOUT[self.family].get(name.partition(">.")[2]) if "<" in name else None

    def all_rows(self, model, name):
        """The rows of a founder's tensor, or of a newborn layer's; None where there are none to tell apart."""
        if self.layout(name) is None:
            return None
        return list(range({"heads": 2 // HEADS_IN_A_ROW[self.family], "ffn": 40}[self.layout(name)[1]]))

    def segment(self, name, tensor, born, rows, state=None):
        count = max(rows) + 1 if rows else None
        weights = self.cut(name, tensor, rows, count)
        return Segment(rows, weights, born, self.make, state)

    def count(self, name):
        return sum(len(segment.rows) for segment in self.segments[name]) if self.layout(name) else None

    def cut(self, name, tensor, rows, count):
        """The elements of some rows of a tensor that has `count` rows, one row after the other."""
        if rows is None:
            return tensor
        axis, _, blocks = self.layout(name)
        width = tensor.shape[axis] // blocks // count
        starts = [[block * width * count + row * width for block in range(blocks)] for row in rows]
        taken = [start + i for row in starts for start in row for i in range(width)]
        return tensor.index_select(axis, torch.tensor(taken))

    # --- an update ----------------------------------------------------------------------------------------------------

    def rate(self, step):
        past = [event for event in self.events if event["at"] <= step]
        rewound = [event["at"] for event in past if event["learning_rate"] == "rewind"]
        if rewound:
            rate = LR * (1 - (step - max(rewound)) / (STEPS - max(rewound)))
        else:
            rate = LR * ((step + self.early) / WARM if step < WARM else 1 - (step - WARM) / (STEPS - WARM))
        return rate * min([1, *(self.climbed(event, step) for event in past if event["learning_rate"] == "rewarm")])

    @staticmethod
    def climbed(event, step):
        return min(1, (step - event["at"] + 1) / event["rewarm_steps"])

    def update_scale(self, segment, step):
        """0 while frozen, a share while warming up alone, else 1."""
        freezing = [e["at"] for e in self.events if e["at"] <= step < e["at"] + e.get("freeze_steps", 0)]
        if freezing and segment.born < max(freezing):
            return 0
        own = [e for e in self.events if e["at"] == segment.born and e["learning_rate"] == "rewarm-new"]
        return min([1, *(self.climbed(event, step) for event in own)])

    def update(self, step, gradients):
        moving = []
        for name, segments in self.segments.items():
            for segment in segments:
                segment.weights.grad = None
                if update_scale := self.update_scale(segment, step):
                    segment.weights.grad = self.cut(name, gradients[name], segment.rows, self.count(name)).clone()
                    segment.adam.param_groups[0]["lr"] = self.rate(step) * update_scale
                    moving.append(segment)
        norm = sum(segment.weights.grad.double().square().sum().item() for segment in moving) ** 0.5
        for segment in moving:
            segment.weights.grad *= min(1, CLIP / (norm + 1e-6))
            segment.adam.step()
        return norm

    # --- an event -----------------------------------------------------------------------------------------------------

    def grow(self, event, model, lineage):
        self.events.append(event)
        tensors, old = self.tensors(model, lineage.stack), dict(self.segments)
        for name, tensor in tensors.items():
            if name not in old:
                self.segments[name] = self.newborn_layer(name, tensor, event, lineage)
            elif self.layout(name) and self.layout(name)[1] == event.get("operator"):
                self.segments[name] = old[name] + self.newborn_rows(name, tensor, event, lineage)
        for name, tensor in tensors.items():
            for segment in self.segments[name]:
                segment.weights.data.copy_(self.cut(name, tensor.detach(), segment.rows, self.count(name)))
                if event["optimizer_state"] == "reset-all":
                    segment.adam.state.clear()

    def newborn_layer(self, name, tensor, event, lineage):
        layer = re.search("<(.+?)>", name)[1]
        relatives = lineage.layers[layer].birth.donor or lineage.stack[max(event["index"] - 1, 0)]
        if relatives == layer:  # drawn at random below all others
            relatives = lineage.stack[1]
        like = self.segments[name.replace(f"<{layer}>", f"<{relatives}>")]
        if event["optimizer_state"] == "copy":
            return [
                Segment(segment.rows, segment.weights, event["at"], self.make, copied(segment.state))
                for segment in like
            ]
        rows = None if like[0].rows is None else [row for segment in like for row in segment.rows]
        return [self.segment(name, tensor, event["at"], rows)]

    def newborn_rows(self, name, tensor, event, lineage):
        had = self.count(name)
        if event.get("layers") and re.search("<(.+?)>", name)[1] not in event["layers"]:
            return []
        has = event["to"] // (HEADS_IN_A_ROW[self.family] if event["operator"] == "heads" else 1)
        if has <= had:
            return []
        donors = {row: row % had for row in range(had, has)}
        if event["optimizer_state"] != "copy":
            return [Segment([*donors], self.cut(name, tensor, [*donors], has), event["at"], self.make)]
        born = []
        for segment in self.segments[name]:
            rows = [row for row, donor in donors.items() if donor in segment.rows]
            if rows:
                state = copied(segment.state)
                locations = [segment.rows.index(donors[row]) for row in rows]
                for entry in state.keys() - {"step"}:
                    each = state[entry].chunk(len(segment.rows), self.layout(name)[0])
                    state[entry] = torch.cat([each[position] for position in locations], self.layout(name)[0])
                born.append(Segment(rows, self.cut(name, tensor, rows, has), event["at"], self.make, state))
        return born

    # --- beside the run -----------------------------------------------------------------------------------------------

    def compare(self, step, model, adam, stack):
        """Weights, moments and step counts of a run after so many steps against all pieces."""
        tensors = self.tensors(model, stack)
        kept = optimizer.state_tensors(adam, model, anatomy.family(self.family), stack)
        assert tensors.keys() == self.segments.keys()
        for name, tensor in tensors.items():
            counts = kept.get(f"row_step/{name}", kept.get(f"step/{name}", torch.zeros(())))
            theirs = {"weights": tensor.detach(), "step": counts.expand(tensor.shape)}
            theirs |= {e: kept.get(f"{e}/{name}", torch.zeros_like(tensor)) for e in ("exp_avg", "exp_avg_sq")}
            for segment in self.segments[name]:
                mine = {"weights": segment.weights.detach(), **segment.state}
                for entry, value in theirs.items():
                    found = self.cut(name, value, segment.rows, self.count(name))
                    wanted = torch.as_tensor(mine.get(entry, 0.0)).expand(found.shape)
                    # Moments are far below 1, so they are also held to a share of the largest: torch's own clipping
                    # adds up in float32, and Adam's weight decay takes the last bits of the weights along.
                    free = 1e-6 if entry == "weights" else min(1e-6, 1e-5 * wanted.abs().max().item())
                    where = (step, name, segment.rows, segment.born, entry)
                    assert (found - wanted).abs().max().item() <= free, where


def copied(state):
    return copy.deepcopy(dict(state))


# --- runs -------------------------------------------------------------------------------------------------------------

POLICIES = [
    {"optimizer_state": state, "learning_rate": rate, "freeze_steps": freeze, "rewarm_steps": 4}
    for rate, state, freeze in itertools.product(
        ("none", "rewarm-new", "rewarm", "rewind"), ("zero", "copy", "reset-all"), (0, 2)
    )
]


def schedule(number):
    """Two events of each kind that something is born of, and a swap and a longer context between them.

    Over twelve numbers every operator meets every policy.
    """
    born = [
        {"at": 2, "operator": "heads", "to": 4, "layers": ["a"]},
        {"at": 4, "index": 1},
        {"at": 6, "operator": "ffn", "to": 52},
        {"at": 10, "operator": "heads", "to": 6, "output": "kept"},
        {"at": 12, "index": 0, "donor": "above"},
        {"at": 15, "operator": "ffn", "to": 64, "layers": ["a", "c"]},
    ]
    events = []
    for position, event in enumerate(born):
        policy = POLICIES[(2 * number + position // 3 + 5 * (position % 3)) % len(POLICIES)]
        random = policy["optimizer_state"] != "copy" and (number + position) % 2
        events.append({**event, **policy, "initializer": "random" if random else "clone-noise", "noise": 0.1})
    calm = {"optimizer_state": "zero", "learning_rate": "none"}
    between = [
        {"at": 0, "operator": "context", "to": 16, **calm},
        {"at": 8, "operator": "swap", "indices": [0, 1], **calm},
        {"at": 9, "operator": "context", "to": 32, **calm, "learning_rate": "rewarm", "rewarm_steps": 3},
    ]
    return sorted([*events, *between], key=lambda event: event["at"])


def complete(events):
    """The events with the default values of what they leave out."""
    return [event.model_dump() for event in growth_schedule.read(events)]


def config_with(config_of, family, events):
    return config_of(
        overrides={
            "model": {"family": family, "config": SIZES[family], "initial_layers": 1, "initial_heads": 2},
            "growth": {"schedule": events},
            "optim": {"lr": LR, "warmup_ratio": WARM / STEPS, "weight_decay": DECAY, "beta1": BETAS[0]}
            | {"beta2": BETAS[1], "eps": EPS, "schedule": "linear", "lr_end": 0.0},
            "train": {"steps": STEPS, "block_size": 32, "batch_size": 2, "accumulation": 1, "clip_norm": CLIP}
            | {"eval_every": 100, "eval_blocks": 2},
            "checkpoint": {"every": 7, "full_last": 99},
        },
    )


class Replay(Callback):
    """Lets the reference do what a run's trainer does, step by step, and compares the two after each."""

    def __init__(self, family, events):
        self.family, self.events = family, complete(events)
        self.reference, self.gradients, self.norms = None, None, []

    def on_train_begin(self, state, total_steps):
        if self.reference is None:
            self.reference = Reference(self.family, state.model.bare, state.lineage.stack)

    def on_gradients(self, state):
        self.gradients = {id(p): p.grad.clone() for p in state.model.bare.parameters() if p.grad is not None}

    def on_step_end(self, state):
        named = Reference.tensors(state.model.bare, state.lineage.stack)
        gradients = {name: self.gradients.get(id(p)) for name, p in named.items()}
        self.norms.append(self.reference.update(state.step - 1, gradients))
        self.compare(state)

    def on_growth(self, state, event):
        self.reference.grow(self.events[len(state.lineage.events) - 1], state.model.bare, state.lineage)
        self.compare(state)

    def compare(self, state):
        self.reference.compare(state.step, state.model.bare, state.optimizer, state.lineage.stack)


@pytest.mark.parametrize("number", thinned(range(4)))
@pytest.mark.parametrize("family", SIZES)
def test_weights_moments_and_counts_are_those_of_separate_parameters(config_of, family, number, tmp_path):
    events = schedule(4 * sorted(SIZES).index(family) + number)
    config, replay = config_with(config_of, family, events), Replay(family, events)
    launch.begin(config, tmp_path / "run", callbacks=[replay]).run()
    assert len(replay.norms) == STEPS
    assert max(replay.norms) > CLIP  # the reference's own clipping had something to do


def test_every_operator_meets_every_policy():
    met = {
        (event.get("operator", "insert"), *(event[key] for key in ("optimizer_state", "learning_rate", "freeze_steps")))
        for number in range(12)
        for event in schedule(number)
        if "freeze_steps" in event
    }
    assert len(met) == 3 * len(POLICIES)


@pytest.mark.parametrize("family", SIZES)
def test_a_resumed_run_is_replayed_too(config_of, family, tmp_path):
    """Killed while heads that were born at step 10 learn beside frozen ones, and resumed from step 14."""
    events = [event | {"freeze_steps": 6} if event["at"] == 10 else event for event in schedule(0)]
    config, replay = config_with(config_of, family, events), Replay(family, events)
    with pytest.raises(Killed):
        launch.begin(config, tmp_path / "run", callbacks=[KillAt(14), replay]).run()
    launch.resume(config, tmp_path / "run", callbacks=[replay]).run()
    assert len(replay.norms) == STEPS


# --- other people's loops ---------------------------------------------------------------------------------------------


def small(family):
    """A model of one layer with room for more heads, without dropout."""
    return families.tiny(family, **SIZES[family], **{anatomy.family(family).config["depth"]: 1})


def without_context(number):
    return [event for event in schedule(number) if event.get("operator") != "context"]


KINDS = {
    "adamw": (ADAMW, {}),
    "fused": (ADAMW, {"fused": True}),
    "amsgrad": (partial(ADAMW, amsgrad=True), {}),
    "adam": (partial(torch.optim.Adam, betas=BETAS, eps=EPS), {}),  # weight decay goes into its moments
}


@pytest.mark.parametrize(
    ("kind", "family", "number"),
    [("adamw", "gpt2", 1), ("fused", "bert", 4), ("amsgrad", "qwen3", 6), ("adam", "gpt2", 9)],
)
def test_one_s_own_loop_does_the_same(kind, family, number):
    """With a state dict that goes through torch's own loading in the middle."""
    make, how = KINDS[kind]
    model, events = small(family), without_context(number)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    adam = make(groups, lr=LR, **how)
    curve = LambdaLR(adam, lambda s: (s + 1) / WARM if s < WARM else 1 - (s - WARM) / (STEPS - WARM))
    message = {"total_steps": STEPS, "scheduler": curve, "warmup_steps": WARM}
    growing = Growth(events, seed=3).on(model, adam, initial_heads=2, **message)
    reference = Reference(family, model, growing.lineage.stack, make)
    for step in range(STEPS):
        if growing.step(step):
            event = growing.planned[len(growing.lineage.events) - 1].event
            reference.grow(event.model_dump(), model, growing.lineage)
        loss = model(**families.inputs(model)).logits.log_softmax(-1)[..., step % 7].mean()
        loss.backward()
        raw = {
            name: p.grad.clone()
            for name, p in Reference.tensors(model, growing.lineage.stack).items()
            if has_gradient(p)
        }
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        adam.step()
        adam.zero_grad(set_to_none=step % 2 == 0)
        curve.step()
        reference.update(step, raw)
        reference.compare(step + 1, model, adam, growing.lineage.stack)
        if step == 12:
            adam.load_state_dict(copy.deepcopy(adam.state_dict()))


def has_gradient(parameter):
    return parameter.grad is not None


class RunWatcher(TrainerCallback):
    """Lets the reference do what Hugging Face's Trainer does; stands after the GrowthCallback."""

    def __init__(self, family, growth, events, patch):
        self.family, self.growth, self.events, self.reference = family, growth, complete(events), None
        clip = Accelerator.clip_grad_norm_

        def watched(accelerator, parameters, *args, **named):
            parameters = list(parameters)
            self.gradients = {id(p): p.grad.clone() for p in parameters if has_gradient(p)}
            return clip(accelerator, parameters, *args, **named)

        patch.setattr(Accelerator, "clip_grad_norm_", watched)

    def on_step_begin(self, args, state, control, **its):
        lineage, model = self.growth.lineage, its["model"]
        if self.reference is None:
            self.reference = Reference(self.family, model, lineage.stack, early=0)
        if len(lineage.events) > len(self.reference.events):
            self.reference.grow(self.events[len(lineage.events) - 1], model, lineage)

    def on_step_end(self, args, state, control, **its):
        stack, model = self.growth.lineage.stack, its["model"]
        named = Reference.tensors(model, stack)
        self.reference.update(state.global_step - 1, {n: self.gradients.get(id(p)) for n, p in named.items()})
        self.reference.compare(
            state.global_step, model, getattr(its["optimizer"], "optimizer", its["optimizer"]), stack
        )


@pytest.mark.parametrize(("family", "number"), [("bert", 2), ("gpt2", 5), ("qwen3", 10)])
def test_hugging_face_s_trainer_does_the_same(family, number, tmp_path, monkeypatch):
    events = without_context(number)
    growth = GrowthCallback(events, initial_heads=2)
    watching = RunWatcher(family, growth, events, monkeypatch)
    more = {"max_steps": STEPS, "warmup_steps": WARM, "save_steps": 99, "max_grad_norm": CLIP, "weight_decay": DECAY}
    more |= {"learning_rate": LR, "adam_beta1": BETAS[0], "adam_beta2": BETAS[1], "adam_epsilon": EPS}
    made = trainer_of(family, tmp_path, model=small(family), **more)
    for callback in (growth, watching):
        made.add_callback(callback)
    growth.on_init_end(made.args, made.state, made.control, model=made.model)
    made.train()
    assert len(watching.reference.events) == 7
