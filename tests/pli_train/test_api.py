"""Growth from Python: a run in one call, and growth alone in one's own loop."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pli_train import Growth, train
from pli_train.config import loading
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from tests import families
from tests.conftest import MODELS

STEPS = 60


class MLP(nn.Module):
    """A residual MLP on 8 numbers."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(2))
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(x).squeeze(-1)


class ConvNet(nn.Module):
    """A residual ConvNet on 1 × 4 × 4 images, with batch norms."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        blocks = (nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()) for _ in range(2))
        self.stages = nn.ModuleDict({"main": nn.ModuleList(blocks)})
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        x = self.stem(x.reshape(-1, 1, 4, 4))
        for block in self.stages["main"]:
            x = x + block(x)
        return self.head(x.mean((2, 3))).squeeze(-1)


KINDS = {"mlp": (MLP, 8, "blocks"), "conv": (ConvNet, 16, "stages.main")}


def own_loop(kind, growth, until=STEPS, begin=0, restore=None, **on):
    """One's own loop, from `begin` to `until`; returns what it leaves and what it saw."""
    torch.manual_seed(0)
    make, width, stack = KINDS[kind]
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    growing = growth.on(model, optimizer, stack=stack, total_steps=STEPS, **on)
    if restore:
        growing.catch_up(Lineage.from_json(restore["lineage"]))
        for each, state in zip((model, optimizer, scheduler), restore["states"], strict=True):
            each.load_state_dict(state)
    grew, losses, rates = [], [], []
    for step in range(begin, until):
        if growing.step(step):
            grew.append(step)
        x = torch.randn(32, width, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.square().mean(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        rates.append([group["lr"] for group in optimizer.param_groups])
    return model, optimizer, scheduler, growing, grew, losses, rates


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", [{}, {"optimizer_state": "copy"}, {"initializer": "random", "freeze_steps": 5}])
def test_any_module_grows_in_one_s_own_loop(kind, fields):
    growth = Growth("0.25@1 30@3", **fields)
    model, optimizer, _, growing, grew, losses, rates = own_loop(kind, growth)
    assert grew == [15, 30]
    assert str(growing.lineage) == "a c b d"
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert rates == [[pytest.approx(1e-2 * (1 - (step + 1) / STEPS))] for step in range(STEPS)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["none", "rewarm", "rewarm-new"])
def test_one_s_own_loop_resumes_with_the_same_bits(kind, policy):
    growth = Growth("15@1 30@0", initializer="clone-noise", noise=0.1, learning_rate=policy, rewarm_steps=20)
    whole = own_loop(kind, growth)
    model, optimizer, scheduler, growing, *_ = own_loop(kind, growth, until=35)
    states = [each.state_dict() for each in (model, optimizer, scheduler)]
    restore = {"lineage": growing.lineage.to_json(), "states": states}
    again = own_loop(kind, growth, begin=35, restore=restore)
    for name, tensor in whole[0].state_dict().items():
        assert torch.equal(tensor, again[0].state_dict()[name]), name


def test_a_lineage_is_saved_as_the_rest_of_the_project_reads_it(tmp_path):
    growing = own_loop("mlp", Growth("5@1"), until=10)[3]
    growing.save(tmp_path / "lineage.json")
    assert Lineage.read(tmp_path / "lineage.json").to_json() == growing.lineage.to_json()


def test_a_module_keeps_to_an_optimizer_of_another_kind():
    torch.manual_seed(0)
    model = MLP()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    growing = Growth("1@1", optimizer_state="copy").on(model, optimizer)
    for step in range(3):
        growing.step(step)
        model(torch.ones(2, 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert set(optimizer.state) == set(model.parameters())


def test_without_a_scheduler_the_rate_is_what_the_owner_set():
    model = MLP()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    growing = Growth("1@1", learning_rate="rewarm", rewarm_steps=4).on(model, optimizer)
    used = []
    optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    for step in range(6):
        growing.step(step)
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == 0.1
    assert used == pytest.approx([0.1, 0.025, 0.05, 0.075, 0.1, 0.1])


def test_moments_of_what_waits_stand_still_even_under_gradients_that_are_zeroed_in_place():
    model = MLP()
    optimizer = torch.optim.AdamW(model.parameters())
    growing = Growth("2@1", freeze_steps=3).on(model, optimizer)
    old = model.blocks[0][1].weight
    moments = []
    for step in range(6):
        growing.step(step)
        optimizer.zero_grad(set_to_none=False)
        model(torch.ones(2, 8)).sum().backward()
        optimizer.step()
        moments.append((int(optimizer.state[old]["step"]), optimizer.state[old]["exp_avg"].sum().item()))
    assert [count for count, _ in moments] == [1, 2, 2, 2, 2, 3]
    assert moments[1] == moments[4] != moments[5]


def test_what_the_owner_froze_stays_frozen_and_out_of_the_optimizer():
    model = MLP()
    model.blocks[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    growing = Growth("0@1 0@3", freeze_steps=2).on(model, optimizer)
    growing.step(0)
    growing.step(5)
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    assert learning == {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not any(p.requires_grad for p in model.blocks[0].parameters())
    assert all(p.requires_grad for p in model.blocks[3].parameters())


def test_heads_grow_in_one_s_own_loop_on_a_hugging_face_model():
    model = families.tiny("bert")
    optimizer = torch.optim.AdamW(model.parameters())
    growing = Growth([{"at": 1, "operator": "heads", "to": 4}]).on(model, optimizer, initial_heads=2)
    before = families.logits(model)
    growing.step(1)
    torch.testing.assert_close(families.logits(model), before, atol=1e-5, rtol=0)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    ("growth", "on", "line"),
    [
        (lambda: Growth("0.25@x"), {}, "'0.25@x' is not WHEN@INDEX"),
        (lambda: Growth("1@1", initialzer="clone"), {}, "did you mean 'initializer'"),
        (lambda: Growth("0.5@1"), {}, "a share of training needs total_steps"),
        (lambda: Growth("5@1"), {"total_steps": 4}, "outside training, which has 4 steps"),
        (lambda: Growth("1@1", initializer="identity"), {}, "needs a family whose parameter table"),
        (lambda: Growth("1@7"), {}, "index 7 is outside the stack"),
        (lambda: Growth("1@1", swapping={"probability": 0.5}), {}, "`pli-train run` only"),
        (lambda: Growth([{"at": 1, "operator": "context", "to": 8}]), {}, "the context length is set by your own data"),
        (lambda: Growth("1@1"), {"stack": "layers"}, "no list of equal blocks there"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(growth, on, line):
    model = MLP()
    with pytest.raises(BadInput, match=line):
        growth().on(model, torch.optim.SGD(model.parameters(), lr=0.1), **on)


def test_a_wrapped_model_and_a_rewind_without_a_curve_are_refused():
    model = MLP()
    with pytest.raises(BadInput, match="pass the bare model"):
        Growth("1@1").on(nn.DataParallel(model), torch.optim.SGD(model.parameters(), lr=0.1))
    growing = Growth("1@1", learning_rate="rewind").on(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(BadInput, match="LambdaLR"):
        growing.step(0)


def call(corpus):
    return {
        "model": {"family": "gpt2", "config": MODELS["gpt2"], "initial_layers": 1},
        "data": {"source": str(corpus), "test_share": 0.2},
        "steps": 6,
        "tokenizer": {"vocab_size": 300},
        "train": {"block_size": 32, "batch_size": 4, "eval_blocks": 8},
        "optim": {"lr": 1e-2},
        "seed": 3,
    }


def test_a_call_gives_the_same_bits_as_a_toml_file(corpus, tmp_path):
    growth = Growth("0.5@1", initializer="clone-noise", noise=0.1)
    folder = train(**call(corpus), growth=growth, out=tmp_path / "called", quiet=True)
    assert folder == tmp_path / "called"
    (tmp_path / "run.toml").write_text(
        f"""
name = "called"
seed = 3
model = {{ family = "gpt2", config = {{ n_embd = 32, n_head = 2, n_positions = 32 }}, initial_layers = 1 }}
data = {{ source = "{corpus}", test_share = 0.2 }}
tokenizer = {{ vocab_size = 300 }}
train = {{ steps = 6, block_size = 32, batch_size = 4, eval_blocks = 8 }}
optim = {{ lr = 1e-2 }}
growth = {{ schedule = "0.5@1", initializer = "clone-noise", noise = 0.1 }}
"""
    )
    from pli_train.training import launch

    settings = loading.load(str(tmp_path / "run.toml"))
    launch.begin(settings, tmp_path / "filed").run()
    records = [run_folder.read_json(tmp_path / name / "run.json")["config"] for name in ("called", "filed")]
    assert records[0] == records[1]
    for name in ("model.safetensors", "optimizer.safetensors", "lineage.json"):
        called, filed = ((tmp_path / run / "checkpoint-6" / name).read_bytes() for run in ("called", "filed"))
        assert called == filed, name


@pytest.mark.parametrize("growth", ["0.5@1", [{"at": 0.5, "index": 1}], {"schedule": "0.5@1"}, Growth("0.5@1", seed=3)])
def test_growth_may_be_given_in_any_form(corpus, growth):
    from pli_train.api import config_of

    message = call(corpus)
    given = [message.pop(key) for key in ("model", "data", "steps")]
    made = config_of(*given, growth, "runs/x", None, message)
    assert made.name == "x"
    assert made.seed == 3
    from pli_train.growth.initial_shape import InitialShape

    assert [(event.at, event.index) for event in made.growth.events(InitialShape(1), 6)] == [(0.5, 1)]


def test_a_preset_may_be_the_start():
    from pli_train.api import config_of

    made = config_of("bert", "python", 50, "0.5@1", None, "tiny", {"optim": {"lr": 1e-3}})
    assert (made.model.family, made.train.steps, made.optim.lr, made.name) == ("bert", 50, 1e-3, "tiny")
    assert made.tokenizer == loading.load("tiny").tokenizer


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ({"model": "gpt2", "steps": 5, "optim": {"learning_rate": 1}}, "did you mean 'optim.lr'"),
        ({"steps": 5}, "model: is missing"),
        ({"model": "gpt2", "steps": 5, "optimizer": {}}, "optimizer: unknown key"),
        ({"preset": "tinny"}, "did you mean 'tiny'"),
        ({"model": "gpt2", "steps": 5, "seed": 1, "growth": Growth("", seed=2)}, "give one of them"),
    ],
)
def test_mistakes_of_a_call_are_those_of_a_file(message, line, tmp_path):
    with pytest.raises(BadInput, match=line):
        train(**message, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_importing_the_package_loads_nothing_heavy():
    ask = "import pli_train, pli_train.integrations, sys; print(*{name.split('.')[0] for name in sys.modules})"
    root = Path(__file__).parent.parent.parent
    loaded = subprocess.run([sys.executable, "-c", ask], cwd=root, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "pydantic", "numpy"} & set(loaded.stdout.split())
