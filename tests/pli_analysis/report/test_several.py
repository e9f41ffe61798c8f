"""Several runs in one report: what they differ in, groups of seeds, and the page."""

import html
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from pli_analysis import api
from pli_analysis.cli import app
from pli_analysis.figures import disturbance
from pli_analysis.metrics.comparison import compare
from pli_analysis.metrics.comparison import configs as metric
from pli_analysis.metrics.comparison import curves as curve_metric
from pli_analysis.report import compare as losses
from pli_analysis.report import page, several
from pli_analysis.runs.opening import open_run
from pli_analysis.scalars import reading
from pli_train.core.run_format import run_folder
from tests.commands import call, refused


@pytest.fixture(scope="module")
def seeds(runs, config_of, tmp_path_factory):
    """Two seeds that grow, and one of full depth: name → folder."""
    from pli_train.training import launch

    folder = tmp_path_factory.mktemp("several")
    found = {"grown": runs["gpt2"], "grown-1": folder / "grown-1", "full": folder / "full"}
    launch.begin(config_of("gpt2", {"seed": 1}), found["grown-1"]).run()
    launch.begin(config_of("gpt2", {"growth.schedule": "", "model.initial_layers": 5}), found["full"]).run()
    shutil.copytree(runs["gpt2"], folder / "grown")
    return found | {"grown": folder / "grown"}


@pytest.fixture(scope="module")
def paired(seeds, config_of, tmp_path_factory):
    """Two groups of the same two seeds, as commands are asked for them."""
    from pli_train.training import launch

    other = tmp_path_factory.mktemp("paired") / "full-1"
    launch.begin(config_of("gpt2", {"seed": 1, "growth.schedule": "", "model.initial_layers": 5}), other).run()
    return [f"full={seeds['full']}", f"full={other}", f"grown={seeds['grown']}", f"grown={seeds['grown-1']}"]


@pytest.fixture(scope="module")
def message(seeds):
    asked = [f"{name.partition('-')[0]}={path}" for name, path in seeds.items()]
    return several.build({name: open_run(path) for name, path in seeds.items()}, curve_metric.read(asked))


def test_each_section_finds_something_and_says_how(message):
    assert [section.id for section in message.sections] == [
        *("summary", "comparison", "differences", "lineage", "disturbance", "provenance"),
    ]
    ids = {section.id for section in message.sections}
    findings = message.sections[0].findings
    assert {"comparison", "differences"} <= {id for id, *_ in findings} <= ids
    assert all(headline.endswith(".") for *_, headline in findings)
    assert all(section.method for section in message.sections if section.figures)
    figures = [figure for section in message.sections for figure in section.figures]
    assert len({figure.id for figure in figures}) == len(figures) >= 4
    assert all(len(figure.table) and figure.caption.endswith(".") for figure in figures)


def test_the_page_is_the_same_bytes_and_covers_all_runs(message, seeds):
    assert page.html(message) == page.html(message)
    table = message.sections[0].tables[0][1].set_index("run")
    assert list(table.index) == list(seeds) and table["group"].tolist() == ["grown", "grown", "full"]
    assert table.loc["grown", "layers"] == "1 → 5" and table.loc["full", "layers"] == "5"
    for name, path in seeds.items():
        run = open_run(path)
        assert table.loc[name, "eval loss"] == run.scalars.table(run_folder.EVAL_LOSS)["value"].iloc[-1]
        assert table.loc[name, "seed"] == run.record["seed"]


def test_events_of_all_runs_are_in_one_table(message, seeds):
    events = next(table for section in message.sections for title, table in section.tables if title == "Growth events")
    for name in ("grown", "grown-1"):
        mine = events[events["run"] == name]
        run = open_run(seeds[name])
        assert mine["step"].tolist() == sorted({event.step for event in run.lineage.events})
        alone = api.disturbance(run).events.set_index("step")["loss_after"]
        assert mine.set_index("step")["loss_after"].to_dict() == pytest.approx(alone.to_dict(), nan_ok=True)
        assert mine["height"].between(0, 1).all() and (mine["initializer"] == "clone-noise").all()
    assert "full" not in set(events["run"])


def test_spikes_of_all_runs_are_in_one_figure():
    events = pd.DataFrame({"run": ["r", "r", "q"], "step": [1, 2, 1], "event": ["+b", "+c", "+b"]})
    events = events.assign(initializer=["clone", "random", "clone"], height=[0.0, 1.0, 0.5], spike=[0.1, 0.2, 0.3])
    first, second = disturbance.spikes(events).data
    assert (first.name, list(first.x), list(first.y)) == ("r", [0.0, 1.0], [0.1, 0.2])
    assert first.marker.symbol[0] == second.marker.symbol[0] != first.marker.symbol[1]
    assert first.marker.color != second.marker.color


