"""Read the losses of each run, and measure how robust it is: `python reports/swap/collect.py`.

Reads studies/default and default-6 (without swaps), swap-grown and swap-fixed, and writes runs.csv: the final loss, and
the loss change if two neighboring layers change places, or if one layer is skipped (means over the stack).
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

import pli_analysis

HERE = Path(__file__).parent
STUDIES = HERE.parents[1] / "studies"
FOLDERS = {"3-to-6": ["default", "swap-grown"], "depth-6": ["default-6", "swap-fixed"]}
SEEDS = range(41, 45)
BLOCKS = 32


def main() -> None:
    """Measure each run and write the table."""
    rows = []
    for group, folders in FOLDERS.items():
        for folder in folders:
            for trial in json.loads((STUDIES / folder / "trials.json").read_text())["trials"]:
                if trial["seed"] not in SEEDS:
                    continue
                table = pli_analysis.open(STUDIES / folder / "runs" / trial["run"]).ablation(blocks=BLOCKS)
                changes = table.groupby("ablation")["loss_change"].mean()
                probability = trial["params"].get("growth.swapping.probability", 0)
                facts = {"group": group, "probability": probability, "seed": trial["seed"], "loss": trial["loss"]}
                rows.append(facts | {"flops": trial["flops"], "swapped": changes["swap"], "skipped": changes["skip"]})
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).sort_values(["group", "probability", "seed"])
    table.to_csv(HERE / "runs.csv", index=False, float_format="%.10g")


if __name__ == "__main__":
    main()
