"""Read the gradient norms of each run: `python reports/grad-norms/collect.py`.

Reads studies/grad-norms and grad-norms-bert, and writes two tables. norms.csv: by depth, seed and step, the squared
norm of all gradients, of the embeddings, and of the layers' parts, summed over layers. first.csv: the norms of the
layers at the first step.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

import pli_analysis

HERE = Path(__file__).parent
STUDIES = HERE.parents[1] / "studies"
FAMILIES = {"llama": "grad-norms", "bert": "grad-norms-bert"}
STEPS = [*range(1, 31), *range(38, 159, 8)]
PARTS = ["total", "embeddings", "layer", "head", "ffn", "norms"]


def main() -> None:
    """Read each run and write both tables."""
    sums, first = [], []
    for family, study in FAMILIES.items():
        for trial in json.loads((STUDIES / study / "trials.json").read_text())["trials"]:
            table = pli_analysis.open(STUDIES / study / "runs" / trial["run"]).grad_norms()
            table = table[table["part_type"].isin(PARTS)].assign(squared=lambda rows: rows["grad_norm"] ** 2)
            facts = {"family": family, "depth": trial["params"]["model.initial_layers"], "seed": trial["seed"]}
            wide = table.pivot_table(index="step", columns="part_type", values="squared", aggfunc="sum")
            sums.append(wide.loc[STEPS, PARTS].reset_index().assign(**facts))
            layers = table[(table["step"] == 1) & (table["part_type"] == "layer")]
            first.append(layers[["index", "grad_norm"]].assign(**facts))
    keys = ["family", "depth", "seed"]
    found = pd.concat(sums).sort_values([*keys, "step"])
    found[[*keys, "step", *PARTS]].to_csv(HERE / "norms.csv", index=False, float_format="%.5g")
    layers = pd.concat(first).sort_values([*keys, "index"])
    layers[[*keys, "index", "grad_norm"]].to_csv(HERE / "first.csv", index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
