"""Report of several runs.

Runs that differ by seed alone make a group; the unit is the run, and the first group is the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import disturbance as disturbance_figures
from pli_analysis.metrics import lineage as lineage_metric
from pli_analysis.metrics.comparison import compare
from pli_analysis.metrics.comparison import configs as metric
from pli_analysis.metrics.comparison import curves as curve_metric
from pli_analysis.metrics.loss import AXES
from pli_analysis.report import compare as losses
from pli_analysis.report.disturbance import METHOD, measured, spikes_beyond
from pli_analysis.report.overview import LINEAGE_METHOD, made, origin, stack
from pli_analysis.report.parts import Figure, Report, Section, count, found_by

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.comparison.curves import Curve
    from pli_analysis.runs.run import Run


def build(
    opened: Mapping[str, Run],
    curves: Sequence[Curve],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """The page on several runs.

    Args:
        opened: name → run, in the order asked for.
        curves: their losses, of `curve_metric.read`; they say which group each is of.
        on_progress: told (runs done, runs in all) while it is found out what growth did to each, which takes longest.

    Raises:
        BadInput: when one of them cannot be read.
    """
    reference = curve_metric.converged(curves)[0].group
    groups = {curve.name: curve.group for curve in curves}
    sections = [
        comparison(curves, reference),
        differences(opened),
        stacks(opened),
        disturbances(opened, on_progress),
    ]
    table = metric.runs(opened, groups)
    summary = Section("summary", "Summary", findings=found_by(sections), tables=[("Runs", table)])
    many = len(set(groups.values()))
    shared = f" in {count(many, 'group')}" if many < len(groups) else ""
    return Report(
        " and ".join(opened) if len(opened) < 3 else count(len(opened), "run"),
        f"{count(len(opened), 'run')}{shared} side by side; the reference is {reference}.",
        [summary, *sections, provenance(opened)],
    )


def comparison(curves: Sequence[Curve], reference: str) -> Section:
    """Losses and speed-ups of groups on every axis that all runs logged; the headline is by FLOPs where they did."""
    there = curve_metric.converged(curves)
    axes = [axis for axis in (col.STEP, *AXES) if not any(curve.table[axis].isna().any() for curve in there)]
    found = {axis: compare.compared(curves, axis, reference=reference) for axis in axes}
    headline = found.get(col.FLOPS, found[col.STEP])
    return Section(
        "comparison",
        "Comparison",
        figures=[losses.losses(found), *losses.sooner(found)],
        tables=losses.tables_of(found),
        headline=f"{losses.verdict(headline)} {losses.speed_up_words(headline)}".strip(),
        method=losses.method_of(headline, "steps, tokens, FLOPs or seconds"),
    )


def differences(opened: Mapping[str, Run]) -> Section:
    """What the configs differ in: a comparison of runs that were tuned differently says so."""
    unknown = [name for name, run in opened.items() if "config" not in run.record]
    if unknown:
        message = (
            f"Nobody wrote down the whole config of {_listed(unknown)}: what else the runs differ in is not known."
        )
        return Section("differences", "What differs", [message], headline=message)
    table = metric.differences(opened)
    keys = {kind: table[table["kind"] == kind]["key"].tolist() for kind in ("growth", "tuning")}
    if keys["tuning"]:
        message = (
            f"Beside growth the runs differ in {_listed(keys['tuning'])}: what they lose or gain may be due to that."
        )
    elif keys["growth"]:
        differing = _listed(keys["growth"])
        message = f"The runs differ in {differing} and in nothing else that affects training, except for seeds."
    else:
        message = "The runs' configs differ in nothing that affects training, except for seeds."
    tables = [("Keys of the config that differ", table)] if len(table) else []
    return Section("differences", "What differs", [message], tables=tables, headline=message)


def stacks(opened: Mapping[str, Run]) -> Section:
    """The stack of each run over time."""
    figures = []
    for position, (name, run) in enumerate(opened.items()):
        if run.lineage.events:
            figures.append(stack(f"lineage-{position}", name, f"{made(run.lineage)}.", run))
    still = [name for name, run in opened.items() if not run.lineage.events]
    words = [f"{_listed(still)} did not grow."] if still else []
    return Section("lineage", "Lineage", words, figures=figures, method=LINEAGE_METHOD)


def disturbances(
    opened: Mapping[str, Run], on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Section:
    """What every event of every run did, in one table and one figure."""
    import pandas as pd

    parts = []
    for done, (name, run) in enumerate(opened.items()):
        on_progress(done, len(opened))
        if run.lineage.events:
            parts.append(_with_run(name, run, measured(run).events))
    on_progress(len(opened), len(opened))
    if not parts:
        return Section("disturbance", "Disturbance", ["None of these runs grew, so that nothing was disturbed."])
    table = pd.concat(parts, ignore_index=True)
    known = table[table[col.SPIKE].notna()]
    if not len(known):
        return Section("disturbance", "Disturbance", tables=[("Growth events", table)], method=METHOD)
    words = _spikes_words(known)
    figure = Figure("spikes", "Loss spike behind each growth event", words, disturbance_figures.spikes(known), known)
    return Section(
        "disturbance", "Disturbance", figures=[figure], tables=[("Growth events", table)], headline=words, method=METHOD
    )


def provenance(opened: Mapping[str, Run]) -> Section:
    """What it takes to run these again."""
    import pandas as pd

    rows = [{col.RUN: name} | {label.lower(): value for label, value in origin(run)} for name, run in opened.items()]
    return Section("provenance", "Provenance", tables=[("Runs", pd.DataFrame(rows))])


def _with_run(name: str, run: Run, events: pd.DataFrame) -> pd.DataFrame:
    """Events with their run, the first initializer of each step, and how high in the stack they are, from 0 to 1."""
    message = lineage_metric.events(run.lineage)
    initializers = {row.step: row.initializer for row in message.iloc[::-1].itertuples()}
    tops = {row.step: len(row.stack.split()) - 1 for row in message.itertuples()}
    height = [
        index / tops[step] if index == index and tops[step] else np.nan
        for step, index in zip(events[col.STEP], events[col.INDEX].astype(float), strict=True)
    ]
    made_by = [initializers[step] for step in events[col.STEP]]
    table = events.assign(**{col.RUN: name, col.INITIALIZER: made_by, col.HEIGHT: height})
    first = [col.RUN, col.STEP, col.EVENT, col.INITIALIZER, col.HEIGHT]
    return table[[*first, *(column for column in table.columns if column not in first)]]


def _spikes_words(known: pd.DataFrame) -> str:
    most = known.loc[known[col.SPIKE].idxmax()]
    medians = known.groupby(col.RUN, sort=False)[col.SPIKE].median()
    each = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
    return (
        f"The highest loss spike, {most[col.SPIKE]:.2f}, is behind {most[col.EVENT]} at step {most[col.STEP]:,} of "
        f"{most[col.RUN]}. In the median of a run's events: {each}. {spikes_beyond(known)}"
    )


def _listed(names: Sequence[str]) -> str:
    """Names in a row, the last after `and`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
