"""Metrics of other packages: a command, a section of the report, and a method in Python."""

import json
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from safetensors.numpy import load_file
from typer.main import get_command

import pli_analysis as pli
from pli_analysis import cli
from pli_analysis.report import content, page, plugins
from pli_analysis.report.parts import Report
from pli_train.core.errors import BadInput, PliError
from pli_train.core.run_format import run_folder
from tests.commands import call
from tests.plugging import environment, example, installed, on_path

HOSTILE = "<script>alert(1)</script>&<b>"
SOURCE = f'''
import pandas as pd
import plotly.graph_objects as go
from pli_analysis import Metric
from pli_train.core.errors import BadInput

def table(run):
    return pd.DataFrame({{"name": ["{HOSTILE}", None], "value": [1.0, 2.0]}})

def figure(table):
    return go.Figure(go.Bar(x=table["name"], y=table["value"]))

def refuses(run):
    raise BadInput("the run has no such thing")

hostile = Metric(table, "{HOSTILE}", figure, lambda table: table["name"].iloc[0], [("{HOSTILE}", "{HOSTILE}")])
plain = Metric(table, "Plain")
empty = Metric(lambda run: pd.DataFrame({{"x": []}}), "Empty", figure)
refused = Metric(refuses, "Refused")
failing = Metric(lambda run: {{}}["lost"], "Failing")
listed = Metric(lambda run: [1], "Listed")
numbered = Metric(lambda run: pd.DataFrame([[1]]), "Numbered")
undrawn = Metric(table, "Undrawn", lambda table: "a drawing")
'''
NAMES = ["hostile", "plain", "empty", "refused", "failing", "listed", "numbered", "undrawn"]


@pytest.fixture
def packages(tmp_path):
    """The example, a package of odd metrics, and one that cannot be imported."""
    odd = installed(tmp_path / "odd", "odd-metrics", SOURCE, **{"pli_analysis.metrics": {n: n for n in NAMES}})
    taken = {"gone": "gone", "drift": "gone"}
    gone = installed(tmp_path / "gone", "gone-metrics", "import nowhere\n", **{"pli_analysis.metrics": taken})
    return [example(tmp_path / "example"), odd, gone]


@pytest.fixture
def plugged(packages, monkeypatch):
    on_path(monkeypatch, *packages)


def norms_of(path, layers):
    """The norm of each layer of a GPT-2, from its file."""
    tensors = load_file(path / run_folder.WEIGHTS)
    return [
        np.sqrt(sum((array.astype(float) ** 2).sum() for n, array in tensors.items() if f".h.{index}." in n))
        for index in range(layers)
    ]


def test_a_metric_of_a_package_is_a_command_with_the_usual_formats(runs, packages, tmp_path):
    drawn = tmp_path / "norms.html"
    done = call("pli-analyze", "weight-norms", runs["gpt2"], "-f", "json", "--html", drawn, env=environment(*packages))
    assert done.returncode == 0, done.stderr
    rows = pd.DataFrame(json.loads(done.stdout))
    run = pli.open_run(runs["gpt2"])
    last = rows[rows["step"] == run.checkpoints[-1].step]
    assert last["layer"].tolist() == run.lineage.stack
    assert last["norm"].tolist() == pytest.approx(norms_of(run.checkpoints[-1].path, len(last)), rel=1e-6)
    largest = last.loc[last["norm"].idxmax()]
    sentence = f"layer {largest['layer']} has the largest norm, {largest['norm']:.2f}."
    assert sentence in done.stderr and sentence in drawn.read_text()
    assert '<section id="weight-norms"' in drawn.read_text() and 'id="figure-weight-norms"' in drawn.read_text()


def test_help_lists_metrics_without_importing_their_packages(packages):
    done = call("pli-analyze", "--help", env=environment(*packages))
    assert re.search(r"weight-norms +Metric of pli-example-plugin 0\.1\.0\.\n", done.stdout)
    assert re.search(r"gone +Metric of gone-metrics 1\.0\.\n", done.stdout)
    assert re.search(r"drift +Distance", done.stdout)  # the project's own
    own = call("pli-analyze", "gone", "--help", env=environment(*packages))
    assert own.returncode == 0 and "Example: pli-analyze gone runs/tiny" in own.stdout


