"""Every number in reports/depth is recomputed from its data."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

REPORT = Path(__file__).parents[2] / "reports" / "depth"


def test_the_table_has_the_best_learning_rate_of_each_depth():
    trials = pd.read_csv(REPORT / "trials.csv")
    assert len(trials) == 21 and (trials["state"] == "complete").all() and (trials["seed"] == 0).all()
    assert trials["flops"].between(1.99e12, 2e12).all()
    best = trials.loc[trials.groupby("model.initial_layers")["loss"].idxmin()]
    rows = [
        f"| {row['model.initial_layers']} | {row['optim.lr']:g} | {row['steps']:,} | {row['loss']:.3f} |"
        for _, row in best.iterrows()
    ]
    page = (REPORT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \d+ \| 0.*", page, re.M) == rows
    losses = best.set_index("model.initial_layers")["loss"]
    assert losses[[3, 4, 6]].max() - losses[[3, 4, 6]].min() < 0.02
    assert losses[8] > losses[6] and losses[12] > losses[8]
    rates = best.set_index("model.initial_layers")["optim.lr"]
    assert rates[1] == trials["optim.lr"].max() and (rates[[2, 3, 4, 8]] == trials["optim.lr"].min()).all()
    tokens = trials.set_index("model.initial_layers")["steps"]
    assert round(tokens[1].iloc[0] / tokens[12].iloc[0]) == 9


def test_deeper_models_take_over_as_the_budget_grows():
    curves = pd.read_csv(REPORT / "curves.csv")
    best = pd.read_csv(REPORT / "trials.csv").set_index("number")
    for run, rows in curves.groupby("run"):
        trial = best.loc[int(run.rpartition("-")[2])]
        assert rows["group"].unique().tolist() == [f"depth-{trial['model.initial_layers']}"]
        same = best[best["model.initial_layers"] == trial["model.initial_layers"]]
        assert trial["loss"] == same["loss"].min()

    def lowest(flops):
        losses = {
            group: np.interp(flops, rows["flops"], rows["loss"], right=np.nan)
            for group, rows in curves.groupby("group")
        }
        return min(losses, key=losses.get)

    assert [lowest(flops) for flops in (1e11, 2e11, 3e11)] == ["depth-1"] * 3
    assert [lowest(flops) for flops in (5e11, 6e11, 7e11)] == ["depth-2"] * 3
    assert {lowest(flops) for flops in np.linspace(8.5e11, 1.95e12, 20)} == {"depth-3", "depth-4"}


def test_the_growing_runs_against_fixed_depths():
    page = (REPORT / "README.md").read_text(encoding="utf-8")
    runs = pd.read_csv(REPORT / "growth.csv")
    assert (runs["seed"] == 0).all() and runs["loss"].is_monotonic_increasing
    rows = [
        f"| {row['run']} | {row['steps']:,} | {row['flops'] / 1e12:.1f}e12 | {row['seconds']:.0f} | {row['loss']:.3f} |"
        for _, row in runs.iterrows()
    ]
    assert [line for line in page.splitlines() if line.startswith("| ") and "e12 |" in line] == rows
    runs = runs.assign(schedule=runs["schedule"].fillna(""))
    best, full = runs.iloc[0], runs[(runs["schedule"] == "") & (runs["initial_layers"] == 12)].iloc[0]
    text = " ".join(page.split())
    assert f"ends {full['loss'] - best['loss']:.3f} below twelve layers from the start" in text
    assert f"with {best['flops'] / full['flops']:.0%}".replace("%", " %") in text
    assert f"and {best['seconds'] / full['seconds']:.0%}".replace("%", " %") + " of the seconds" in text
    grown, fixed = (runs[(runs["schedule"] != "") == is_grown] for is_grown in (True, False))
    six = fixed[fixed["initial_layers"] == 6].iloc[0]
    assert (grown[grown["flops"] <= 1.01 * six["flops"]]["loss"] > six["loss"]).all()
    shallow = grown["initial_layers"] <= 2
    assert grown[shallow]["loss"].min() > grown[~shallow]["loss"].max()
    assert set(grown["lr"]) == {0.01}