def test_differences_between_configs_are_sorted_by_meaning(seeds, tmp_path):
    opened = {name: open_run(path) for name, path in seeds.items()}
    table = metric.differences(opened)
    assert dict(zip(table["key"], table["kind"], strict=True)) == {
        "growth.schedule": "growth",
        "model.initial_layers": "growth",
        "seed": "seed",
    }
    assert table.set_index("key").loc["model.initial_layers", "full"] == "5"
    assert "in nothing else" in several.differences(opened).headline
    other = shutil.copytree(seeds["full"], tmp_path / "tuned")
    record = json.loads((other / run_folder.RUN).read_text())
    record["config"]["optim"]["lr"] = 0.5
    (other / run_folder.RUN).write_text(json.dumps(record))
    message = several.differences({"full": opened["full"], "tuned": open_run(other)})
    assert "Besides growth, the runs differ in optim.lr" in message.headline


def test_runs_alike_differ_in_nothing(seeds):
    same = several.differences({"one": open_run(seeds["full"]), "other": open_run(seeds["full"])})
    assert "differ in nothing" in same.headline and not same.tables


def test_the_command_takes_several_runs_and_groups(seeds, tmp_path):
    out = tmp_path / "several.html"
    asked = [f"grown={seeds['grown']}", f"grown={seeds['grown-1']}", f"full={seeds['full']}"]
    done = call("pli-analyze", "report", *asked, "--html", out)
    assert done.returncode == 0 and done.stdout.strip() == str(out)
    assert "3 runs" in out.read_text()
    printed = call("pli-analyze", "report", seeds["grown"], seeds["full"]).stdout
    assert "grown and full: 2 runs side by side" in printed and "CONFIG DIFFERENCES" in printed


def independently(asked, by):
    """Loss and speed-up of the second group over the first by scipy alone, from the scalars as logged."""
    curves = {"full": [], "grown": []}
    for one in asked:
        group, path = one.split("=")
        logged = reading.read(Path(path))
        losses = logged.table(run_folder.EVAL_LOSS)
        steps, along = losses["step"], losses["step"]
        if by == "flops":
            flops = logged.table(run_folder.FLOPS)
            along = np.interp(steps, [0, *flops["step"]], [0, *flops["value"]])
        curves[group].append((np.asarray(along, dtype=float), losses["value"].to_numpy()))
    every = curves["full"] + curves["grown"]
    at = min(along[-1] for along, _ in every)
    ends = {name: [np.interp(at, *curve) for curve in of] for name, of in curves.items()}
    relative_distances = stats.ttest_rel(ends["grown"], ends["full"])
    level = math.ceil(max(losses[-1] for _, losses in every) * 1000) / 1000
    logs = {name: [np.log(np.interp(-level, -losses, along)) for along, losses in of] for name, of in curves.items()}
    sooner = stats.ttest_rel(logs["full"], logs["grown"])
    return {
        "loss": [np.mean(ends[name]) for name in ("full", "grown")],
        "difference": [np.mean(ends["grown"]) - np.mean(ends["full"]), *relative_distances.confidence_interval(0.95)],
        "level": level,
        "speed_up": np.exp(
            [np.mean(logs["full"]) - np.mean(logs["grown"]), *sooner.confidence_interval(0.95)]
        ).tolist(),
    }


