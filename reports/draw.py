"""Draw the figures of a report as SVG: `python reports/draw.py NAME`. Needs Chromium.

loss.svg: losses over FLOPs, from reports/NAME/curves.csv, a table of `pli-analyze compare --points`. Groups whose name
starts with `depth-` are fixed depths, whose envelope is drawn too.

layers.svg: loss change without each layer, from reports/NAME/ablation.csv, with a column for group and seed.

explain.svg: differences of inserted and matched layers, from reports/NAME/runs.csv and tests.csv, tables of
`pli-analyze explain`.

differences.svg: loss of each variant of a grid minus that of the first one, from reports/NAME/differences.csv.

Figures of a single report are in its figure.py: a function `figures` that returns file name → figure.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd

from pli_analysis.figures import compare as figures
from pli_analysis.figures import explain as explain_figures
from pli_analysis.figures.palette import LEGEND, NEUTRAL, numbered_line
from pli_analysis.metrics.comparison import compare, envelope
from pli_analysis.metrics.comparison.curves import Curve
from pli_analysis.metrics.comparison.group_difference import mean
from pli_analysis.metrics.explain.contrasts import REFERENCES
from pli_analysis.metrics.explain.measures import MEASURES
from pli_analysis.report import compare as report

REPORTS = Path(__file__).parent
PLOTLY = REPORTS.parent / "pli_analysis" / "report" / "plotly-cartesian.min.js"
CHROMIUM = "/usr/bin/chromium"
FIXED = "depth-*"


def curves(name: str) -> list[Curve]:
    """Return the committed curves of a report."""
    table = pd.read_csv(REPORTS / name / "curves.csv", dtype={"group": str})
    runs = table.groupby(["run", "group", "seed"], sort=False)
    return [Curve(run, group, rows.reset_index(drop=True), seed=int(seed)) for (run, group, seed), rows in runs]


def skipped(name: str) -> dict[str, object]:
    """Return the figure of skipped layers: mean and 95 % interval over seeds (Student's t) by group and index."""
    import plotly.graph_objects as go

    table = pd.read_csv(REPORTS / name / "ablation.csv")
    figure = go.Figure()
    for number, (group, rows) in enumerate(table[table["ablation"] == "skip"].groupby("group", sort=False)):
        indices, changes = zip(*rows.groupby("index")["loss_change"], strict=True)
        value, low, high = np.array([mean(over_seeds.to_numpy()) for over_seeds in changes]).T
        figure.add_scatter(
            x=np.array(indices) + 1 + (number - 0.5) * 0.2,  # side by side
            y=value,
            error_y={"array": high - value, "arrayminus": np.minimum(value - low, value * 0.999)},
            mode="markers",
            marker={"size": 8, "symbol": ("circle", "diamond")[number], "color": numbered_line(number)["color"]},
            name=str(group),
        )
    figure.update_layout(width=860, height=430, template="plotly_white", margin={"l": 70, "r": 30, "t": 20, "b": 110})
    figure.update_layout(legend=LEGEND)
    figure.update_xaxes(title="position in the stack, from the bottom", dtick=1)
    figure.update_yaxes(title="loss change if skipped (nats per byte)", type="log", dtick=1, tickformat="~g")
    figure.update_yaxes(range=[-3, 1])  # intervals that include 0 would be endless
    shown: dict[str, object] = figure.to_plotly_json()
    return shown


def differences(name: str) -> dict[str, object]:
    """Return the figure of paired differences: mean and 95 % interval (Student's t) by variant."""
    import plotly.graph_objects as go

    table = pd.read_csv(REPORTS / name / "differences.csv").iloc[::-1]
    figure = go.Figure()
    figure.add_scatter(
        x=table["difference"],
        y=table["variant"],
        error_x={"array": table["high"] - table["difference"], "arrayminus": table["difference"] - table["low"]},
        mode="markers",
        marker={"size": 9, "color": numbered_line(0)["color"]},
    )
    figure.add_vline(0, line={"color": NEUTRAL, "width": 1})
    figure.update_layout(width=860, height=430, template="plotly_white", margin={"l": 170, "r": 30, "t": 20, "b": 70})
    figure.update_xaxes(title=f"loss − loss of {table['reference'].iloc[0]} (nats per byte)")
    shown: dict[str, object] = figure.to_plotly_json()
    return shown


def explained(name: str) -> dict[str, object]:
    """Return the figure of inserted and matched layers."""
    table, tests = (pd.read_csv(REPORTS / name / file) for file in ("runs.csv", "tests.csv"))
    known = set(tests["measure"]), set(tests["reference"])
    measures = [(measure.name, measure.title) for measure in MEASURES if measure.name in known[0]]
    references = [reference for reference in REFERENCES if reference in known[1]]
    figure = explain_figures.differences(table, tests, measures, references)
    figure.update_layout(width=860, template="plotly_white", margin={"l": 110, "r": 30, "t": 20, "b": 60})
    shown: dict[str, object] = figure.to_plotly_json()
    return shown


def drawing(found: compare.Comparison) -> dict[str, object]:
    """Return the figure of a comparison over FLOPs, as plotly.js takes it."""
    points = report.drawn_points(found.curves, {"flops": "flops"})
    points = points[points["flops"] > 0]  # the axis is logarithmic
    figure = figures.losses(points, ["flops"], "eval loss (nats per byte)", envelope.NAME if found.envelope else "")
    groups, named = dict(zip(points["run"], points["group"], strict=True)), set()
    for trace in figure.data:
        trace.name = groups[trace.name]
        trace.showlegend = trace.name not in named
        named.add(trace.name)
    figure.update_layout(width=860, height=430, template="plotly_white", margin={"l": 70, "r": 30, "t": 20, "b": 110})
    figure.update_xaxes(type="log", dtick=1)
    shown: dict[str, object] = figure.to_plotly_json()
    return shown


def svg(figure: dict[str, object]) -> bytes:
    """Return a figure as SVG, drawn by plotly.js in Chromium."""
    from playwright.sync_api import sync_playwright
    from plotly.utils import PlotlyJSONEncoder

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.add_script_tag(path=str(PLOTLY))
        drawn = json.loads(json.dumps(figure, cls=PlotlyJSONEncoder))
        size = f"width: 860, height: {drawn['layout'].get('height', 430)}"
        script = f"figure => Plotly.toImage(figure, {{format: 'svg', {size}}})"
        image = page.evaluate(script, drawn)
        browser.close()
    return unquote(image.partition(",")[2]).encode()


def main(name: str) -> None:
    """Draw the figures of one report."""
    if (REPORTS / name / "ablation.csv").exists():
        (REPORTS / name / "layers.svg").write_bytes(svg(skipped(name)))
    if (REPORTS / name / "tests.csv").exists():
        (REPORTS / name / "explain.svg").write_bytes(svg(explained(name)))
    if (REPORTS / name / "differences.csv").exists():
        (REPORTS / name / "differences.svg").write_bytes(svg(differences(name)))
    if (own := REPORTS / name / "figure.py").exists():
        for file, figure in runpy.run_path(str(own))["figures"]().items():
            (REPORTS / name / file).write_bytes(svg(figure.to_plotly_json()))
    elif (REPORTS / name / "curves.csv").exists():
        read = curves(name)
        enveloped = [FIXED] if any(curve.group.startswith("depth-") for curve in read) else []
        found = compare.compared(read, "flops", enveloped=enveloped)
        (REPORTS / name / "loss.svg").write_bytes(svg(drawing(found)))
        print(report.verdict(found))


if __name__ == "__main__":
    main(sys.argv[1])
