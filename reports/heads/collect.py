"""Read the losses of each run, and measure which heads can be pruned: `python reports/heads/collect.py`.

Reads studies/heads, heads-layers and heads-fixed, and writes trials.csv, the final losses, and pruning.csv, the share
of heads that can be masked while the loss rises by at most 1 %, by importance.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

import pli_analysis

HERE = Path(__file__).parent
STUDIES = HERE.parents[1] / "studies"
FOLDERS = ["heads-fixed", "heads", "heads-layers"]
GROWN = {"heads": "4-to-12 heads", "heads-layers": "heads and layers"}


def main() -> None:
    """Measure each run and write both tables."""
    trials, shares = [], []
    for folder in FOLDERS:
        for trial in json.loads((STUDIES / folder / "trials.json").read_text())["trials"]:
            variant = GROWN.get(folder) or f"{trial['params']['model.initial_heads']} heads"
            facts = {"seed": trial["seed"], "variant": variant}
            trials.append({name: trial[name] for name in ("loss", "steps", "flops", "seconds")} | facts)
            table = pli_analysis.open(STUDIES / folder / "runs" / trial["run"]).pruning(blocks=16)
            table = table[table["order"] == "importance"].drop_duplicates("origin")
            shares.append(table[["origin", "prunable_share"]].assign(**facts))
            print(facts, flush=True)
    pd.DataFrame(trials).to_csv(HERE / "trials.csv", index=False)
    pd.concat(shares).to_csv(HERE / "pruning.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
