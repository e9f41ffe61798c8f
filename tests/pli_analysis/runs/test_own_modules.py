"""Modules that are not Hugging Face's, grown from Python: layers are found at the path that the lineage records."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import pli_analysis as pli
from pli_train import Growth
from pli_train.core.errors import BadInput
from pli_train.core.lineage import BadLineage, Lineage
from pli_train.core.run_format import run_folder
from tests.commands import call

WIDTH = 8


class Block(nn.Module):
    """A transformer block."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.ffn = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.ffn(x)


class Net(nn.Module):
    """Two stacks; the one that grows has fewer weights at first. Input and output share their weights."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH, bias=False)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Block() for _ in range(6))})
        self.decoder = nn.ModuleDict({"blocks": nn.ModuleList([Block()])})
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        x = self.embed(x)
        for block in (*self.encoder["layers"], *self.decoder["blocks"]):
            x = block(x)
        return self.out(x)


def flat(model, stack="decoder.blocks"):
    """The weights of each layer of a stack, one vector each."""
    return [nn.utils.parameters_to_vector(layer.parameters()).detach().double() for layer in model.get_submodule(stack)]


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A folder of checkpoints of a net that gained two layers, and id → (step → weights) of its layers."""
    torch.manual_seed(0)
    folder, model, weights = tmp_path_factory.mktemp("net") / "out", Net(), {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    growing = Growth("2@1 4@0").on(model, optimizer, stack="decoder.blocks")
    for step in range(7):
        if growing.due(step):
            growing.save_checkpoint(folder, step, before=True)
        growing.step(step)
        growing.save_checkpoint(folder, step)
        for id, vector in zip(growing.lineage.stack, flat(model), strict=True):
            weights.setdefault(id, {})[step] = vector
        x = torch.randn(4, 5, WIDTH)
        optimizer.zero_grad()
        (model(x) - x.flip(1)).square().mean().backward()
        optimizer.step()
    return folder, weights


def test_drift_follows_the_layers_of_the_recorded_stack(grown):
    folder, weights = grown
    lineage = Lineage.read(folder / "checkpoint-6" / run_folder.LINEAGE)
    assert (str(lineage), lineage.stack_path) == ("c a b", "decoder.blocks")
    done = call("pli-analyze", "drift", folder, "-f", "json")
    assert done.returncode == 0, done.stderr
    assert "only whole layers are measured, at 'decoder.blocks'" in done.stderr
    found = {(row["part"], row["step"]): row["relative_l2"] for row in json.loads(done.stdout)}
    for id, steps in weights.items():
        birth = steps[min(steps)]
        for step, vector in steps.items():
            expected = ((vector - birth).norm() / birth.norm()).item()
            assert found[id, step] == pytest.approx(expected, rel=1e-5, abs=1e-9), (id, step)
    assert {id for id, _ in found} == set("abc")


def test_another_stack_can_still_be_selected(grown):
    folder, _ = grown
    last = pli.open_run(folder / "checkpoint-6", stack="encoder.layers", lineage=None)
    with pytest.raises(BadInput, match="lists only 3 layers"):  # as the lineage is that of the grown stack
        _ = last.checkpoints[0].names_of_layers


def test_maps_and_similarities_of_weights(grown):
    folder, weights = grown
    run = pli.open(folder)
    points = run.embed(of="layer")
    assert {tuple(row) for row in points[["layer", "step"]].to_numpy()} >= {(id, 6) for id in "abc"}
    # PCA keeps the distances between all points as far as two axes can: not more than the distances themselves.
    last = points[points["step"] == 6].drop_duplicates("layer").set_index("layer")
    for one, other in ("ab", "ac", "bc"):
        drawn = np.hypot(*(last.loc[one, axis] - last.loc[other, axis] for axis in ("x", "y")))
        assert 0 < drawn <= (weights[one][6] - weights[other][6]).norm().item() * (1 + 1e-5)
    done = call("pli-analyze", "similarity", folder, "--space", "weights", "-f", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {frozenset((row["layer_a"], row["layer_b"])) for row in rows} >= {frozenset("ab"), frozenset("ac")}


def test_files_without_a_recorded_path_are_read_as_before(grown, tmp_path):
    text = (grown[0] / "checkpoint-6" / run_folder.LINEAGE).read_text()
    assert text.count('"stack_path": "decoder.blocks",\n') == 1
    old = Lineage.from_json(text.replace('"stack_path": "decoder.blocks",\n', ""))
    assert old.stack_path is None and old.stack == list("cab") and "stack_path" not in old.to_json()
    assert Lineage.from_json(text).as_of(1).stack_path == "decoder.blocks"
    with pytest.raises(BadLineage, match="stack_path: 3 is not a dotted path"):
        Lineage.from_json(text.replace('"decoder.blocks"', "3"))
    # A training whose lineage has no path goes on, and records it from then on.
    growing = Growth("2@1 4@0").on(Net(), stack="decoder.blocks")
    growing.catch_up(old)
    assert growing.lineage.stack_path == "decoder.blocks"
    other = Growth("2@1 4@0").on(Net(), stack="encoder.layers")
    with pytest.raises(BadInput, match="comes from another model, schedule or seed"):
        other.catch_up(Lineage.from_json(text))


def test_the_only_list_needs_no_name_and_weights_may_lack_the_prefix(tmp_path):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block()])

    growing = Growth("1@1").on(Inner())
    growing.step(1)
    path = growing.save_checkpoint(tmp_path, 1)
    assert Lineage.read(path / run_folder.LINEAGE).stack_path == "blocks"
    text = (path / run_folder.LINEAGE).read_text().replace('"blocks"', '"net.blocks"')
    (path / run_folder.LINEAGE).write_text(text)
    assert pli.open_run(path).checkpoints[0].anatomy.stack == "blocks"
    (path / run_folder.LINEAGE).write_text(text.replace("net.blocks", "net.stacks"))
    with pytest.raises(BadInput, match=r"stack 'net\.stacks': there are no layers .*: blocks\)"):
        _ = pli.open_run(path).checkpoints


def test_a_checkpoint_is_not_overwritten_and_loads_into_the_module(grown):
    from safetensors.torch import load_model

    growing, model = Growth("2@1 4@0").on(start := Net(), stack="decoder.blocks"), start
    growing.catch_up(Lineage.read(grown[0] / "checkpoint-6" / run_folder.LINEAGE))
    load_model(model, grown[0] / "checkpoint-6" / run_folder.WEIGHTS)
    for id, vector in zip(growing.lineage.stack, flat(model), strict=True):
        assert torch.equal(vector, grown[1][id][6])
    with pytest.raises(BadInput, match="checkpoint-6: already exists; name another folder"):
        growing.save_checkpoint(grown[0], 6)


def test_families_with_a_table_record_no_path():
    from tests.families import tiny

    growing = Growth("1@1").on(tiny("gpt2"))
    assert growing.lineage.stack_path is None and "stack_path" not in growing.lineage.to_json()
