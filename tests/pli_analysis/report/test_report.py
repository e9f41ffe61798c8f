import csv
import html
import io
import json
import re
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from pli_analysis import api
from pli_analysis.figures import loss as loss_figure
from pli_analysis.figures.palette import COLORS, DASHES, line_of
from pli_analysis.metrics.lineage import layers, locations
from pli_analysis.report import content, drift, overview, page, similarity, terminal
from pli_analysis.report.parts import Report
from pli_analysis.runs.opening import open_run
from pli_analysis.tables import Format, render
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from tests.commands import call, refused
from tests.drifting import Drifting


@pytest.fixture(scope="module")
def reports(runs):
    """The report of each family's run: family → Report. Tests must not change them."""
    return {family: content.build(open_run(folder)) for family, folder in runs.items()}


@pytest.fixture(scope="module")
def pages(reports):
    """The page of each report: family → HTML."""
    return {family: page.html(report) for family, report in reports.items()}


def test_two_renders_are_the_same_bytes(runs, pages, family):
    assert page.html(content.build(open_run(runs[family]))) == pages[family]


@pytest.mark.slow
def test_a_cold_cache_gives_the_bytes_of_a_warm_one(runs, family, monkeypatch, tmp_path):
    pages = []
    for folder in ("one", "one", "other"):
        monkeypatch.setenv("PLI_CACHE", str(tmp_path / folder))
        pages.append(page.html(content.build(open_run(runs[family]))))
    assert len(set(pages)) == 1
    kept = [len(list((tmp_path / folder).glob("planes/*"))) for folder in ("one", "other")]
    assert kept == [2, 2]


def test_maps_are_for_a_page_and_have_names(small_run, tmp_path):
    refused(call("pli-analyze", "report", small_run, "--maps", "tsne"), "use it with --html")
    wrong = call("pli-analyze", "report", small_run, "--html", tmp_path / "page.html", "--maps", "tsne,unap")
    refused(wrong, "unap is none of pca, tsne, umap; did you mean 'umap'?")


@pytest.mark.slow
def test_the_page_has_umap_when_asked_and_says_that_it_compiles_when_it_does(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "cache"))
    message = []
    for name in ("first.html", "second.html"):
        done = call("pli-analyze", "report", runs["gpt2"], "--html", tmp_path / name, "--maps", "tsne,umap")
        assert done.returncode == 0, done.stderr
        message.append("umap: loading and compiling it" in done.stderr)
    assert message == [True, False]
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()
    assert "x,y,x_tsne,y_tsne,x_umap,y_umap" in (tmp_path / "first.html").read_text()


def test_every_section_is_there_with_its_figures(reports, pages, family):
    message = reports[family]
    assert [section.id for section in message.sections] == [
        "summary",
        "loss",
        "lineage",
        "disturbance",
        "drift",
        "map",
        "grad-norms",
        "provenance",
    ]
    figures = [figure for section in message.sections for figure in section.figures]
    assert [figure.id for figure in figures] == [
        *("loss", "lineage"),
        *("drift-map", "drift-curves", "drift-cosine", "map", "grad-norms"),
    ]
    assert all(figure.caption.endswith(".") and len(figure.table) for figure in figures)
    text = html.unescape(pages[family])
    for figure in figures:
        assert html.escape(figure.caption, quote=False) in text or figure.caption in text


def test_explain_adds_sections_before_the_provenance(runs):
    """On GPT-2; a classifier of images has none of them, and says why."""
    found = content.build(open_run([runs["gpt2"]]), explain=True)
    ids = [section.id for section in found.sections]
    assert ids[-9:-5] == ["ablation", "pruning", "lens", "probe"]
    assert ids[-5:] == ["attribution", "conductance", "attention", "neurons", "provenance"]
    figures = [figure.id for section in found.sections for figure in section.figures]
    assert len(figures) == len(set(figures)) and {"layer-logits", "head-logits", "gains", "depths"} <= set(figures)
    assert {"ablation", "probe", "attribution"} <= {id for id, *_ in found.sections[0].findings}
    text = page.html(found)
    assert "How this is measured" in text and "Not measured" not in text


