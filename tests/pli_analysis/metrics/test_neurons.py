"""Activations of FFN units against a slow script over transformers' models, planted units, and fresh copies."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy import stats
from transformers import AutoModel

import pli_analysis
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.metrics.neurons import activations as reading
from pli_analysis.metrics.neurons.neurons import OVERLAP, neurons, of_units, strongest
from pli_analysis.metrics.neurons.statistics import LayerStatistics, largest
from pli_analysis.report import page, terminal
from pli_analysis.report.neurons import section
from pli_analysis.report.parts import Excerpt, Report, Section
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.commands import call, refused
from tests.families import ANALYZED, TINY, UNITS, tiny

BLOCKS, TOP = 6, 5
UNEQUAL = [{"at": 1, "index": 1}, {"at": 2, "operator": "ffn", "to": 64, "layers": ["a"], "initializer": "clone"}]
TEXT_FAMILIES = [family for family in (*TINY, *ANALYZED) if family not in ("vit", "deit", "dinov2")]
REFUSED = ("mixtral", "albert", "t5", "mt5", "bart")


@pytest.fixture(scope="module")
def llama(config_of, tmp_path_factory):
    """A run whose layers have FFNs of 64 and 48 units; the 16 new ones of layer a are copies."""
    folder = tmp_path_factory.mktemp("neurons") / "llama"
    launch.begin(config_of("llama", {"train.steps": 3, "growth.schedule": UNEQUAL}), folder).run()
    return folder


@pytest.fixture(params=["bert", "gpt2", "llama"])
def grown(request, runs):
    """(family, run): the Llama has gated FFNs of unequal width."""
    return request.param, open_run([runs.get(request.param) or request.getfixturevalue("llama")])


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "cache"))


def edited(source, folder, change):
    """A copy of a run; `change` edits the tensors of its last checkpoint."""
    shutil.copytree(source, folder)
    path = open_run([folder]).checkpoints[-1].path / run_folder.WEIGHTS
    tensors = load_file(path)
    change(tensors, open_run([folder]).checkpoints[-1].lineage.stack)
    save_file(tensors, path, {"format": "pt"})
    return open_run([folder])


def by_hand(family, run):
    """Layer id → activations of its units at all tokens, (tokens, units) in float64, computed from the FFN's input."""
    checkpoint, lineage = run.checkpoints[-1], run.checkpoints[-1].lineage
    model = AutoModel.from_pretrained(checkpoint.path).eval()
    layers = {"bert": lambda: model.encoder.layer, "gpt2": lambda: model.h, "llama": lambda: model.layers}[family]()
    entries, seen = {"bert": "intermediate", "gpt2": "mlp", "llama": "mlp"}, {}
    for id, layer in zip(lineage.stack, layers, strict=True):
        ffn = getattr(layer, entries[family])
        ffn.register_forward_hook(lambda _, inputs, output, id=id: seen.setdefault(id, []).append(inputs[0][0]))
    found = {}
    with torch.no_grad():
        for tokens in eval_tokens.sample_of(run, None, BLOCKS).tokens:
            model(input_ids=tokens[None])
        for id, layer in zip(lineage.stack, layers, strict=True):
            states, ffn = torch.cat(seen[id]), getattr(layer, entries[family])
            if family == "bert":
                values = torch.nn.functional.gelu(states @ ffn.dense.weight.T + ffn.dense.bias)
            elif family == "gpt2":
                values = torch.nn.functional.gelu(states @ ffn.c_fc.weight + ffn.c_fc.bias, approximate="tanh")
            else:
                gate = states @ ffn.gate_proj.weight.T
                values = gate * gate.sigmoid() * (states @ ffn.up_proj.weight.T)
            found[id] = values[:, : lineage.layers[id].units].double().numpy()
    return found


def tops(values, most):
    """The tokens of the largest values above 0, one after the other, of equal values the earlier one."""
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))[:most]
    return {token for token in order if values[token] > 0}


