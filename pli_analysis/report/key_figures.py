"""Key figures at the top of the page: final loss, compute against full depth, change of loss at birth, recovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.comparison import group_difference
from pli_analysis.metrics.disturbance.event_summary import changes_at_birth, recoveries
from pli_analysis.report.parts import KeyFigure, signed
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd

MOST = 3
"""Maximum number of groups in a key figure; the tables have all."""
FULL_DEPTH_METHOD = (
    "full depth",
    "What the size after the last growth event takes from the start, for the same steps and tokens: its FLOPs per "
    "token, and its mean seconds per step without the first logged interval, in which the model may compile.",
)
NAMES = {col.FLOPS: "FLOPs", col.SECONDS: "Seconds"}


def of_loss(table: pd.DataFrame, error: str = "") -> list[KeyFigure]:
    """Give the last eval loss of a run, or its last training loss without evaluations.

    Args:
        table: result of `pli_analysis.metrics.loss`.
        error: its standard error in words, if known.
    """
    splits = {split: rows.sort_values(col.STEP)[col.LOSS] for split, rows in table.groupby(col.SPLIT)}
    for split, name in (("eval", "Final eval loss"), ("train", "Last training loss")):
        if split in splits:
            note = ", ".join(filter(None, ["nats per token", error if split == "eval" else ""]))
            return [KeyFigure(name, [(f"{splits[split].iloc[-1]:.3f}", note)])]
    return []


def of_full_depth(shares: Mapping[str, Sequence[pd.DataFrame]]) -> list[KeyFigure]:
    """Give FLOPs and seconds as shares of those of full depth from the start, in the mean over the runs of a group.

    Args:
        shares: group → table of `pli_analysis.metrics.full_depth` of each of its runs; the name of one run alone is
            empty.
    """
    found = []
    for axis, name in NAMES.items():
        values = []
        for group, tables in shares.items():
            rows = [row for table in tables for row in table[table[col.AXIS] == axis].itertuples()]
            if rows and len(rows) == len(tables):
                mean = np.mean([row.share for row in rows])
                about = "about " if axis == col.SECONDS else ""
                full = f"{np.mean([row.full_size for row in rows]):.3g}{' s' if axis == col.SECONDS else ''}"
                values.append(
                    (f"{mean:.1%}", f"{_of_group(group, len(rows))}of {about}{full} for full depth from the start")
                )
        if values:
            found.append(KeyFigure(f"{name} vs full depth", values[:MOST]))
    return found


def of_events(events: Mapping[str, pd.DataFrame]) -> list[KeyFigure]:
    """Give the mean change of the loss at birth, and how many events the loss recovered from.

    The events of one run are not replicates: with several runs, the change is a mean over runs of their means.

    Args:
        events: group → table `events` of `pli_analysis.metrics.disturbance.disturbance`, with the column `run` if there
            are several runs; the name of one run alone is empty.
    """
    births, returns = [], []
    for group, table in events.items():
        changes = changes_at_birth(table)
        names = table[col.RUN] if col.RUN in table else np.zeros(len(table))
        of_runs = changes.groupby(np.asarray(names)).mean().dropna().to_numpy()
        runs, known = _of_group(group, len(of_runs)), counted(int(changes.notna().sum()), "event")
        if len(of_runs):
            mean = group_difference.mean(of_runs)
            births.append((signed(mean.value), f"{runs}mean over {known}{_interval(mean)}"))
        if back := recoveries(table):
            value = counted(int(back.steps), "step") if back.recovered else "none"
            whole = f"after {back.recovered} of {counted(back.events, 'event')}, within {counted(back.window, 'step')}"
            median = "median, " if back.recovered else ""
            returns.append((value, f"{_of_group(group, len(set(names)))}{median}{whole}"))
    shown = {"Change of loss at birth": births, "Recovery of the loss": returns}
    return [KeyFigure(label, values[:MOST]) for label, values in shown.items() if values]


def _of_group(group: str, runs: int) -> str:
    """Name a group and its number of runs, before a description; empty for one run alone."""
    return f"{group} ({'one run' if runs == 1 else f'{runs} runs'}): " if group else ""


def _interval(mean: group_difference.Estimate) -> str:
    return f", 95 % interval over runs {signed(mean.low)} to {signed(mean.high)}" if mean.low == mean.low else ""
