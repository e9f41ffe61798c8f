"""Products of a head's matrices (QK and OV): equal in every basis, unlike the weights."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pli_analysis import api
from pli_analysis.metrics.drift import products
from pli_analysis.runs.opening import open_run
from pli_train.core import anatomy
from pli_train.core.run_format import run_folder
from pli_train.models import build
from tests.drifting import Drifting
from tests.families import HEADS, logits


def _by_hand(family, state, prefix, head):
    """(Q, K, V, O) of one head, dim × columns, biases as a last column."""
    get = lambda name: state[prefix + name].double().numpy()  # noqa: E731
    rows = slice(8 * head, 8 * head + 8)
    if family == "bert":
        q, k, v = (
            np.c_[get(f"attention.self.{n}.weight")[rows], get(f"attention.self.{n}.bias")[rows]]
            for n in ("query", "key", "value")
        )
        return q, k, v, get("attention.output.dense.weight")[:, rows].T
    if family == "gpt2":
        weight, bias = get("attn.c_attn.weight"), get("attn.c_attn.bias")
        q, k, v = (np.c_[weight[:, 32 * n :][:, rows].T, bias[32 * n :][rows]] for n in range(3))
        return q, k, v, get("attn.c_proj.weight")[rows]
    shared = slice(8 * (head // 2), 8 * (head // 2) + 8)
    q, k, v = (get(f"self_attn.{n}_proj.weight") for n in "qkv")
    return q[rows], k[shared], v[shared], get("self_attn.o_proj.weight")[:, rows].T


@pytest.mark.parametrize(
    ("family", "stack"), [("bert", "bert.encoder.layer"), ("gpt2", "transformer.h"), ("llama", "model.layers")]
)
def test_a_heads_products_equal_those_of_whole_matrices(tmp_path, family, stack):
    from safetensors.torch import load_file

    made = Drifting(tmp_path / "run", family)
    made.move(0.05)
    path = made.save()
    sides = [load_file(p / run_folder.WEIGHTS) for p in (path, made.folder / "checkpoint-0")]
    table = api.drift(open_run(made.folder), "head", gauge=True).query("step == 1").set_index("part")
    for index, id in enumerate("ab"):
        for head in range(HEADS):
            (q, k, v, o), (q0, k0, v0, o0) = (_by_hand(family, side, f"{stack}.{index}.", head) for side in sides)
            turns = _turns(8) if family == "llama" else [np.eye(8)]
            moved, birth = (np.array([a.T @ turn @ b for turn in turns]) for a, b in ((q, k), (q0, k0)))
            ov = o.T @ v - o0.T @ v0
            row = table.loc[f"{id}.h{head}"]
            assert row["qk_distance"] == pytest.approx(np.linalg.norm(moved - birth) / np.linalg.norm(birth), rel=1e-9)
            assert row["ov_distance"] == pytest.approx(np.linalg.norm(ov) / np.linalg.norm(o0.T @ v0), rel=1e-9)


def _turns(dim):
    """Rotations of pairs n, n + dim ÷ 2 by all combinations of three angles.

    Over many positions the angles of pairs with different frequencies are spread evenly and independently of each
    other, and three equally spaced angles integrate squares of sines and cosines exactly.
    """
    half, found = dim // 2, []
    for angles in itertools.product(np.arange(3) * 2 * np.pi / 3, repeat=half):
        cos, sin = np.diag(np.cos(angles)), np.diag(np.sin(angles))
        found.append(np.block([[cos, -sin], [sin, cos]]))
    return found


@given(st.integers(0, 2**32 - 1))
def test_another_basis_moves_the_weights_and_not_the_products(seed):
    random = np.random.default_rng(seed)
    left, right = random.normal(size=(2, 3, 4, 10))
    basis = random.normal(size=(4, 4)) + 4 * np.eye(4)
    turned, back = basis @ left, np.linalg.inv(basis).T @ right
    assert np.linalg.norm(turned - left) > 1
    assert products.bilinear_distance(turned, back, left, right) == pytest.approx(
        0, abs=1e-5
    )  # √ε, times how askew the basis is
    assert (products.bilinear_distance(left, right, left, right) == 0).all()


QK = {
    "gpt2": ("attn.c_attn.weight", "attn.c_attn.bias"),
    "llama": ("self_attn.q_proj.weight", "self_attn.k_proj.weight"),
    "gpt_neox": ("attention.query_key_value.weight", "attention.query_key_value.bias"),
    "qwen3": ("self_attn.q_proj.weight", "self_attn.k_proj.weight"),
}


def _turn_basis(model, family, of_queries, of_keys):
    """Multiply queries and keys of all heads, 8 dimensions each, by matrices from the left."""
    for layer in models_layers(model, family):
        for name in QK[family]:
            tensor = layer.get_parameter(name).data
            rows = tensor.T if name == "attn.c_attn.weight" else tensor  # Conv1D has outputs last
            if family == "gpt2":
                parts = [(rows[:32], of_queries), (rows[32:64], of_keys)]
            elif family == "gpt_neox":  # head by head: Q, K, V
                heads = rows.view(HEADS, 3, 8, -1)
                parts = [(head[number], turn) for head in heads for number, turn in ((0, of_queries), (1, of_keys))]
            else:
                parts = [(rows, of_queries if ".q_" in name else of_keys)]
            for part, turn in parts:
                for head in part.split(8):
                    head.copy_((turn @ head.double().reshape(8, -1)).view_as(head))


def models_layers(made, family):
    return build.stack_of(made, anatomy.family(family))


def commuting(turning, random):
    """A matrix that commutes with the rotations of the first `turning` of 8 dimensions, and is invertible."""
    half = turning // 2
    a, b = 1 + random.random(half), random.normal(size=half)
    found = random.normal(size=(8, 8)) + 4 * np.eye(8)
    found[:turning], found[:, :turning] = 0, 0
    found[:turning, :turning] = np.block([[np.diag(a), -np.diag(b)], [np.diag(b), np.diag(a)]])
    return found


def turned(tmp_path, family, of_queries, of_keys=None):
    """(Change of logits relative to their norm, `qk` of all heads) when heads are written in another basis."""
    made = Drifting(tmp_path / "run", family)
    made.model.set_attn_implementation("eager")
    before = logits(made.model)
    if of_keys is None:
        of_keys = np.linalg.inv(of_queries).T
    _turn_basis(made.model, family, torch.tensor(of_queries), torch.tensor(of_keys))
    change = (logits(made.model) - before).norm() / before.norm()
    made.step = 1
    made.save()
    return float(change), api.drift(open_run(made.folder), "head", gauge=True).query("step == 1")


@pytest.mark.parametrize(("family", "turning"), [("gpt2", 0), ("llama", 8), ("gpt_neox", 2)])
def test_a_basis_that_positions_allow_changes_neither_logits_nor_qk(tmp_path, family, turning):
    change, heads = turned(tmp_path, family, commuting(turning, np.random.default_rng(0)))
    assert change < 1e-4
    assert heads["qk_distance"].to_numpy() == pytest.approx(0, abs=1e-5)
    assert (heads["relative_l2"] > 0.1).all()


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_basis_that_rotary_positions_forbid_changes_logits_and_qk(tmp_path, family):
    """QᵀK is the same all the while: what a head reads at relative position 0."""
    change, heads = turned(tmp_path, family, commuting(0, np.random.default_rng(0)))
    assert change > 1e-3
    assert (heads["qk_distance"] > 0.01).all()


def test_normalized_queries_and_keys_have_no_qk(tmp_path):
    """What stays free beside a norm with unequal gains: a sign for each pair, and the size of all queries, or keys."""
    signs = np.diag([1.0, -1, 1, -1] * 2)
    change, heads = turned(tmp_path / "signs", "qwen3", signs)
    assert change < 1e-4 and heads["qk_distance"].isna().all() and heads["ov_distance"].notna().all()
    change, _ = turned(tmp_path / "size", "qwen3", 3 * np.eye(8), 0.5 * np.eye(8))
    assert change < 1e-4
    change, _ = turned(tmp_path / "turned", "qwen3", commuting(8, np.random.default_rng(0)))
    assert change > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_values_and_outputs_may_be_written_in_any_basis(tmp_path, family):
    made = Drifting(tmp_path / "run", family)
    before = logits(made.model)
    basis = torch.tensor(commuting(0, np.random.default_rng(0)))
    for layer in models_layers(made.model, family):
        if family == "gpt2":
            values = [layer.attn.c_attn.weight.data.T[64:], layer.attn.c_attn.bias.data[64:]]
            outputs = layer.attn.c_proj.weight.data
        else:
            values, outputs = [layer.self_attn.v_proj.weight.data], layer.self_attn.o_proj.weight.data.T
        for rows, turn in [*((rows, basis) for rows in values), (outputs, torch.linalg.inv(basis).T)]:
            for head in rows.split(8):
                head.copy_((turn @ head.double().reshape(8, -1)).view_as(head))
    assert (logits(made.model) - before).norm() < 1e-4 * before.norm()
    made.step = 1
    made.save()
    heads = api.drift(open_run(made.folder), "head", gauge=True).query("step == 1")
    assert heads["ov_distance"].to_numpy() == pytest.approx(0, abs=1e-5)
    assert (heads["relative_l2"] > 0.1).all()
