"""Measure the layers of the runs of reports/growth: `python reports/layers/collect.py`, after `make study-growth`.

Writes ablation.csv and lens.csv, with the group and the seed of each run, and together.csv: the loss change if all
copies of one layer are skipped at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import pli_analysis
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.block_losses import block_losses
from pli_analysis.metrics.ablation.interventions import skipped
from pli_train.core.masking import IGNORED

if TYPE_CHECKING:
    from pli_analysis.runs.run import Run

HERE = Path(__file__).parent
STUDIES = HERE.parents[1] / "studies"
GROUPS = {"4-to-12": "grown", "depth-12": "twelve"}
BLOCKS = 128
LEFT_OUT = ["run", "checkpoint", "step", "is_inserted", "blocks", "documents"]


def together(run: Run) -> Iterator[dict[str, object]]:
    """Yield donor, number of copies and loss change for each layer that has copies."""
    checkpoint = run.at(None)
    model, sample = checkpoint_model.model_of(checkpoint), eval_tokens.sample_of(run, None, BLOCKS)
    stack = dict(zip(run.lineage.stack, checkpoint_model.stack_of(model, checkpoint.anatomy), strict=True))
    targets = (sample.labels != IGNORED).sum(dim=1).numpy()
    baseline = block_losses(model, sample)
    for donor in run.lineage.stack:
        copies = [id for id, layer in run.lineage.layers.items() if layer.birth.donor == donor]
        with ExitStack() as all_of_them:
            for id in copies:
                all_of_them.enter_context(skipped(stack[id]))
            change = sample.design.mean(block_losses(model, sample) - baseline, targets)
        if copies:
            yield {"donor": donor, "copies": len(copies), "loss_change": change.value}


def main() -> None:
    """Measure each run and write the tables."""
    tables: dict[str, list[pd.DataFrame]] = {"ablation": [], "lens": [], "together": []}
    for group, study in GROUPS.items():
        for folder in sorted((STUDIES / study / "runs").iterdir()):
            run = pli_analysis.open_run([folder])
            donors = {layer.id: layer.birth.donor for layer in run.lineage.layers.values()}
            for name, measure in (("ablation", pli_analysis.ablation), ("lens", pli_analysis.lens)):
                table = measure(run, blocks=BLOCKS).drop(columns=LEFT_OUT, errors="ignore")
                table.insert(0, "donor", table["layer"].map(donors))
                tables[name].append(table)
            tables["together"].append(pd.DataFrame(together(run)))
            for found in tables.values():
                found[-1].insert(0, "seed", run.record["seed"])
                found[-1].insert(0, "group", group)
            print(folder)
    for name, found in tables.items():
        pd.concat(found).to_csv(HERE / f"{name}.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
