"""Describe several runs, and list the differences of their configs.

Columns of `runs`, one row for each run:
    run, group    its name, and the group of runs that differ from it only by seed
    seed
    layers        number of layers at the first and the last checkpoint: `1 → 6`
    events        number of growth events
    parameters    number of parameters at the end
    steps, tokens, flops, seconds   of training; empty if not logged
    eval loss, eval loss se   last eval loss, in nats per target, and its standard error
    full eval loss   loss over all held-out text at the end

Columns of `differences`, one row for each config key whose value differs between runs:
    key           dotted, as in the config
    kind          `growth` (the subject of the comparison), `seed`, `watching` (does not affect what is learned) or
                  `tuning` (all others)
    then one column for each run
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.run import Run

GROWTH = ("growth.", "model.initial_layers", "model.initial_heads")
WATCHING = (
    *("name", "description", "checkpoint.", "tracking."),
    *("train.log_every", "train.eval_", "train.grad_norm", "train.update_ratios"),
)
ABSENT = "—"


def runs(opened: Mapping[str, Run], groups: Mapping[str, str]) -> pd.DataFrame:
    """Describe each run: see this module's docstring for the columns.

    Args:
        opened: name → run.
        groups: name → group.
    """
    import pandas as pd

    rows = []
    for name, run in opened.items():
        last = run.checkpoints[-1]
        depths = len(run.beginning.stack), len(last.lineage.stack)
        rows.append(
            {
                col.RUN: name,
                col.GROUP: groups[name],
                col.SEED: run.record.get("seed"),
                "layers": f"{depths[0]} → {depths[1]}" if depths[0] != depths[1] else str(depths[0]),
                "events": len(run.lineage.events),
                "parameters": _last(run, run_folder.PARAMETERS),
                "steps": last.step,
                col.TOKENS: last.tokens,
                col.FLOPS: _last(run, run_folder.FLOPS),
                col.SECONDS: _last(run, run_folder.SECONDS),
                "eval loss": _last(run, run_folder.EVAL_LOSS),
                "eval loss se": _last(run, run_folder.EVAL_LOSS_SE),
                "full eval loss": _last(run, run_folder.EVAL_LOSS_FULL),
            }
        )
    return pd.DataFrame(rows)


def differences(opened: Mapping[str, Run]) -> pd.DataFrame:
    """List the config keys whose values differ between runs: `growth`, `tuning`, `seed`, then `watching`."""
    import pandas as pd

    configs = {name: config_of(run) for name, run in opened.items()}
    rows = []
    for key in dict.fromkeys(key for config in configs.values() for key in config):
        values = {name: config.get(key, ABSENT) for name, config in configs.items()}
        if len({repr(value) for value in values.values()}) > 1:
            rows.append({"key": key, "kind": kind_of(key)} | {name: str(value) for name, value in values.items()})
    order = ["growth", "tuning", "seed", "watching"]
    rows.sort(key=lambda row: order.index(row["kind"]))
    return pd.DataFrame(rows, columns=["key", "kind", *configs])


def kind_of(key: str) -> str:
    """Classify a config key by what a difference in it means for a comparison.

    >>> kind_of("growth.schedule"), kind_of("optim.lr"), kind_of("train.eval_every")
    ('growth', 'tuning', 'watching')
    """
    if key in ("seed", "train.order"):
        return "seed"
    return "growth" if key.startswith(GROWTH) else "watching" if key.startswith(WATCHING) else "tuning"


def config_of(run: Run) -> dict[str, object]:
    """Return the config of a run by dotted key; empty if its record has none."""
    config = run.record.get("config", {})
    return run_folder.flatten(config) if isinstance(config, dict) else {}


def _last(run: Run, tag: str) -> float | None:
    table = run.scalars.table(tag)
    return float(table[col.VALUE].iloc[-1]) if len(table) else None
