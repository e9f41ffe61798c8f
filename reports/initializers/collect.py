"""Measure how much the new layers of three initializers are used: `python reports/initializers/collect.py`.

Reads studies/initializers and trials.csv, and writes skipped.csv: the loss change if a layer is skipped.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import pli_analysis

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "studies" / "initializers" / "runs"
MEASURED = ["clone", "identity", "random"]
COLUMNS = ["layer", "index", "is_inserted", "loss_change", "block_influence"]


def main() -> None:
    """Measure each run and write the table."""
    trials = pd.read_csv(HERE / "trials.csv")
    tables = []
    for trial in trials[trials["growth.initializer"].isin(MEASURED)].itertuples():
        run = pli_analysis.open_run([RUNS / f"{trial.arm}-{trial.number:04}"])
        table = pli_analysis.ablation(run, blocks=64)
        table = table[table["ablation"] == "skip"][COLUMNS]
        table.insert(0, "seed", trial.seed)
        table.insert(0, "initializer", run.record["config"]["growth"]["initializer"])
        tables.append(table)
        print(run.path)
    pd.concat(tables).to_csv(HERE / "skipped.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