def numbers(text):
    return [float(found) for found in re.findall(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?", text)]


def asked_for(*words):
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.parametrize("by", ["step", "flops"])
def test_command_table_caption_summary_and_page_agree_on_several_runs(paired, tmp_path, by):
    expected, compared, several_page = independently(paired, by), tmp_path / "compared.html", tmp_path / "several.html"
    done = asked_for("compare", *paired, "--by", by, "--html", compared, "--format", "json")
    verdict = done.stderr.splitlines()[0]

    # The sentence has the numbers of an independent analysis, …
    (base, mine), (relative_distances, low, high) = expected["loss"], expected["difference"]
    assert numbers(verdict.split("), ", 1)[1]) == pytest.approx([base, mine, relative_distances, low, high], abs=0.0006)
    assert verdict.count("(2 runs)") == 2 and "paired by seed, 2 pairs" in verdict

    # … and so have both tables of the command, …
    rows = {row["group"]: row for row in json.loads(done.stdout)}
    (loss,) = (name for name in rows["full"] if name.startswith("eval/loss at "))
    assert [rows[name][loss] for name in ("full", "grown")] == pytest.approx(expected["loss"])
    assert [rows["grown"][name] for name in ("difference", "difference_low", "difference_high")] == pytest.approx(
        expected["difference"]
    )
    assert (rows["grown"]["pairing"], rows["grown"]["pairs"], rows["grown"]["runs"]) == ("seed", 2, 2)
    ups = json.loads(asked_for("compare", *paired, "--by", by, "--speed-ups", "--format", "json").stdout)
    up = next(row for row in ups if row["group"] == "grown")
    assert up["loss_level"] == expected["level"]
    assert [up[name] for name in ("speed_up", "speed_up_low", "speed_up_high")] == pytest.approx(expected["speed_up"])
    assert rows["grown"][f"speed-up to {up['loss_level']:g}"] == up["speed_up"]

    # … the caption of the speed-up, …
    found = compare.compared(curve_metric.read(paired), by)
    caption = losses.speed_up_words(found)
    assert numbers(caption) == pytest.approx([expected["level"], *expected["speed_up"]], rel=0.006)

    # … both pages, the report's summary and the report in a terminal.
    asked_for("report", *paired, "--html", several_page)
    pages, printed = (
        [html.unescape(page.read_text()) for page in (compared, several_page)],
        asked_for("report", *paired),
    )
    for shown in pages:
        assert verdict in shown and caption in shown
        assert all(f"<td>{value:.6g}</td>" in shown for value in [*expected["loss"], *expected["difference"][1:]])
        assert all(f"<td>{value:.6g}</td>" in shown for value in expected["speed_up"])
    assert f'<p class="lead">{verdict}</p>' in pages[0]
    if by == "flops":
        top = pages[1][: pages[1].index("<main")]
        plain = losses.plain_verdict(found)
        assert plain in top and plain in printed.stdout
        low, high = sorted((low, high))
        unclear = low <= 0 <= high
        said = [relative_distances if unclear else abs(relative_distances), low, high]
        assert numbers(plain.replace("95 %", "")) == pytest.approx(said, abs=0.0006)
        assert ("does not differ clearly from full" in plain) == unclear and "2 runs against 2 runs" in plain
        values = dict(re.findall(r"<dt>(.*?)</dt>\s*<dd><b>(.*?)</b>", top))
        assert float(values["Loss at equal FLOPs"]) == pytest.approx(base, abs=0.0006)
        assert float(values["Speed-up in FLOPs"]) == pytest.approx(expected["speed_up"][0], rel=0.006)
        assert f"<span>{verdict} {caption}</span>" in pages[1]
        assert f"Comparison: {verdict} {caption}" in printed.stdout
    else:
        assert f"Losses. {verdict}" in printed.stdout and f"Speed-up over full. {caption}" in printed.stdout


@pytest.mark.parametrize(
    ("grown", "words"),
    [
        (
            [3.0, 3.11, 3.19],
            "grown ends with a loss 1.000 lower than that of full (3 runs against 3 runs; 95 % interval",
        ),
        (
            [5.0, 5.11, 5.19],
            "grown ends with a loss 1.000 higher than that of full (3 runs against 3 runs; 95 % interval",
        ),
        ([3.9, 4.11, 4.31], "grown does not differ clearly from full: +0.007 in loss (3 runs against 3 runs; 95 %"),
        (
            [3.0],
            "grown ends with a loss 1.100 lower than that of full (one run against 3 runs; no interval: too few runs)",
        ),
        ([5.0], "grown ends with a loss 0.900 higher than that of full (one run against 3 runs; no interval:"),
    ],
)
def test_a_verdict_is_clear_only_where_the_interval_leaves_out_0(grown, words):
    finals = [("full", loss) for loss in (4.0, 4.1, 4.2)] + [("grown", loss) for loss in grown]
    curves = [
        curve_metric.Curve(f"{group}-{number}", group, pd.DataFrame({"step": [0, 10], "loss": [6.0, loss]}))
        for number, (group, loss) in enumerate(finals)
    ]
    assert losses.plain_verdict(compare.compared(curves)).startswith(f"At equal steps, {words}")
    assert losses.plain_verdict(compare.compared(curves[:3])) == ""


@pytest.mark.parametrize("option", ["--maps", "--lineage"])
def test_what_is_for_one_run_is_refused_for_several(seeds, option, tmp_path):
    words = [seeds["grown"], seeds["full"], option, "tsne", "--html", tmp_path / "out.html"]
    refused(call("pli-analyze", "report", *words), f"{option}: applies to one run only, and 2 were given")


def test_two_runs_of_one_name_are_distinguished_by_the_folders_above(seeds, tmp_path):
    other = Path(shutil.copytree(seeds["full"], tmp_path / "full"))
    rows = json.loads(asked_for("compare", seeds["full"], f"g={other}", "--runs", "--format", "json").stdout)
    assert {row["run"] for row in rows} == {f"{path.parent.name}/full" for path in (seeds["full"], other)}
    printed = asked_for("report", seeds["full"], other).stdout
    assert f"{seeds['full'].parent.name}/full and {tmp_path.name}/full: 2 runs side by side" in printed
    refused(call("pli-analyze", "report", seeds["full"], seeds["full"]), "is given twice")


def test_a_folder_of_runs_is_its_runs(seeds, tmp_path):
    for name in ("grown", "full"):
        shutil.copytree(seeds[name], tmp_path / "runs" / name)
    printed = asked_for("report", tmp_path / "runs").stdout
    assert "full and grown: 2 runs side by side" in printed
    refused(call("pli-analyze", "drift", tmp_path / "runs"), "holds 2 runs; give one of")
    refused(call("pli-analyze", "watch", tmp_path / "runs"), "holds 2 runs; give one of")
    shutil.rmtree(tmp_path / "runs" / "full")
    assert "grown  finished" in asked_for("watch", tmp_path / "runs", "--once").stdout
