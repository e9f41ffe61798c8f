"""Every measure of drift against a slow computation that shares nothing with it but the model's weights."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from pli_analysis.events import Columns
from pli_analysis.metrics import displacement, products
from pli_analysis.metrics.drift import LEVELS
from pli_analysis.metrics.rates import Logged
from pli_analysis.run import Run
from pli_analysis.scalars import Scalars
from pli_analysis.weights import pieces, stacks
from pli_train import model, run_folder
from pli_train.growth.ffn import WidenFFN
from pli_train.growth.heads import AddHeads
from pli_train.growth.insert import Insert
from pli_train.growth.swap import Swap
from tests.drifting import Drifting
from tests.families import HEADS, LAYERS, OPTIONAL, TINY, UNITS

FAMILIES = sorted(TINY)
RATES = {run_folder.LR: {2: 0.1, 4: 0.3, 7: 0.2}}


def grown(folder, family):
    """A run with every way of growth; the layers of the last stack have heads, units and donors of all kinds."""
    run = Drifting(folder, family, heads=2, **OPTIONAL.get(family, {}))
    run.move(steps=2)
    run.grow(Insert(at=0, index=1, initialiser="clone-noise", noise=0.1))
    run.move()
    run.grow(AddHeads(at=0, to=HEADS, initialiser="clone", output="split"))
    run.move(steps=3)
    run.grow(Insert(at=0, index=2, initialiser="random"))
    run.move()
    run.grow(WidenFFN(at=0, to=UNITS + 16, initialiser="random"))
    run.move()
    run.grow(Swap(at=0, indices=[1, 2]))
    run.move(steps=2)
    run.save()
    run.rates(RATES)
    return run.folder


def states(run):
    """Per checkpoint: {part: {(tensor, label): values in float64}}, through transformers' own loading."""
    for found in run.checkpoints:
        loaded, parts = model.load_checkpoint(found.path)
        model.slim(loaded, parts, found.lineage.shapes())
        told = {}
        for id, layer in zip(found.lineage.stack, model.stack_of(loaded, parts), strict=True):
            sizes = parts.sizes(found.config)
            heads = len(found.lineage.layers[id].heads)
            sizes |= {"head": heads, "group": heads // sizes["member"]}
            for name, tensor in layer.named_parameters():
                for label, values in parts.split(name, tensor.detach().double().numpy(), sizes):
                    told.setdefault(id, {})[name, label] = values
                    told.setdefault(f"{id}.{label}", {})[name, label] = values
        yield found, told


def flat(pieces):
    return np.concatenate([pieces[key].ravel() for key in sorted(pieces)])


def with_newborns(old, now):
    """Old values, with those of now where there were none: whole pieces, or further FFN units (first or last axis)."""
    made = {}
    for key, values in now.items():
        if key not in old or old[key].shape == values.shape:
            made[key] = old.get(key, values)
        else:
            gates = 2 if key[0].startswith("mlp.Wi") else 1  # ModernBERT keeps two of a unit's rows in one tensor
            new, known = (array.reshape(gates, -1, *array.shape[1:]) for array in (values.copy(), old[key]))
            new[tuple(slice(0, n) for n in known.shape)] = known
            made[key] = new.reshape(values.shape)
    return made


def sum_of_rates(start, end):
    steps = np.arange(start + 1, end + 1)
    return np.interp(steps, list(RATES[run_folder.LR]), list(RATES[run_folder.LR].values())).sum()


def reference(run):
    """(checkpoint, part) → measures."""
    births, last, paths, before, made = {}, {}, {}, None, {}
    for found, told in states(run):
        for part, now in told.items():
            birth = births[part] = with_newborns(births.get(part, {}), now)
            previous = with_newborns(last.get(part, {}), now)
            a, b, p = flat(now), flat(birth), flat(previous)
            newborn = part not in paths
            paths[part] = paths.get(part, 0.0) + np.linalg.norm(a - p)
            lr = 0 if newborn else sum_of_rates(before, found.step)
            made[str(found.name), part] = {
                "relative_l2": np.linalg.norm(a - b) / (np.linalg.norm(b) or 1),
                "cosine": 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) if a.any() and b.any() else math.nan,
                "rms": np.sqrt(np.mean((a - b) ** 2)),
                "path": paths[part],
                "efficiency": np.linalg.norm(a - b) / paths[part] if paths[part] else math.nan,
                "speed": np.linalg.norm(a - p) / np.linalg.norm(a) / lr if lr and a.any() else math.nan,
                "donor_distance": donor_distance(found.lineage, part, told),
            }
            last[part] = now
        before = found.step
    return made