def test_the_summary_says_what_sections_found_and_they_say_how(reports, family):
    summary, *sections = reports[family].sections
    message = {section.id: section for section in sections}
    assert {"loss", "lineage", "drift", "grad-norms"} <= {id for id, *_ in summary.findings}
    for id, title, headline in summary.findings:
        assert (message[id].title, message[id].headline) == (title, headline)
        assert any(headline in figure.caption for figure in message[id].figures)
    assert all(section.method for section in sections if section.figures)


def test_the_page_draws_with_the_bundle_of_the_release_that_figures_are_made_by():
    from plotly.offline import get_plotlyjs_version

    version = re.search(r"plotly.js \(cartesian - minified\) v([\d.]+)", page.html(Report("run", "", []))).group(1)
    assert version.split(".")[0] == get_plotlyjs_version().split(".")[0]


def test_the_page_says_what_the_numbers_say(runs, family):
    run = open_run(runs[family])
    evals = run.scalars.table(run_folder.EVAL_LOSS)["value"]
    caption = overview.loss(run).figures[0].caption
    assert f"{evals.iloc[0]:.3f} to {evals.iloc[-1]:.3f}" in caption
    last = api.drift(run).query("step == 12").sort_values("relative_l2").iloc[-1]
    assert f"layer {last['part']} (age {last['age']})" in drift.drift(run).figures[0].caption


def test_nothing_that_a_run_says_becomes_markup(hostile_run):
    message = content.build(open_run(hostile_run))
    text, figures, tables = (
        page.html(message),
        len(message.figures),
        sum(len(section.tables) for section in message.sections),
    )
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    bundle = (files("pli_analysis") / "report" / "plotly-cartesian.min.js").read_text(encoding="utf-8")
    # What stands between script tags is our two scripts and data: no data can have opened or closed one.
    assert text.count("<script") == text.count("</script") == 2 + figures + tables + bundle.count("<script")


def test_data_in_the_page_reads_back_as_the_table(reports, pages, family):
    message = reports[family]
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', pages[family], re.S)
    held = {block["name"]: block["csv"] for block in map(json.loads, blocks)}
    table = next(figure.table for s in message.sections for figure in s.figures if figure.id == "drift-map")
    rows = list(csv.DictReader(io.StringIO(held["drift-map"])))
    assert [float(row["relative_l2"]) for row in rows] == table["relative_l2"].tolist()


def test_a_run_without_scalars_or_growth_reports_what_it_has(config_of, tmp_path, capsys):
    from pli_train.training import launch

    overrides = {"tracking.tensorboard": False, "train.steps": 2, "growth.schedule": ""}
    launch.begin(config_of("gpt2", overrides), tmp_path / "run").run()
    message = content.build(open_run(tmp_path / "run"))
    assert "no logged scalars" in message.sections[1].words[0]
    assert page.html(message)
    terminal.show(message)
    assert "No growth: the stack remained a." in capsys.readouterr().out


def test_the_terminal_prints_the_same_findings(reports, family, capsys):
    message = reports[family]
    terminal.show(message)
    printed = capsys.readouterr().out
    for section in message.sections:
        assert section.title.upper() in printed
        assert all(figure.caption in printed for figure in section.figures)


def test_tables_come_out_in_every_format(runs, family):
    table = layers(open_run(runs[family]).lineage)
    records = json.loads(render(table, Format.JSON))
    assert records[0]["layer"] == "a" and records[0]["donor"] is None
    rows = list(csv.DictReader(io.StringIO(render(table, Format.CSV))))
    assert [row["layer"] for row in rows] == [record["layer"] for record in records] == ["a", "b", "c", "d", "e"]
    drawn = render(table, Format.MD).splitlines()
    assert len(drawn) == 2 + len(table)
    assert [line.split("|")[1].strip() for line in drawn[2:]] == ["a", "b", "c", "d", "e"]
    assert render(pd.DataFrame({"x": ["a|b"]}), Format.MD).splitlines()[-1] == "| a\\|b |"


def test_indices_follow_the_stack():
    lineage = Lineage.begin(1, heads=1)
    lineage.insert(0, 10, "random")
    lineage.insert(1, 10, "random")
    table = locations(lineage, last_step=30)
    assert table.to_numpy().tolist() == [["a", 0, 0, 10], ["b", 0, 10, 30], ["c", 1, 10, 30], ["a", 2, 10, 30]]