def test_all_columns_are_those_of_a_slow_script(grown):
    family, run = grown
    lineage, expected = run.checkpoints[-1].lineage, by_hand(family, run)
    sample = eval_tokens.sample_of(run, None, BLOCKS)
    length, ids = sample.tokens.shape[1], sample.tokens.flatten().tolist()
    table = neurons(run, blocks=BLOCKS, layers=lineage.stack, top=TOP)
    decode = eval_tokens.tokenizer_of(run, eval_tokens.Text(run.path))[0].decode
    units = of_units(table).set_index("unit")
    assert list(units.index) == [f"{id}.u{unit}" for id in lineage.stack for unit in range(expected[id].shape[1])]
    for id, values in expected.items():
        for unit in range(values.shape[1]):
            mine, row = values[:, unit], units.loc[f"{id}.u{unit}"]
            assert row.mean_activation == pytest.approx(mine.mean(), abs=1e-6)
            assert row.active_share == pytest.approx((mine > 0).mean(), abs=1.5 / len(mine))  # rounding around 0
            assert row["kurtosis"] == pytest.approx(stats.kurtosis(mine, fisher=False), rel=1e-3)
            if row.donor:
                layer, _, number = row.donor.partition(".u")
                other = expected[layer][:, int(number)]
                assert row.donor_correlation == pytest.approx(np.corrcoef(mine, other)[0, 1], abs=2e-3)
                one, two = tops(mine, OVERLAP), tops(other, OVERLAP)
                jaccard = len(one & two) / len(one | two) if one and two else np.nan
                assert row.donor_overlap == pytest.approx(jaccard, abs=0.06, nan_ok=True)  # ties up to rounding
    for row in table[table["rank"] <= TOP].itertuples():
        token, mine = row.block * length + row.position, expected[row.layer][:, int(row.unit.partition(".u")[2])]
        assert row.activation == pytest.approx(mine[token], abs=1e-5)
        assert row.activation == pytest.approx(np.sort(mine)[-row.rank], abs=1e-5)
        if decode([ids[token]]).strip().isalpha():
            assert row.token.strip() == decode([ids[token]]).strip()
    assert set(table["rank"]) == set(range(1, TOP + 1)) and set(table.measured_tokens) == {len(ids)}


def test_donors_are_those_of_the_lineage(runs, llama):
    """Units of a cloned layer have the donor's numbers; new units of a widened FFN are copies of the first ones."""
    table = of_units(neurons(open_run([llama]), blocks=2, layers=["a", "b"])).set_index("unit")
    assert len(table) == 64 + 48
    assert {unit: donor for unit, donor in table.donor.items() if donor} == (
        {f"b.u{number}": f"a.u{number}" for number in range(48)}
        | {f"a.u{48 + number}": f"a.u{number}" for number in range(16)}
    )
    lineage = open_run([runs["gpt2"]]).lineage
    table = of_units(neurons(open_run([runs["gpt2"]]), blocks=2))
    assert {row.layer: row.donor.partition(".")[0] for row in table.itertuples() if row.donor} == {
        id: layer.birth.donor for id, layer in lineage.layers.items() if layer.birth.donor
    }


def test_a_unit_that_is_wired_to_one_token_finds_it(runs, tmp_path):
    run = open_run([runs["gpt2"]])
    sample = eval_tokens.sample_of(run, None, BLOCKS)
    wired = int(sample.tokens.flatten().mode().values)
    unit = 7

    def wire(tensors, stack):
        for name in ("attn.c_proj.weight", "attn.c_proj.bias", "ln_2.bias"):
            tensors[f"transformer.h.0.{name}"][:] = 0
        tensors["transformer.h.0.ln_2.weight"][:] = 1
        tensors["transformer.wpe.weight"][:, 0] = tensors["transformer.wte.weight"][:, 0] = 0
        tensors["transformer.wte.weight"][wired, 0] = 100
        tensors["transformer.h.0.mlp.c_fc.weight"][:, unit] = np.eye(32)[0]
        tensors["transformer.h.0.mlp.c_fc.bias"][unit] = -4

    changed = edited(runs["gpt2"], tmp_path / "run", wire)
    layer = changed.checkpoints[-1].lineage.stack[0]
    count = int((sample.tokens == wired).sum())
    table = neurons(changed, blocks=BLOCKS, layers=[layer], top=count + 1)
    rows = table[table.unit == f"{layer}.u{unit}"]
    at = sample.tokens.numpy()[rows.block, rows.position]
    assert count > 5 and (at[:count] == wired).all() and at[count] != wired
    assert (rows.activation.iloc[:count] > 1).all() and rows.activation.iloc[count] <= 0
    assert rows.active_share.iloc[0] == pytest.approx(count / sample.tokens.numel())
    assert rows.token.iloc[:count].nunique() == 1


