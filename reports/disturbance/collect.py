"""Read what insertions did to the loss: `python reports/disturbance/collect.py`.

Reads the studies whose names start with disturbance, and writes curves.csv: after each insertion, the eval loss minus
that of the run with the same seed, depth and learning rate that did not grow.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from pli_analysis.runs.opening import open_run
from pli_train.core.run_format import run_folder

HERE = Path(__file__).parent
STUDIES = HERE.parents[1] / "studies"
EVENT = 300


def runs() -> pd.DataFrame:
    """Return one row for each run: its settings, and its eval losses by step from the insertion on."""
    rows = []
    for file in sorted(STUDIES.glob("disturbance*/trials.json")):
        for trial in json.loads(file.read_text())["trials"]:
            if trial["state"] != "complete":
                continue
            run = open_run(file.parent / "runs" / trial["run"])
            config, scalars = run.record["config"], run.scalars
            steps, _, values = scalars.of(run_folder.EVAL_LOSS)
            losses = {step: loss for step, loss in zip(steps.tolist(), values.tolist(), strict=True) if step >= EVENT}
            losses[EVENT] = scalars.at(run_folder.EVAL_LOSS_AFTER_EVENT, EVENT) or losses[EVENT]
            growth = config["growth"]
            rows.append(
                {
                    "depth": config["model"]["initial_layers"],
                    "lr": config["optim"]["lr"],
                    "schedule": growth["schedule"],
                    "initializer": growth["initializer"] if growth["schedule"] else "",
                    "noise": growth["noise"],
                    "learning_rate": growth["learning_rate"],
                    "seed": config["seed"],
                    "losses": losses,
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Compare each run with its twin and write the table."""
    found = runs()
    twins = found[found["schedule"] == ""].set_index(["depth", "lr", "seed"])["losses"]
    rows = []
    for run in found[found["schedule"] != ""].to_dict("records"):
        losses, twin = run.pop("losses"), twins[run["depth"], run["lr"], run["seed"]]
        rows += [run | {"step": step, "loss": loss, "twin": twin[step]} for step, loss in sorted(losses.items())]
    pd.DataFrame(rows).to_csv(HERE / "curves.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
