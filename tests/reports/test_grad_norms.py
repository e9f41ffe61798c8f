"""Every number in reports/grad-norms is recomputed from its tables, by pandas and scipy alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.reports.pages import cells, interval, signed

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "grad-norms"
NORMS, FIRST = (pd.read_csv(REPORT / f"{name}.csv") for name in ("norms", "first"))
NORMS["norm"] = NORMS["total"] ** 0.5
PAGE = (REPORT / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
INDEX = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
FAMILIES = {"llama": "Llama", "bert": "BERT"}
DEPTHS = [1, 2, 4, 8, 12]


def by_seed(family, steps):
    """Norm by seed (rows) and depth, averaged over steps."""
    chosen = NORMS[(NORMS["family"] == family) & NORMS["step"].isin(steps)]
    return chosen.groupby(["seed", "depth"])["norm"].mean().unstack()


def start(family, depth):
    return NORMS[(NORMS["family"] == family) & (NORMS["depth"] == depth) & (NORMS["step"] == 1)].mean(numeric_only=True)


def first(family, depth):
    chosen = FIRST[(FIRST["family"] == family) & (FIRST["depth"] == depth)]
    return chosen.groupby("index")["grad_norm"].mean()


def test_all_runs_are_there():
    for family in FAMILIES:
        found = by_seed(family, [1])
        assert found.columns.tolist() == DEPTHS and found.index.tolist() == [61, 62, 63, 64, 65, 66]
        assert not found.isna().any(axis=None)
    assert NORMS.groupby(["family", "depth", "seed"])["step"].nunique().eq(46).all() and NORMS["step"].max() == 158


def test_the_squares_of_parts_add_up():
    assert (NORMS["total"] > (NORMS["embeddings"] + NORMS["layer"]) * (1 - 1e-4)).all()
    squares = FIRST.assign(square=FIRST["grad_norm"] ** 2).groupby(["family", "depth", "seed"])["square"].sum()
    layers = NORMS[NORMS["step"] == 1].set_index(["family", "depth", "seed"])["layer"]
    assert squares.sort_index().to_numpy() == pytest.approx(layers.sort_index().to_numpy(), rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_of_squares(family):
    for depth in DEPTHS:
        found = start(family, depth)
        wanted = [f"{found[name]:.3f}" for name in ("norm", "total", "embeddings", "layer", "head", "ffn")]
        assert f"| {FAMILIES[family]} | {depth} | {' | '.join(wanted)} |" in PAGE


def test_the_table_of_steps():
    lines = [cells(line) for line in PAGE.splitlines() if line.startswith("|")]
    last = sorted(set(NORMS["step"]))[30:]
    for name, steps in {"1": [1], "5": [5], "10": [10], "20": [20], "30": [30], "38 to 158": last}.items():
        wanted = []
        for family in FAMILIES:
            found = by_seed(family, steps)
            mean, low, high = interval(found[12] - found[1])
            wanted += [signed(mean), f"{signed(low)} to {signed(high)}"]
        assert [name, *wanted] in lines
    assert last[0] == 38


def test_the_headline_and_the_index():
    found = by_seed("llama", [1])
    ratio, low, high = np.exp(interval(np.log(found[12] / found[1])))
    deep, shallow = start("llama", 12), start("llama", 1)
    assert f"at a norm of {deep['norm']:.3f}, one with one layer at {shallow['norm']:.3f}" in TEXT
    words = f"{ratio:.2f} times as high (95 % interval {low:.2f} to {high:.2f}, paired t of logs, n = 6 seeds)"
    assert words in TEXT and words.replace("paired t of logs, ", "") in INDEX
    share = (deep["layer"] - shallow["layer"]) / (deep["total"] - shallow["total"])
    assert f"Layers account for {share:.0%}".replace("%", " %") in TEXT


def test_sentences():
    deep, bert = start("llama", 12), start("bert", 12)
    assert f"{deep['head'] / deep['layer']:.0%}".replace("%", " %") == "98 %" and "98 % of the layers' square" in TEXT
    stack, alone = first("llama", 12), first("llama", 1)
    assert f"starts at {stack[0]:.3f} in a stack of twelve and at {alone[0]:.3f} alone" in TEXT
    assert f"the highest of twelve layers at {stack[11]:.3f}" in TEXT
    stack, alone = first("bert", 12), first("bert", 1)
    assert f"{alone[0]:.3f} alone, {stack.min():.3f} to {stack.max():.3f} in a stack of twelve" in TEXT
    assert f"Twelve layers are {bert['layer'] / bert['total']:.0%}".replace("%", " %") in TEXT
