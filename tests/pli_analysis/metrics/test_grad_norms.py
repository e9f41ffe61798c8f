"""Gradient norms as tables: what was logged, what events did to it, and what it is at checkpoints."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from pli_analysis.figures import grad_norms as figure
from pli_analysis.inference import eval_tokens
from pli_analysis.metrics.grad_norms import logged as metric
from pli_analysis.metrics.grad_norms.recomputed import recomputed
from pli_analysis.report import grad_norms as message
from pli_analysis.runs.opening import open_run
from pli_analysis.scalars.events import Columns
from pli_analysis.scalars.reading import Scalars, read
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.by_hand import slow_heads
from tests.commands import call, refused
from tests.conftest import SCHEDULE

AUTO = {"bert": AutoModelForMaskedLM, "gpt2": AutoModelForCausalLM, "llama": AutoModelForCausalLM}
MEASURED = [1, 4, 7, 10]  # the first update, those right after growth at 3, 6 and 9, and the tenth
SUMS = ("total", "layer")


@pytest.fixture(scope="module")
def grown_heads(config_of, tmp_path_factory):
    """A run whose layers differ in heads and FFN units, so that its checkpoints are padded."""
    events = [
        {"at": 2, "index": 0},
        {"at": 3, "operator": "heads", "to": 4, "layers": ["a"]},
        {"at": 4, "operator": "ffn", "to": 64, "layers": ["b"]},
    ]
    overrides = {"model.initial_heads": 2, "growth.schedule": events, "train.steps": 6, "checkpoint.every": 3}
    folder = tmp_path_factory.mktemp("runs") / "llama"
    launch.begin(config_of("llama", overrides), folder).run()
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "some.py"
    path.write_text("def one(a, b):\n    return a + b  # and so on\n" * 60)
    return path


def logged(folder):
    run = open_run(folder)
    return metric.logged(run.scalars, run.lineage)


def test_the_table_says_what_was_logged_of_whom_at_which_age_and_place(runs, family):
    table, raw, lineage = logged(runs[family]), read(runs[family]).values, open_run(runs[family]).lineage
    assert sorted(table["step"].unique()) == MEASURED
    assert len(table) == sum(len(points) for tag, points in raw.items() if tag.startswith("grad_norm/"))
    for row in table.itertuples():
        inside = not pd.isna(row.layer)
        name = row.part if row.part_type in ("layer", "head") else row.layer if inside else "outside"
        tag = row.part_type if row.part_type in ("total", "embeddings") else f"{row.part_type}/{name}"
        assert raw[f"grad_norm/{tag}"][row.step][1] == row.grad_norm
        if inside:
            assert row.age == row.step - lineage.layers[row.layer].birth.step
            assert row.index == lineage.stack_at(row.step - 1).index(row.layer)
        else:
            assert pd.isna(row.age) and pd.isna(row.index)
    first = table[table["part_type"] == "layer"].drop_duplicates("part").set_index("part")
    assert first["age"].to_dict() == dict.fromkeys("abcde", 1)


def test_squares_of_the_parts_in_the_table_sum_to_the_total(runs, family):
    for _, rows in logged(runs[family]).groupby("step"):
        total = rows[rows["part_type"] == "total"]["grad_norm"].item()
        parts = rows[~rows["part_type"].isin(SUMS)]
        assert np.square(parts["grad_norm"]).sum() == pytest.approx(total**2, rel=1e-5)


def test_a_group_is_as_old_as_its_first_head(grown_heads):
    last = logged(grown_heads).query("step == 5").set_index("part")
    assert last.loc[["a.h1", "a.g0", "a.h2", "a.h3", "a.g1"], "age"].tolist() == [5, 5, 2, 2, 2]


def scalars_of(norms):
    """Norms of the total at steps 1, 2, 3, …"""
    steps = np.arange(1, len(norms) + 1)
    return Scalars({"grad_norm/total": Columns(steps, np.zeros(len(norms)), np.array(norms, dtype=float))})


def test_before_and_after_are_medians_up_to_the_next_event():
    lineage = Lineage.begin(1, heads=2)
    lineage.insert(1, 4, "random")
    lineage.insert(1, 4, "random")
    lineage.insert(1, 6, "random")
    table = metric.logged(scalars_of([9, 1, 5, 3, 20, 40, 7, 7, 7]), lineage)
    found = metric.around(table, lineage).to_dict("records")
    assert [row["step"] for row in found] == [4, 6]
    names = ["grad_norm_before", "grad_norm_after", "grad_norm_ratio", "measurements", "event"]
    assert [[row[name] for name in names] for row in found] == [[3, 30, 10, 2, "+b +c"], [30, 7, 7 / 30, 2, "+d"]]
    assert metric.around(table, lineage, window=1)["grad_norm_before"].tolist() == [3, 40]


def test_a_part_born_at_the_event_has_no_before(runs, family):
    run = open_run(runs[family])
    around = metric.around(logged(runs[family]), run.lineage)
    at_three = around[(around["step"] == 3) & (around["part_type"] == "layer")]
    assert at_three["part"].tolist() == ["a"]
    assert set(around[around["part_type"] == "head"]["layer"]) <= {"a", "b", "c", "d"}


def test_thinning_keeps_whole_steps_with_the_first_and_last(runs):
    table = logged(runs["gpt2"])
    thin = metric.thinned(table, 2)
    assert thin["step"].unique().tolist() == [1, 10]
    assert len(thin) == table["step"].isin([1, 10]).sum()
    assert metric.thinned(table, 99).equals(table)


@pytest.mark.parametrize("which", ["bert", "gpt2", "llama"])
def test_recomputed_norms_equal_a_slow_reference(runs, grown_heads, which, text):
    """Plain from_pretrained on the folder, one backward pass, heads cut by hand; padded checkpoints included."""
    run = open_run(grown_heads if which == "llama" else runs[which])
    table = recomputed(run, text, blocks=3)
    tokens, labels = eval_tokens.batch_of(run, text, 3)
    assert table["checkpoint"].unique().tolist() == [str(found.name) for found in run.checkpoints]
    for found in run.checkpoints:
        model = AUTO[which].from_pretrained(found.path).double().eval()
        logits = model(input_ids=tokens).logits.flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, labels.flatten()).backward()
        mine = table[table["checkpoint"] == str(found.name)].set_index("part")["grad_norm"]
        whole = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None) ** 0.5
        assert mine["total"] == pytest.approx(whole, rel=1e-4)
        dim = 8 if which == "llama" else 16
        expected = slow_heads(model, found.anatomy, found.lineage.stack, dim)
        alive = {head for id in found.lineage.stack for head in found.lineage.layers[id].heads}
        padding = {name for name in expected if ".h" in name} - alive
        assert bool(padding) == (which == "llama" and found.step > 3 - found.name.after)
        assert all(expected[name] == 0 for name in padding)
        heads = {name: norm for name, norm in mine.items() if ".h" in name}
        assert heads == pytest.approx({name: expected[name] for name in alive}, rel=1e-3)
        levels = table[table["checkpoint"] == str(found.name)]
        squares = np.square(levels[~levels["part_type"].isin(SUMS)]["grad_norm"]).sum()
        assert squares == pytest.approx(whole**2, rel=1e-4)


def test_the_batch_is_the_text_in_blocks_and_masks_are_the_same_each_time(runs, text):
    causal, masked = open_run(runs["gpt2"]), open_run(runs["bert"])
    tokens, labels = eval_tokens.batch_of(causal, text, 3)
    assert tokens.shape == (3, 32) and torch.equal(labels[:, :-1], tokens[:, 1:]) and (labels[:, -1] == -100).all()
    inputs, targets = eval_tokens.batch_of(masked, text, 16)
    again = eval_tokens.batch_of(masked, text, 16)
    assert torch.equal(inputs, again[0]) and torch.equal(targets, again[1])
    chosen = targets != -100
    whole = torch.where(chosen, targets, inputs)
    assert 0.08 < chosen.float().mean() < 0.22 and (inputs[~chosen] == whole[~chosen]).all()
    assert 0.6 < (inputs[chosen] != targets[chosen]).float().mean() <= 1


@pytest.fixture
def damaged(runs, tmp_path):
    """A run with one checkpoint, whose config a test may change."""
    run = tmp_path / "run"
    shutil.copytree(runs["gpt2"], run)
    for name, path in run_folder.checkpoints(run):
        if name.step:
            shutil.rmtree(path)

    def change(**fields):
        file = run / "checkpoint-0" / run_folder.CONFIG
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))
        manifest = file.with_name(run_folder.MANIFEST)
        message = json.loads(manifest.read_text())
        message["files"][file.name]["bytes"] = file.stat().st_size
        manifest.write_text(json.dumps(message))
        return open_run(run)

    return change


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.py"}}, "'auto_map' is not a key of a gpt2's config"),
        ({"n_embd": 64}, "make no model .*has shape .*, expected .* from its config"),
        ({"n_layer": 10**9}, "make no model .*another number of layers"),
        ({"n_head": "two"}, "checkpoint-0"),
    ],
)
def test_a_config_that_is_not_the_weights_own_is_refused(damaged, text, fields, message):
    with pytest.raises(BadInput, match=message) as refusal:
        recomputed(damaged(**fields), text)
    assert "\n" not in str(refusal.value)


def test_texts_and_tokenizers_that_cannot_be_read_are_refused(runs, tmp_path, text):
    short = tmp_path / "short.txt"
    short.write_text("x")
    with pytest.raises(
        BadInput, match=r"short.txt: has 1 tokens, and a block of this run needs 32; give a longer text"
    ):
        eval_tokens.batch_of(open_run(runs["gpt2"]), short, 1)
    with pytest.raises(BadInput, match=r"gone.txt: no such file or folder"):
        eval_tokens.batch_of(open_run(runs["gpt2"]), tmp_path / "gone.txt", 1)
    run = tmp_path / "run"
    shutil.copytree(runs["bert"], run)
    settings = run / run_folder.TOKENIZER / "tokenizer_config.json"
    settings.write_text("{}")
    with pytest.raises(BadInput, match="has no mask token in the model's vocabulary"):
        eval_tokens.batch_of(open_run(run), text, 1)
    (run / run_folder.TOKENIZER / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="not a tokenizer"):
        eval_tokens.batch_of(open_run(run), text, 1)


def test_the_heat_map_draws_the_table_with_lines_at_events(runs):
    table = logged(runs["gpt2"])
    shown = table[table["part_type"].isin(figure.LEVELS)]
    drawn = figure.heat_map(shown, {3: "+b", 6: "+c +d", 9: "+e", 11: "late"})
    heat = drawn.data[0]
    stack = open_run(runs["gpt2"]).lineage.stack
    assert [name.strip() for name in heat.y] == [f"{id}.{part}" for id in stack for part in ("h0", "h1", "ffn")]
    norms = shown.set_index(["part", "step"])["grad_norm"]
    for name, values in zip(heat.y, heat.z, strict=True):
        for step, value in zip(heat.x, values, strict=True):
            key = (name.strip(), int(step))
            assert (key in norms.index) == bool(np.isfinite(value))
            if key in norms.index:
                assert 10.0**value == pytest.approx(norms[key], rel=2e-3)
    assert [line.x0 for line in drawn.layout.shapes] == [0.5, 1.5, 2.5]  # between 1 and 4, 4 and 7, 7 and 10


def test_the_report_states_what_the_table_says(runs, family):
    table = logged(runs[family])
    section = message.grad_norms(open_run(runs[family]))
    last = table[table["step"] == 10]
    heads = last[last["part_type"] == "head"].sort_values("grad_norm")
    high, low = heads.iloc[-1], heads.iloc[0]
    caption = section.figures[0].caption
    assert (
        f"{high['part']} has the largest norm, {high['grad_norm'] / low['grad_norm']:.1f} times that of {low['part']}"
        in caption
    )
    total = last[last["part_type"] == "total"]["grad_norm"].item()
    assert f"At step 10 the gradient norm is {total:.3g}" in caption
    assert any("At 3 steps with growth" in line for line in section.words)
    assert len(SCHEDULE.split()) == 4 and section.tables[0][1]["step"].unique().tolist() == [3, 6, 9]


def test_a_run_without_norms_says_so(config_of, tmp_path):
    overrides = {"train.grad_norms_every": 0, "train.steps": 2, "growth.schedule": ""}
    launch.begin(config_of("gpt2", overrides), tmp_path / "run").run()
    assert "no logged gradient norms" in message.grad_norms(open_run(tmp_path / "run")).words[0]
    refused(call("pli-analyze", "grad-norms", tmp_path / "run"), "set train.grad_norms_every")


def test_the_command_prints_the_table_and_writes_the_page(runs, tmp_path, text):
    done = call(
        "pli-analyze", "grad-norms", runs["gpt2"], "--of", "head", "-f", "json", "--html", tmp_path / "page.html"
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    expected = logged(runs["gpt2"]).query("part_type == 'head'")
    assert [(row["part"], row["step"], row["grad_norm"]) for row in rows] == list(
        expected[["part", "step", "grad_norm"]].itertuples(index=False, name=None)
    )
    assert "Gradient norm of each head and FFN" in (tmp_path / "page.html").read_text(encoding="utf-8")
    done = call("pli-analyze", "grad-norms", runs["gpt2"], "--events", "-f", "csv")
    assert done.stdout.splitlines()[0] == ",".join(metric.AROUND)


def test_a_folder_that_is_no_run_is_read_too(runs, tmp_path):
    for path in runs["gpt2"].glob(run_folder.SCALARS):
        shutil.copy(path, tmp_path)
    done = call("pli-analyze", "grad-norms", tmp_path, "--of", "layer", "-f", "json")
    assert {row["age"] for row in json.loads(done.stdout)} == {None}
    refused(call("pli-analyze", "grad-norms", tmp_path, "--events"), "has no lineage.json")


def test_bad_requests_get_one_line(runs, tmp_path, text):
    for words, expected in (
        (["--text", text], "use it with --recompute"),
        (["--recompute", "--text", text, "--events"], "omit --recompute"),
        (
            ["--of", "heads"],
            "'heads' is not one of 'layer', 'head', 'ffn', 'norms', 'attention', 'embeddings', 'other', 'total', "
            "'all'; did you mean 'head'?",
        ),
    ):
        assert len(refused(call("pli-analyze", "grad-norms", runs["gpt2"], *words), expected)) == 1
    refused(call("pli-analyze", "grad-norms", tmp_path / "nowhere"), "no such file or folder")