def donor_distance(lineage, part, told):
    id, _, label = part.partition(".")
    layer, donor = lineage.layers[id], lineage.layers[id].birth.donor
    kin = [(head, birth.donor) for head, birth in layer.heads.items()]
    if label.startswith("h") and label[1:].isdigit():
        theirs = layer.heads[part].donor
    elif label.startswith("g") and label[1:].isdigit():
        member = len(kin) // sum(f"{id}.g{n}" in told for n in range(99))
        head = kin[int(label[1:]) * member][1]
        theirs = head and f"{head.partition('.')[0]}.g{int(head.partition('.h')[2]) // member}"
    elif not label:
        theirs = donor if all(b == f"{donor}.{h.partition('.')[2]}" for h, b in kin) else None
    else:
        theirs = donor and f"{donor}.{label}"
    if theirs not in told:
        return math.nan
    mine, other = told[part], told[theirs]
    mine = {(name, "" if label[1:].isdigit() else lab): v for (name, lab), v in mine.items()}
    other = {(name, "" if label[1:].isdigit() else lab): v for (name, lab), v in other.items()}
    if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in other.items()}:
        return math.nan
    return np.linalg.norm(flat(mine) - flat(other)) / np.linalg.norm(flat(other))


def agree(run, table):
    expected = reference(run)
    rows = table[table["level"] != "matrix"].set_index(["checkpoint", "part"])
    named = {key for key in expected if not key[1].endswith(".other")}
    assert set(rows.index) == named
    for key in named:
        for measure, value in expected[key].items():
            told = rows.loc[key, measure]
            assert told == pytest.approx(value, rel=2e-6, abs=1e-9, nan_ok=True), (key, measure)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_measure_of_a_grown_run_equals_a_slow_reference(tmp_path, family):
    run = Run.open(grown(tmp_path / "run", family))
    table = run.drift("all")
    agree(run, table)
    assert table["donor_distance"].notna().any() and table["speed"].notna().any()
    squares = (table["rms"] ** 2 * _numbers(run, table)).groupby([table["checkpoint"], table["layer"]])
    for _, of_layer in squares:
        layer = table.loc[of_layer.index, "level"] == "layer"
        assert of_layer[~layer].sum() == pytest.approx(of_layer[layer].sum(), rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_in_pieces_measure_as_whole_ones(tmp_path, family, monkeypatch):
    run = Run.open(grown(tmp_path / "run", family))
    whole, cuts = run.drift("all"), []

    def counted(track):
        found = list(pieces.pieces(track))
        cuts.append(len(found))
        return found

    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pieces, "SIZE", 64)
    monkeypatch.setattr(displacement, "is_steady", lambda track: False)
    monkeypatch.setattr(displacement, "pieces", counted)
    assert_frame_equal(run.drift("all"), whole, rtol=1e-9)
    assert max(cuts) > 20 and sum(cut > 1 for cut in cuts) > len(cuts) / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_in_blocks_and_stacks_measure_as_whole_ones(tmp_path, family, monkeypatch):
    """Of which at least the newborn layers' keep their shape."""
    run = Run.open(grown(tmp_path / "run", family))
    monkeypatch.setattr(displacement, "is_steady", lambda track: False)
    whole, made = run.drift("all"), []
    monkeypatch.undo()
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stacks, "BLOCK", 60)
    monkeypatch.setattr(stacks, "STACK", 180)
    monkeypatch.setattr(
        displacement, "stacks", lambda *asked: (made.append(s.visits) or s for s in stacks.stacks(*asked))
    )
    assert_frame_equal(run.drift("all"), whole, rtol=1e-9)
    assert len(made) > 100 and any(visits.start for visits in made)


def _numbers(run, table):
    sizes = {(str(f.name), part): flat(pieces).size for f, told in states(run) for part, pieces in told.items()}
    return [sizes[row.checkpoint, row.part] for row in table.itertuples()]


moves = st.lists(st.sampled_from(["move", "save", "insert", "clone", "heads", "stretch"]), min_size=2, max_size=7)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves, st.sampled_from(["bert", "gpt2", "llama"]), st.floats(1e-4, 0.3), st.sampled_from([64, 4096, 2**21]))
def test_random_runs_equal_the_reference(tmp_path_factory, ways, family, size, piece):
    made = Drifting(tmp_path_factory.mktemp("random") / "run", family, heads=2)
    made.rates(RATES)
    for way in ways:
        made.move(size)
        if way == "insert":
            made.grow(Insert(at=0, index=1, initialiser="random"))
        elif way == "clone":
            made.grow(Insert(at=0, index=1, initialiser="clone"))
        elif way == "heads" and any(heads < HEADS for heads, _ in made.lineage.shapes()):
            made.grow(AddHeads(at=0, to=HEADS, initialiser="clone"))
        elif way == "stretch":
            made.stretch(0.5)
            made.save()
        else:
            made.save()
    run = Run.open(made.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "SIZE", piece)
        agree(run, run.drift("all"))