def test_the_report_has_a_section_of_each_metric_and_goes_on_past_broken_ones(runs, packages, tmp_path):
    file = tmp_path / "report.html"
    done = call("pli-analyze", "report", runs["gpt2"], "--html", file, env=environment(*packages))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    text = file.read_text()
    ids = re.findall(r'<section id="([^"]+)"', text)
    assert ids[-len(NAMES) - 3 :] == [*sorted([*NAMES, "gone", "weight-norms"]), "provenance"]
    assert 'id="figure-weight-norms"' in text and 'id="figure-hostile"' in text and 'id="figure-plain"' not in text
    for line in (
        "metric 'gone' of gone-metrics 1.0: cannot be imported (ModuleNotFoundError: No module named 'nowhere')",
        "metric 'failing' of odd-metrics 1.0 failed (KeyError: 'lost'); --verbose shows where",
        "metric 'listed' of odd-metrics 1.0: returned a list, expected a pandas DataFrame",
        "metric 'numbered' of odd-metrics 1.0: the columns of its table are [0], expected distinct texts",
        "metric 'undrawn' of odd-metrics 1.0: its figure is a str, expected a plotly Figure",
        "metric 'drift' of gone-metrics 1.0: left out, as pli itself uses this name",
    ):
        assert done.stderr.count(line) == 1
    assert "Not measured: the run has no such thing" in text and "no such thing" not in done.stderr
    # Text of a table, title, finding and method is shown as text.
    assert "<script>alert(1)" not in text and "<b>" not in text.partition('<section id="hostile"')[2]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&lt;b&gt;" in text
    assert r"\u0026lt;script\u0026gt;alert(1)" in text  # in the figure, where plotly reads markup


def test_a_broken_metric_alone_fails_with_one_line(runs, packages):
    for name, code, line in (
        ("gone", 1, "metric 'gone' of gone-metrics 1.0: cannot be imported (ModuleNotFoundError"),
        ("failing", 1, "metric 'failing' of odd-metrics 1.0 failed (KeyError: 'lost')"),
        ("refused", 2, "error: the run has no such thing"),
    ):
        done = call("pli-analyze", name, runs["gpt2"], env=environment(*packages))
        errors = [each for each in done.stderr.splitlines() if each.startswith("error:")]
        assert done.returncode == code and done.stdout == "" and len(errors) == 1 and line in errors[0]
    verbose = call("pli-analyze", "failing", runs["gpt2"], "--verbose", env=environment(*packages))
    assert "Traceback" in verbose.stderr and "odd_metrics.py" in verbose.stderr


def test_a_metric_in_python(runs, plugged):
    run = pli.open(runs["gpt2"])
    table = run.measure("weight-norms")
    assert table.equals(pli.measure(run.run, "weight-norms")) and isinstance(table.plot(), go.Figure)
    part = table.query("layer == 'a'").plot()
    assert [trace.name for trace in part.data] == ["a"]
    with pytest.raises(BadInput, match=r"has a metric 'weight-norm'; did you mean 'weight-norms'\?; installed: "):
        run.measure("weight-norm")
    with pytest.raises(BadInput, match="nothing to draw"):
        run.measure("plain").plot()


def test_sections_without_a_figure_or_rows(runs, plugged):
    run = pli.open_run(runs["gpt2"])
    made = {name: plugins.sections()[name](run) for name in ("plain", "empty")}
    assert [title for title, _ in made["plain"].tables] == ["Plain"] and not made["plain"].figures
    assert made["empty"].words == ["The table has no rows."] and not made["empty"].figures
    assert "the metric &#39;plain&#39; of odd-metrics 1.0" in page.html(Report("x", "y", [made["plain"]]))


def test_names_of_commands_and_sections_are_taken():
    own = {*get_command(cli.app).commands, *content.SECTIONS, *content.EXPLANATIONS, "summary"}
    assert own == plugins.TAKEN


def test_a_run_of_a_package_that_is_not_installed_says_so(mine):
    record = json.loads((mine / run_folder.RUN).read_text())
    record["plugins"] = [{"group": "pli_train.operators", "name": "shake", "package": "shaker", "version": "2"}]
    (mine / run_folder.RUN).write_text(json.dumps(record))
    done = call("pli-analyze", "lineage", mine)
    line = "operator 'shake' is of shaker 2, which is not installed; install it with: pip install shaker"
    assert done.returncode == 0 and done.stderr.splitlines() == [line]
    (mine / run_folder.RUN).write_text(json.dumps(record | {"plugins": ["?", {"group": {}}]}))
    assert call("pli-analyze", "lineage", mine).stderr == ""


def test_an_unexpected_error_of_a_finding_names_the_package(runs, tmp_path, monkeypatch):
    source = SOURCE + 'half = Metric(table, "Half", None, lambda table: table["lost"])\n'
    on_path(
        monkeypatch, installed(tmp_path / "half", "half-metric", source, **{"pli_analysis.metrics": {"half": "half"}})
    )
    with pytest.raises(PliError, match=r"metric 'half' of half-metric 1\.0 failed \(KeyError: 'lost'\)"):
        pli.measure(pli.open(runs["gpt2"]), "half")