def test_a_copy_that_reads_what_its_donor_reads_agrees_with_it(runs, tmp_path):
    """The donor, directly below, writes nothing, so the copy has the same input."""

    def copy(tensors, stack):
        below = stack.index(donor)
        for name in [name for name in tensors if name.startswith(f"transformer.h.{below}.")]:
            if "c_proj" in name:
                tensors[name][:] = 0
            tensors[name.replace(f".h.{below}.", f".h.{below + 1}.")][:] = tensors[name]

    lineage = open_run([runs["gpt2"]]).lineage
    donor, layer = next(
        (below, above)
        for below, above in zip(lineage.stack, lineage.stack[1:], strict=False)
        if lineage.layers[above].birth.donor == below
    )
    run = edited(runs["gpt2"], tmp_path / "run", copy)
    units = of_units(neurons(run, blocks=BLOCKS, layers=[layer]))
    mine, theirs = (units[units.layer == id].reset_index() for id in (layer, donor))
    assert mine.donor_correlation.to_numpy() == pytest.approx(1)
    assert (mine.donor_overlap.dropna() == 1).all() and mine.donor_overlap.notna().sum() > 100
    assert mine.control_correlation.abs().median() < 0.9
    for column in ("mean_activation", "active_share", "kurtosis", "activation", "block", "position"):
        assert (mine[column] == theirs[column]).all()
    trained = of_units(neurons(open_run([runs["gpt2"]]), blocks=BLOCKS, layers=[layer]))
    assert trained[trained.layer == layer].donor_correlation.median() < 0.999


def test_new_units_of_a_widened_ffn_agree_with_their_donors_at_birth(llama):
    run = open_run([llama])
    units = of_units(neurons(run, blocks=BLOCKS, at=2, layers=["a"]))
    new = units[units.unit.isin([f"a.u{number}" for number in range(48, 64)])]
    assert new.donor_correlation.to_numpy() == pytest.approx(1) and (new.donor_overlap.dropna() == 1).all()


def test_the_number_of_tokens_at_once_does_not_matter(grown, monkeypatch, tmp_path):
    _, run = grown
    whole = neurons(run, blocks=BLOCKS)
    monkeypatch.setattr(reading, "AT_ONCE", 1)
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "other"))
    steps = []
    single = neurons(run, blocks=BLOCKS, on_progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, BLOCKS) for done in range(BLOCKS + 1)]
    for column in ("mean_activation", "kurtosis", "donor_correlation", "activation"):
        np.testing.assert_allclose(single[column], whole[column], rtol=1e-3, atol=1e-5)
    assert (single.token == whole.token).mean() > 0.99  # ties up to rounding


def test_largest_is_a_stable_sort():
    values = torch.randint(0, 5, (40, 30), generator=torch.Generator().manual_seed(0)).float()
    for count in (1, 7, 40):
        assert torch.equal(largest(values, count), values.argsort(dim=0, descending=True, stable=True)[:count])


def test_statistics_lose_no_digits_to_a_large_mean_and_know_constants():
    chance = np.random.default_rng(0)
    values = (1e4 + chance.exponential(1.0, (4096, 3))).astype("float32")
    values[:, 2] = 0.1
    found = LayerStatistics(kept=2)
    for some in torch.from_numpy(values).split(1000):
        found.add(some)
    exact = values.astype(float)[:, :2]
    assert found.means[:2].numpy() == pytest.approx(exact.mean(0), rel=1e-12)
    assert found.kurtoses[:2].numpy() == pytest.approx(stats.kurtosis(exact, fisher=False), rel=1e-6)
    assert found.kurtoses[2].isnan() and found.active_shares.tolist() == [1, 1, 1]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_every_family_is_read_or_refused(family, tmp_path):
    """Read as (tokens, units), in one pass or several; refused in one line, before its model is loaded."""
    tiny(family).save_pretrained(tmp_path / family)
    checkpoint = open_run([tmp_path / family]).checkpoints[-1]
    tokens = torch.randint(3, 60, (3, 10), generator=torch.Generator().manual_seed(0))
    layers = checkpoint.lineage.stack[-1:]
    if family in REFUSED:
        with pytest.raises(BadInput, match=r"has no single output projection|only weights are measured"):
            list(reading.activations(checkpoint, layers, tokens))
        return
    [found] = reading.activations(checkpoint, layers, tokens)
    expected = 4 * 32 if family == "bloom" else UNITS
    assert {id: tuple(values.shape) for id, values in found.items()} == {layers[0]: (30, expected)}
    assert float(found[layers[0]].std()) > 0