def test_thinning_keeps_extremes_and_ends_of_the_range():
    values = np.sin(np.linspace(0, 60, 100_000)) + np.eye(1, 100_000, 54_321)[0] * 9
    kept = loss_figure.extremes(values, 2000)
    assert len(kept) <= 2000
    assert {values.argmax(), values.argmin()} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()


def test_a_layer_keeps_its_style_and_the_first_32_differ():
    from pli_train.core.lineage import layer_id

    styles = [tuple(line_of(layer_id(n)).values()) for n in range(len(COLORS) * len(DASHES))]
    assert len(set(styles)) == len(styles)


def test_lineage_comes_as_a_tree_and_as_a_page(runs, family, tmp_path):
    path = tmp_path / "lineage.html"
    done = call("pli-analyze", "lineage", runs[family], "--tree", "--html", path)
    layers = open_run(runs[family]).lineage.layers
    lines = {re.match("[│├└─ ]*([a-z]+) ", line)[1]: line for line in done.stdout.splitlines()}
    assert set(lines) == set(layers)
    for id, line in lines.items():
        assert f"born at step {layers[id].birth.step} " in line
        assert line.startswith(id) == (layers[id].birth.donor is None)
    assert "Layer stack over training" in path.read_text()
    call("pli-analyze", "lineage", runs[family], "--tree", "-o", tmp_path / "tree.txt")
    assert (tmp_path / "tree.txt").read_text() == done.stdout


def test_layers_that_did_not_move_are_not_reported_as_far(tmp_path):
    made = Drifting(tmp_path / "run", "gpt2")
    made.step = 1
    made.save()
    captions = [figure.caption for figure in drift.drift(open_run(made.folder)).figures]
    assert captions[0].startswith("At the last checkpoint no layer differs from its birth weights.")
    assert captions[2].startswith("The weights of no layer changed direction since birth.")


def test_numbers_that_differ_are_reported_with_digits_that_differ(tmp_path):
    """Both layers are stretched alike, but for one weight of one of them."""
    made = Drifting(tmp_path / "run", "gpt2")
    made.stretch(1.5)
    made.save()
    message = [drift.drift(open_run(made.folder)).headline]
    made.model.transformer.h[1].mlp.c_fc.weight.data[0, 0] += 0.3
    made.step = 2
    made.save()
    message.append(drift.drift(open_run(made.folder)).headline)
    assert message[0] == "At the last checkpoint all layers have the same relative L2 drift, 0.50."
    far, near = re.search(r"the largest relative L2 drift, ([\d.]+), .* smallest, ([\d.]+)\.$", message[1]).groups()
    assert float(far) > float(near) == 0.5


@pytest.mark.parametrize("cka", [[1.0, 1.0 - 1e-9, 1.0], [0.9991, 0.9987, 0.9989]])
def test_pairs_that_are_equally_alike_are_not_ranked(cka):
    pairs = pd.DataFrame({"layer_a": list("aab"), "layer_b": list("bcc"), "cka": cka})
    table = pairs.assign(run_a="run", run_b="run", checkpoint_a="x", checkpoint_b="x")
    message = similarity.verdict(table, over_time=False)
    if cka[0] == 1:
        assert message == "All pairs of layers are equally similar, with a CKA of 1.00."
    else:
        expected = (
            "The most similar layers are a and b, with a CKA of 0.9991; the least similar are a and c, with 0.9987."
        )
        assert message == expected


def test_captions_say_that_it_is_one_run_and_of_how_much(runs, reports, family):
    run = open_run(runs[family])
    captions = {figure.id: figure.caption for s in reports[family].sections for figure in s.figures}
    table = api.drift(run)
    of_drift = f"One run, {table['part'].nunique()} layers, {table['checkpoint'].nunique()} checkpoints."
    assert all(captions[id].endswith(of_drift) for id in ("drift-map", "drift-curves", "drift-cosine"))
    points = sum(len(checkpoint.lineage.stack) for checkpoint in run.states.values())
    assert captions["map"].endswith(f"One run, 5 layers, {points} points.")
    losses = [len(run.scalars.of(tag).steps) for tag in (run_folder.LOSS, run_folder.EVAL_LOSS)]
    assert captions["loss"].endswith(f"One run, {losses[0]} train losses, {losses[1]} eval losses.")
    assert re.search(r"One run, \d+ parts, \d+ measurements\.", captions["grad-norms"])