@pytest.mark.parametrize("family", FAMILIES)
def test_stretching_all_weights_by_c_moves_all_parts_by_c_minus_1(tmp_path, family):
    made = Drifting(tmp_path / "run", family)
    for factor in (2.0, 0.25):
        made.stretch(factor)
        made.save()
    run = Run.open(made.folder)
    table = run.drift("all", gauge=True)
    for step, c in ((0, 1.0), (1, 2.0), (2, 0.5)):
        at = table[table["step"] == step]
        assert at["relative_l2"].to_numpy() == pytest.approx(abs(c - 1), abs=1e-12)
        assert at["cosine"].to_numpy() == pytest.approx(0, abs=1e-12)
        heads = at[at["level"] == "head"]
        assert len(heads) == LAYERS * HEADS
        assert heads[["qk", "ov"]].to_numpy() == pytest.approx(abs(c * c - 1), abs=1e-12)
    end = table[table["step"] == 2]
    assert end["efficiency"].to_numpy() == pytest.approx(0.5 / 2.5)


# --- heads in any basis ---------------------------------------------------------------------------------------------


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
    table = Run.open(made.folder).drift("head", gauge=True).query("step == 1").set_index("part")
    for index, id in enumerate("ab"):
        for head in range(HEADS):
            (q, k, v, o), (q0, k0, v0, o0) = (_by_hand(family, side, f"{stack}.{index}.", head) for side in sides)
            qk, ov = q.T @ k - q0.T @ k0, o.T @ v - o0.T @ v0
            row = table.loc[f"{id}.h{head}"]
            assert row["qk"] == pytest.approx(np.linalg.norm(qk) / np.linalg.norm(q0.T @ k0), rel=1e-9)
            assert row["ov"] == pytest.approx(np.linalg.norm(ov) / np.linalg.norm(o0.T @ v0), rel=1e-9)


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


# --- spectra --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_ranks_of_what_has_a_rank(rank, seed):
    """A change with `rank` equal singular values has that stable and that effective rank."""
    random = np.random.default_rng(seed)
    left, right = (np.linalg.qr(random.normal(size=(n, rank)))[0] for n in (8, 12))
    birth = random.normal(size=(8, 12))
    found = products.spectrum(birth + 3 * left @ right.T, birth)
    assert found == pytest.approx((3 / np.linalg.norm(birth, 2), rank, rank), rel=1e-5)


def test_spectral_measures_of_a_run(tmp_path):
    from safetensors.torch import load_file

    made = Drifting(tmp_path / "run", "gpt2")
    made.move(0.05)
    path = made.save()
    table = Run.open(made.folder).drift("matrix", spectral=True)
    assert (table.query("step == 0")["spectral"].dropna() == 0).all()
    name = "transformer.h.1.mlp.c_fc.weight"
    now, birth = (load_file(p / run_folder.WEIGHTS)[name].double() for p in (path, made.folder / "checkpoint-0"))
    values = torch.linalg.svdvals(now - birth)
    shares = values / values.sum()
    row = table.query("step == 1 and part == 'b.mlp.c_fc.weight'").iloc[0]
    assert row["spectral"] == pytest.approx(float(values[0] / torch.linalg.svdvals(birth)[0]), rel=1e-9)
    assert row["stable_rank"] == pytest.approx(float(values.square().sum() / values[0] ** 2), rel=1e-9)
    assert row["effective_rank"] == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-6)
    assert row["relative_l2"] == pytest.approx(float((now - birth).norm() / birth.norm()), rel=1e-9)


# --- what is underneath ---------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.integers(1, 30), st.floats(1e-6, 1.0), min_size=1, max_size=6),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_rates_between_logs_are_summed_in_a_straight_line(logged, start, length):
    columns = [np.array(sorted(logged)), np.zeros(len(logged)), np.array([logged[s] for s in sorted(logged)])]
    rates = Logged(Scalars({run_folder.LR: Columns(*columns)}))
    expected = np.interp(np.arange(start + 1, start + length + 1), columns[0], columns[2]).sum()
    assert rates.between("a", start, start + length) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert math.isnan(Logged(Scalars()).between("a", 0, 5))


def test_a_layers_own_rate_is_its_rate(tmp_path):
    made = Drifting(tmp_path / "run", "bert")
    made.move()
    made.save()
    made.rates({run_folder.LR: {1: 0.5}, run_folder.LR_OF_LAYER + "b": {1: 0.25}})
    table = Run.open(made.folder).drift().query("step == 1").set_index("part")
    moved = table["path"] / table["speed"]
    norms = {id: np.linalg.norm(flat(told[id])) for _, told in list(states(Run.open(made.folder)))[1:] for id in "ab"}
    assert moved["a"] == pytest.approx(0.5 * norms["a"]) and moved["b"] == pytest.approx(0.25 * norms["b"])


def test_all_levels_are_those_one_by_one(runs, family):
    run = Run.open(runs[family])
    whole = run.drift("all")
    for of in LEVELS:
        assert whole[whole["level"] == of].reset_index(drop=True).equals(run.drift(of))