def test_an_ffn_that_reads_tokens_in_chunks_is_put_together(tmp_path):
    tokens = torch.randint(3, 60, (3, 10), generator=torch.Generator().manual_seed(0))
    found = []
    for chunk in (0, 5):
        tiny("bert", chunk_size_feed_forward=chunk).save_pretrained(tmp_path / str(chunk))
        checkpoint = open_run([tmp_path / str(chunk)]).checkpoints[-1]
        found += [values["a"] for values in reading.activations(checkpoint, ["a"], tokens)]
    torch.testing.assert_close(found[0], found[1])


def test_activations_that_are_not_finite_are_refused(runs, tmp_path):
    def damage(tensors, stack):
        tensors["transformer.h.1.mlp.c_fc.bias"][3] = np.inf

    with pytest.raises(BadInput, match="activations of its FFN units are not finite"):
        neurons(edited(runs["gpt2"], tmp_path / "run", damage), blocks=2)


def test_strongest_keeps_the_order_of_layers_and_of_activations(runs):
    run = open_run([runs["gpt2"]])
    table = neurons(run, blocks=2)
    shown = strongest(table, table.layer.unique(), 2)
    assert len(shown) == 2 * 5 * table.layer.nunique()
    for _, rows in shown.groupby("layer"):
        first = rows[rows["rank"] == 1]
        assert first.activation.is_monotonic_decreasing and first.activation.iloc[0] == rows.activation.max()
    assert shown["index"].is_monotonic_increasing
    assert len(strongest(table, table.layer.unique(), 0)) == len(table)


def test_the_command_writes_a_table_and_a_page(runs, tmp_path, monkeypatch):
    words = ["neurons", str(runs["bert"]), "--blocks", "4", "--units", "1", "--top", "2"]
    done = call("pli-analyze", *words, "-o", "table.csv", "--html", "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "copied units: the median correlation with the unit that each was copied from is" in done.stderr
    lines = (tmp_path / "table.csv").read_text().splitlines()
    inserted = sum(layer.birth.event is not None for layer in open_run([runs["bert"]]).lineage.layers.values())
    assert len(lines) == 1 + 2 * inserted
    text = (tmp_path / "page.html").read_text()
    assert text.count("<mark>") == 2 * inserted and "Copied units and their donors" in text
    monkeypatch.setattr(checkpoint_model, "model_of", lambda *_, **__: pytest.fail("was measured again"))
    table = pli_analysis.neurons(open_run([runs["bert"]]), blocks=4, top=2)
    assert table.plot().data and len(of_units(table)) == 64 * (inserted + 1)


def test_layers_and_units_are_chosen_by_id(runs, tmp_path):
    path, out = str(runs["gpt2"]), tmp_path / "table.csv"
    done = call("pli-analyze", "neurons", path, "--blocks", "2", "--unit", "b.u9", "--unit", "a.u3", "-o", out)
    assert done.returncode == 0, done.stderr
    units = [re.search(r"[a-z]\.u\d+", line)[0] for line in out.read_text().splitlines()[1:]]
    assert units == ["b.u9"] * 5 + ["a.u3"] * 5
    for words, message in {
        ("--layer", "zz"): "layer 'zz' is not in the stack at this step",
        ("--unit", "b.u999"): "--unit b.u999: there is no such unit (the last one of the layer is b.u127)",
        ("--unit", "b.u1", "--layer", "b"): "--layer and --unit exclude each other",
    }.items():
        refused(call("pli-analyze", "neurons", path, "--blocks", "2", *words), message)


def test_excerpts_are_escaped_and_printed(runs, capsys):
    hostile = [Excerpt("1", "<script>", "<img src=x>", "&amp;")]
    text = page.html(Report("run", "", [Section("neurons", "Neurons", excerpts=[("<b>unit</b>", hostile)])]))
    assert "&lt;script&gt;<mark>&lt;img src=x&gt;</mark>&amp;amp;" in text and "&lt;b&gt;unit" in text
    assert "<img src=x" not in text
    found = section(neurons(open_run([runs["gpt2"]]), blocks=2))
    terminal.show(Report("run", "", [found]))
    printed = capsys.readouterr().out
    title, excerpts = found.excerpts[0]
    assert title in printed and f"{excerpts[0].before}[{excerpts[0].token}]" in printed


def test_a_run_that_did_not_grow_has_no_donors(config_of, tmp_path):
    overrides = {"train.steps": 2, "growth.schedule": "", "model.initial_layers": 2}
    launch.begin(config_of("gpt2", overrides), tmp_path / "run").run()
    found = section(neurons(open_run([Path(tmp_path / "run")]), blocks=2))
    assert [figure.id for figure in found.figures] == ["unit-activity"]
    assert found.headline.startswith("The median unit is active at") and found.headline in found.figures[0].caption
