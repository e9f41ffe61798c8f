"""Every measure of drift against a slow computation that shares nothing with it but the model's weights."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from pli_analysis import api
from pli_analysis.metrics.drift import displacement, products
from pli_analysis.metrics.drift.drift import LEVELS
from pli_analysis.metrics.drift.rates import Logged
from pli_analysis.runs.opening import open_run
from pli_analysis.scalars.events import Columns
from pli_analysis.scalars.reading import Scalars
from pli_analysis.weights import chunks
from pli_train.core.run_format import run_folder
from pli_train.growth.operators.ffn import WidenFFN
from pli_train.growth.operators.heads import AddHeads
from pli_train.growth.operators.insert import Insert
from pli_train.models import build
from tests.drifting import RATES, Drifting, grown
from tests.families import HEADS, LAYERS, TINY, UNITS

FAMILIES = sorted(TINY)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return a function that makes a grown run and its table of drift, once a family: family → (Run, table)."""

    @functools.cache
    def made(family):
        run = open_run(grown(tmp_path_factory.mktemp("measured") / family, family))
        return run, api.drift(run, "all")

    return made


def states(run):
    """Per checkpoint: {part: {(tensor, label): values in float64}}, through transformers' own loading."""
    for found in run.checkpoints:
        loaded, parts = build.load_checkpoint(found.path)
        build.shrink(loaded, parts, found.lineage.shapes())
        message = {}
        for id, layer in zip(found.lineage.stack, build.stack_of(loaded, parts), strict=True):
            sizes = parts.sizes(found.config)
            heads = len(found.lineage.layers[id].heads)
            sizes |= {"head": heads, "group": heads // sizes["member"]}
            for name, tensor in layer.named_parameters():
                for label, values in parts.split(name, tensor.detach().double().numpy(), sizes):
                    message.setdefault(id, {})[name, label] = values
                    message.setdefault(f"{id}.{label}", {})[name, label] = values
        yield found, message


def flat(segments):
    return np.concatenate([segments[key].ravel() for key in sorted(segments)])


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


def reference(states):
    """(checkpoint, part) → measures."""
    births, last, paths, jumps, before, made = {}, {}, {}, {}, None, {}
    for found, message in states:
        for part, now in message.items():
            birth = births[part] = with_newborns(births.get(part, {}), now)
            previous = with_newborns(last.get(part, {}), now)
            a, b, p = flat(now), flat(birth), flat(previous)
            newborn = part not in paths
            of_training, of_growth = paths.get(part, 0.0), jumps.get(part, 0.0)
            if found.step == before:  # the states right before and right after an event
                of_growth += np.linalg.norm(a - p)
            else:
                of_training += np.linalg.norm(a - p)
            paths[part], jumps[part] = of_training, of_growth
            lr = 0 if newborn else sum_of_rates(before, found.step)
            made[str(found.name), part] = {
                "relative_l2": np.linalg.norm(a - b) / (np.linalg.norm(b) or 1),
                "cosine_distance": 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                if a.any() and b.any()
                else math.nan,
                "rms_change": np.sqrt(np.mean((a - b) ** 2)),
                "path_length": paths[part],
                "growth_path_length": jumps[part],
                "path_efficiency": np.linalg.norm(a - b) / paths[part] if paths[part] and not jumps[part] else math.nan,
                "relative_update_rate": np.linalg.norm(a - p) / np.linalg.norm(a) / lr if lr and a.any() else math.nan,
                "donor_distance": donor_distance(found.lineage, part, message),
            }
            last[part] = now
        before = found.step
    return made


def donor_distance(lineage, part, message):
    """Over what was copied: whole pieces of heads and norms, and of FFNs the units that the copy was born with."""
    id, _, label = part.partition(".")
    layer = lineage.layers[id]
    member = len(layer.heads) // max(sum(key.startswith(f"{id}.g") for key in message), 1)
    if not any(key.startswith(f"{id}.g") for key in message):
        member = 1
    mine, other = [], []
    for (name, own), values in sorted(message[part].items()):
        theirs = counterpart(layer, own, member)
        if theirs is None or (not label and theirs != f"{layer.birth.donor}.{own}"):
            continue
        found = message.get(theirs, {}).get((name, theirs.partition(".")[2]))
        if found is None:
            continue
        born = layer.widths[layer.birth.event or 0]
        for array, into in ((values, mine), (found, other)):
            units = lineage.layers[id if into is mine else theirs.partition(".")[0]].units
            into.append(first_units(name, array, units, born).ravel() if own == "ffn" else array.ravel())
    if not mine:
        return math.nan
    mine, other = np.concatenate(mine), np.concatenate(other)
    return np.linalg.norm(mine - other) / np.linalg.norm(other)


def counterpart(layer, label, member):
    """The part that a part was copied from, None where it was not."""
    if label[1:].isdigit():
        number = int(label[1:]) * (member if label[0] == "g" else 1)
        head = layer.heads[f"{layer.id}.h{number}"].donor
        if head is None:
            return None
        id, _, number = head.partition(".h")
        return f"{id}.{label[0]}{int(number) // (member if label[0] == 'g' else 1)}"
    return layer.birth.donor and f"{layer.birth.donor}.{label}"


def first_units(name, array, units, count):
    """Some units of a tensor of an FFN, which lie along the one axis of its length; biases of outputs have none."""
    gates = 2 if name.startswith("mlp.Wi") else 1
    axis = [n for n, length in enumerate(array.shape) if length == gates * units]
    if not axis:
        return array
    relative_distances = np.moveaxis(array, axis[0], 0).reshape(gates, units, -1)
    return relative_distances[:, :count]


def agree(states, table):
    expected = reference(states)
    rows = table[table["part_type"] != "matrix"].set_index(["checkpoint", "part"]).to_dict("index")
    named = {key for key in expected if not key[1].endswith(".other")}
    assert set(rows) == named
    for key in named:
        for measure, value in expected[key].items():
            message = rows[key][measure]
            assert message == pytest.approx(value, rel=2e-6, abs=1e-9, nan_ok=True), (key, measure)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_measure_of_a_grown_run_equals_a_slow_reference(measured, family):
    run, table = measured(family)
    expected = list(states(run))
    agree(expected, table)
    assert table["donor_distance"].notna().any() and table["relative_update_rate"].notna().any()
    squares = (table["rms_change"] ** 2 * _numbers(expected, table)).groupby([table["checkpoint"], table["layer"]])
    for _, of_layer in squares:
        layer = table.loc[of_layer.index, "part_type"] == "layer"
        assert of_layer[~layer].sum() == pytest.approx(of_layer[layer].sum(), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_in_segments_measure_as_whole_ones(measured, tmp_path, family, monkeypatch):
    run, whole = measured(family)
    cuts = []

    def counted(track):
        found = list(chunks.segments(track))
        cuts.append(len(found))
        return found

    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(chunks, "SIZE", 64)
    monkeypatch.setattr(displacement, "segments", counted)
    assert_frame_equal(api.drift(run, "all"), whole, rtol=1e-9)
    assert max(cuts) > 20 and sum(cut > 1 for cut in cuts) > len(cuts) / 2


def _numbers(states, table):
    sizes = {(str(f.name), part): flat(segments).size for f, message in states for part, segments in message.items()}
    return [sizes[row.checkpoint, row.part] for row in table.itertuples()]


moves = st.lists(st.sampled_from(["move", "save", "insert", "clone", "heads", "stretch"]), min_size=2, max_size=7)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves, st.sampled_from(["bert", "gpt2", "llama"]), st.floats(1e-4, 0.3), st.sampled_from([64, 4096, 2**21]))
def test_random_runs_equal_the_reference(tmp_path_factory, ways, family, size, segment):
    made = Drifting(tmp_path_factory.mktemp("random") / "run", family, heads=2)
    made.rates(RATES)
    for way in ways:
        made.move(size)
        if way == "insert":
            made.grow(Insert(at=0, index=1, initializer="random"))
        elif way == "clone":
            made.grow(Insert(at=0, index=1, initializer="clone"))
        elif way == "heads" and any(heads < HEADS for heads, _ in made.lineage.shapes()):
            made.grow(AddHeads(at=0, to=HEADS, initializer="clone"))
        elif way == "stretch":
            made.stretch(0.5)
            made.save()
        else:
            made.save()
    run = open_run(made.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "SIZE", segment)
        agree(states(run), api.drift(run, "all"))


@pytest.mark.parametrize("family", FAMILIES)
def test_stretching_all_weights_by_c_moves_all_parts_by_c_minus_1(tmp_path, family):
    made = Drifting(tmp_path / "run", family)
    for factor in (2.0, 0.25):
        made.stretch(factor)
        made.save()
    run = open_run(made.folder)
    table = api.drift(run, "all", gauge=True)
    for step, c in ((0, 1.0), (1, 2.0), (2, 0.5)):
        at = table[table["step"] == step]
        assert at["relative_l2"].to_numpy() == pytest.approx(abs(c - 1), abs=1e-12)
        assert at["cosine_distance"].to_numpy() == pytest.approx(0, abs=1e-12)
        heads = at[at["part_type"] == "head"]
        assert len(heads) == LAYERS * HEADS
        assert heads["ov_distance"].to_numpy() == pytest.approx(abs(c * c - 1), abs=1e-12)
        if family == "qwen3":
            assert heads["qk_distance"].isna().all()
        else:
            assert heads["qk_distance"].to_numpy() == pytest.approx(abs(c * c - 1), abs=1e-12)
    end = table[table["step"] == 2]
    assert end["path_efficiency"].to_numpy() == pytest.approx(0.5 / 2.5)


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
    table = api.drift(open_run(made.folder), "matrix", spectral=True)
    assert (table.query("step == 0")["relative_spectral_norm"].dropna() == 0).all()
    name = "transformer.h.1.mlp.c_fc.weight"
    now, birth = (load_file(p / run_folder.WEIGHTS)[name].double() for p in (path, made.folder / "checkpoint-0"))
    values = torch.linalg.svdvals(now - birth)
    shares = values / values.sum()
    row = table.query("step == 1 and part == 'b.mlp.c_fc.weight'").iloc[0]
    assert row["relative_spectral_norm"] == pytest.approx(float(values[0] / torch.linalg.svdvals(birth)[0]), rel=1e-9)
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
    table = api.drift(open_run(made.folder)).query("step == 1").set_index("part")
    moved = table["path_length"] / table["relative_update_rate"]
    norms = {
        id: np.linalg.norm(flat(message[id])) for _, message in list(states(open_run(made.folder)))[1:] for id in "ab"
    }
    assert moved["a"] == pytest.approx(0.5 * norms["a"]) and moved["b"] == pytest.approx(0.25 * norms["b"])


def test_all_levels_are_those_one_by_one(runs, family):
    run = open_run(runs[family])
    whole = api.drift(run, "all")
    for of in LEVELS:
        assert whole[whole["part_type"] == of].reset_index(drop=True).equals(api.drift(run, of))


# --- growth is no movement by training ------------------------------------------------------------------------------

STACKS = {"bert": "bert.encoder.layer", "gpt2": "transformer.h"}


def weights_of(folder, checkpoint, family, index):
    """Name → tensor of a layer, in float64, straight from the file."""
    from safetensors.torch import load_file

    prefix = f"{STACKS[family]}.{index}."
    tensors = load_file(folder / checkpoint / run_folder.WEIGHTS)
    return {name.removeprefix(prefix): t.double().numpy() for name, t in tensors.items() if name.startswith(prefix)}


def far(first, second):
    return math.sqrt(sum(np.square(first[name] - second[name]).sum() for name in second))


def identity_above(made):
    """BERT's layer a hands its last norm over to the newborn above it."""
    made.grow(Insert(at=0, index=1, initializer="identity"))


def split_heads(made):
    """Of layer a the output columns of the two old heads are halved; the new ones get the other halves."""
    made.grow(AddHeads(at=0, to=HEADS, initializer="clone", output="split", layers=["a"]))


def halved(family, before, after):
    """How far the output columns of the first two heads moved, which became half of what they were."""
    name, old = {"bert": ("attention.output.dense.weight", np.s_[:, :16]), "gpt2": ("attn.c_proj.weight", np.s_[:16])}[
        family
    ]
    assert np.array_equal(after[name][old], before[name][old] / 2)
    return np.linalg.norm(before[name][old]) / 2


def bared(family, before, after):
    """How far the last norm of the layer moved, which became (1, 0)."""
    weight, bias = (f"output.LayerNorm.{name}" for name in ("weight", "bias"))
    return math.hypot(np.linalg.norm(before[weight] - 1), np.linalg.norm(before[bias]))


EVENTS = [("bert", identity_above, bared), ("bert", split_heads, halved), ("gpt2", split_heads, halved)]


@pytest.mark.parametrize(("family", "event", "jump"), EVENTS)
def test_what_an_event_changes_is_no_path_when_nothing_is_trained(tmp_path, family, event, jump):
    made = Drifting(tmp_path / "run", family, heads=2)
    made.step = 1
    event(made)
    made.step = 2
    made.save()
    table = api.drift(open_run(made.folder), "all")
    assert (table["path_length"] == 0).all()
    assert not (table["relative_update_rate"] > 0).any()
    a = table.query("part == 'a' and step == 2").iloc[0]
    assert a["growth_path_length"] > 0.1 and a["relative_l2"] > 0 and math.isnan(a["path_efficiency"])
    assert (table.query("layer != 'a'")["growth_path_length"] == 0).all()


@pytest.mark.parametrize(("family", "event", "jump"), EVENTS)
def test_path_is_the_sum_over_training_alone(tmp_path, family, event, jump):
    made = Drifting(tmp_path / "run", family, heads=2)
    for step in range(1, 6):
        made.move()
        if step == 3:
            event(made)
        else:
            made.save()
    names = [f"checkpoint-{name}" for name in ("0", "1", "2", "3-before", "3", "4", "5")]
    states = [weights_of(made.folder, name, family, 0) for name in names]
    trained = sum(far(states[n], states[n + 1]) for n in (0, 1, 2, 4, 5))
    row = api.drift(open_run(made.folder)).query("part == 'a' and step == 5").iloc[0]
    assert row["path_length"] == pytest.approx(trained, rel=1e-6)
    assert row["growth_path_length"] == pytest.approx(jump(family, states[3], states[4]), rel=1e-6)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("grown", [["a"], ["c"], ["a", "c"]])
def test_a_clone_is_compared_with_its_donor_after_either_grew(tmp_path, family, grown):
    """Heads and units that came later are left out: here by their places in the files, 8 columns a head."""
    made = Drifting(tmp_path / "run", family, heads=2)
    made.move()
    made.grow(Insert(at=0, index=1, initializer="clone"))
    made.move()
    made.grow(AddHeads(at=0, to=HEADS, initializer="clone", layers=grown))
    made.move()
    made.grow(WidenFFN(at=0, to=UNITS + 16, initializer="random", layers=grown))
    made.move()
    made.save()
    assert made.lineage.stack == ["a", "c", "b"]
    a, c = (weights_of(made.folder, "checkpoint-4", family, index) for index in (0, 1))
    row = api.drift(open_run(made.folder)).query("part == 'c' and step == 4").iloc[0]
    mine, theirs = (np.concatenate([old(family, n, v).ravel() for n, v in sorted(x.items())]) for x in (c, a))
    assert row["donor_distance"] == pytest.approx(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs), rel=1e-6)


def old(family, name, values):
    """What was there before heads and units were added."""
    if family == "gpt2":
        if name.startswith("attn.c_attn"):
            return values.reshape(-1, 3, 32)[:, :, :16]
        cuts = {"attn.c_proj.weight": np.s_[:16], "mlp.c_fc.weight": np.s_[:, :UNITS], "mlp.c_fc.bias": np.s_[:UNITS]}
        return values[cuts.get(name, np.s_[:UNITS] if name == "mlp.c_proj.weight" else ...)]
    if name.startswith("attention.self"):
        return values[:16]
    if name == "attention.output.dense.weight":
        return values[:, :16]
    if name.startswith("intermediate"):
        return values[:UNITS]
    return values[:, :UNITS] if name == "output.dense.weight" else values
