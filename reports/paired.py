"""Compare the variants of a grid in pairs of seeds: `python reports/paired.py NAME`.

Reads reports/NAME/trials.csv, a table of `pli-analyze sweep`, and writes differences.csv: for each variant, the loss
minus that of the first variant with the same seed: mean, 95 % interval and p-value of a paired t-test, and the p-value
adjusted for the number of variants (Holm 1979). Only seeds with all variants count.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pandas as pd
from scipy import stats

from pli_analysis.metrics.comparison.group_difference import holm, mean

REPORTS = Path(__file__).parent
FIRST = "seed"
"""The columns after this one are the parameters of the grid, up to those that start with `of_`."""
MOST = 3
"""Maximum number of events that a name shows."""


def losses(table: pd.DataFrame) -> pd.DataFrame:
    """Return the losses by seed (rows) and variant (columns, in the order of the grid)."""
    parameters = list(table.columns[table.columns.get_loc(FIRST) + 1 :])
    names = [
        " ".join(_name(str(value)) for value in row if value == value)
        for row in table[parameters].itertuples(index=False)
    ]
    wide = table.assign(variant=names).pivot(index=FIRST, columns="variant", values="loss")
    return wide[list(dict.fromkeys(names))].dropna()


def _name(value: str) -> str:
    """Return a short name of a value: of a named schedule its name, of a list of events the first ones.

    >>> _name("{'name': 'g-stack', 'at': 0.5}"), _name("0.5@2 0.5@2 0.5@2"), _name("0.5@3 0.5@1 0.5@5 0.5@2")
    ('g-stack', '3 × 0.5@2', '0.5@3 0.5@1 0.5@5 …')
    """
    if value.startswith("{"):
        return str(ast.literal_eval(value)["name"])
    words = value.split()
    if len(words) > 1 and len(set(words)) == 1:
        return f"{len(words)} × {words[0]}"
    return value if len(words) <= MOST else f"{' '.join(words[:MOST])} …"


def compared(wide: pd.DataFrame) -> pd.DataFrame:
    """Return the table of differences."""
    reference = wide.columns[0]
    rows = []
    for variant in wide.columns[1:]:
        change = wide[variant] - wide[reference]
        p = stats.ttest_1samp(change, 0).pvalue
        rows.append([variant, reference, len(change), wide[variant].mean(), *mean(change.to_numpy()), p])
    found = pd.DataFrame(rows, columns=["variant", "reference", "n", "loss", "difference", "low", "high", "p"])
    return found.assign(holm=holm(found["p"].to_numpy()))


def main(name: str) -> None:
    """Write the table of one report."""
    folder = REPORTS / name
    compared(losses(pd.read_csv(folder / "trials.csv"))).to_csv(folder / "differences.csv", index=False)


if __name__ == "__main__":
    main(sys.argv[1])
