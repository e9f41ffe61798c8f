"""Report of several runs.

Runs that differ only by seed form a group. The unit is the run, and the first group is the reference.
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
from pli_analysis.metrics.full_depth import full_depth
from pli_analysis.metrics.loss import AXES
from pli_analysis.report import compare as losses
from pli_analysis.report import hero
from pli_analysis.report.disturbance import METHOD, measured, spikes_beyond
from pli_analysis.report.key_figures import FULL_DEPTH_METHOD, of_events, of_full_depth
from pli_analysis.report.overview import LINEAGE_METHOD, made, origin, stack
from pli_analysis.report.parts import Figure, KeyFigure, Report, Section, found_by
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.comparison.compare import Comparison
    from pli_analysis.metrics.comparison.curves import Curve
    from pli_analysis.runs.run import Run

TITLE = "Config differences"


def build(
    opened: Mapping[str, Run],
    curves: Sequence[Curve],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Build the report of several runs.

    Args:
        opened: name → run, in the given order.
        curves: the losses and groups of the runs, from `curve_metric.read`.
        on_progress: called with (runs done, total runs) while disturbance is measured, the slowest part.

    Raises:
        BadInput: when a run cannot be read.
    """
    reference = curve_metric.converged(curves)[0].group
    groups = {curve.name: curve.group for curve in curves}
    found = compared(curves, reference)
    sections = [
        comparison(found),
        differences(opened),
        stacks(opened),
        disturbances(opened, on_progress, groups),
    ]
    table = metric.runs(opened, groups)
    summary = Section("summary", "Summary", findings=found_by(sections), tables=[("Runs", table)])
    many = len(set(groups.values()))
    shared = f" in {counted(many, 'group')}" if many < len(groups) else ""
    return Report(
        " and ".join(opened) if len(opened) < 3 else counted(len(opened), "run"),
        f"{counted(len(opened), 'run')}{shared} side by side; the reference is {reference}.",
        [summary, *sections, provenance(opened)],
        verdict=losses.plain_verdict(_main(found)),
        key_figures=_key_figures(sections, opened, groups),
        hero=hero.of_runs(_main(found), opened),
    )


def compared(curves: Sequence[Curve], reference: str) -> dict[str, Comparison]:
    """Compare groups on every axis that all runs logged: axis → comparison."""
    converged = curve_metric.converged(curves)
    axes = [axis for axis in (col.STEP, *AXES) if not any(curve.table[axis].isna().any() for curve in converged)]
    return {axis: compare.compared(curves, axis, reference=reference) for axis in axes}


def comparison(found: Mapping[str, Comparison]) -> Section:
    """Build the section that compares groups on every axis; its headline is of the main one."""
    headline = _main(found)
    return Section(
        "comparison",
        "Comparison",
        figures=[losses.losses(found), *losses.sooner(found)],
        tables=losses.tables_of(found),
        headline=f"{losses.verdict(headline)} {losses.speed_up_words(headline)}".strip(),
        method=[*losses.method_of(headline, "steps, tokens, FLOPs or seconds"), FULL_DEPTH_METHOD],
        key_figures=losses.key_figures(headline),
    )


def _main(found: Mapping[str, Comparison]) -> Comparison:
    """Return the comparison on the axis of headlines: FLOPs, or steps if a run did not log them."""
    return found.get(col.FLOPS, found[col.STEP])


def _key_figures(sections: Sequence[Section], opened: Mapping[str, Run], groups: Mapping[str, str]) -> list[KeyFigure]:
    """Return the key figures of the comparison, of FLOPs and seconds against full depth, and of growth events."""
    shares: dict[str, list[pd.DataFrame]] = {}
    for name, run in opened.items():
        shares.setdefault(groups[name], []).append(full_depth(run))
    first, *others = (section.key_figures for section in sections)
    return [*first, *of_full_depth(shares), *(figure for figures in others for figure in figures)]


def differences(opened: Mapping[str, Run]) -> Section:
    """Build the section on config differences, which may explain differences in loss."""
    unknown = [name for name, run in opened.items() if "config" not in run.record]
    if unknown:
        finding = f"The full config of {_listed(unknown)} was not recorded: other differences of the runs are unknown."
        return Section("differences", TITLE, [finding], headline=finding)
    table = metric.differences(opened)
    keys = {kind: table[table["kind"] == kind]["key"].tolist() for kind in ("growth", "tuning")}
    if keys["tuning"]:
        differing = _listed(keys["tuning"])
        finding = f"Besides growth, the runs differ in {differing}, which may explain differences in loss."
    elif keys["growth"]:
        differing = _listed(keys["growth"])
        finding = f"The runs differ in {differing} and in nothing else that affects training, except for seeds."
    else:
        finding = "The runs' configs differ in nothing that affects training, except for seeds."
    tables = [("Keys of the config that differ", table)] if len(table) else []
    return Section("differences", TITLE, [finding], tables=tables, headline=finding)


def stacks(opened: Mapping[str, Run]) -> Section:
    """Build the section with the layer stack of each run over training."""
    figures = []
    for position, (name, run) in enumerate(opened.items()):
        if run.lineage.events:
            figures.append(stack(f"lineage-{position}", name, f"{made(run.lineage)}.", run))
    ungrown = [name for name, run in opened.items() if not run.lineage.events]
    words = [f"{_listed(ungrown)} did not grow."] if ungrown else []
    return Section("lineage", "Lineage", words, figures=figures, method=LINEAGE_METHOD)


def disturbances(
    opened: Mapping[str, Run],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    groups: Mapping[str, str] | None = None,
) -> Section:
    """Build the section on the effect of each growth event of each run.

    Args:
        opened: name → run.
        on_progress: called with (runs done, total runs).
        groups: name → group of runs that its key figures are means over; by default each run alone.
    """
    import pandas as pd

    parts = []
    for done, (name, run) in enumerate(opened.items()):
        on_progress(done, len(opened))
        if run.lineage.events:
            parts.append(_with_run(name, run, measured(run).events))
    on_progress(len(opened), len(opened))
    if not parts:
        return Section(
            "disturbance", "Disturbance", ["None of these runs grew, so there is no disturbance to measure."]
        )
    table = pd.concat(parts, ignore_index=True)
    known = table[table[col.SPIKE].notna()]
    if not len(known):
        return Section("disturbance", "Disturbance", tables=[("Growth events", table)], method=METHOD)
    words = _spikes_words(known)
    figure = Figure("spikes", "Loss spike after each growth event", words, disturbance_figures.spikes(known), known)
    named = table[col.RUN].map(dict(groups) if groups else {name: name for name in opened})
    return Section(
        *("disturbance", "Disturbance"),
        figures=[figure],
        tables=[("Growth events", table)],
        headline=words,
        method=METHOD,
        key_figures=of_events({str(group): rows for group, rows in table.groupby(named, sort=False)}),
    )


def provenance(opened: Mapping[str, Run]) -> Section:
    """Build the section with what is needed to reproduce the runs."""
    import pandas as pd

    rows = [{col.RUN: name} | {label.lower(): value for label, value in origin(run)} for name, run in opened.items()]
    return Section("provenance", "Provenance", tables=[("Runs", pd.DataFrame(rows))])


def _with_run(name: str, run: Run, events: pd.DataFrame) -> pd.DataFrame:
    """Add to each event its run, the first initializer of its step, and its relative height in the stack (0 to 1)."""
    grown = lineage_metric.events(run.lineage)
    initializers = {row.step: row.initializer for row in grown.iloc[::-1].itertuples()}
    tops = {row.step: len(row.stack.split()) - 1 for row in grown.itertuples()}
    height = [
        index / tops[step] if index == index and tops[step] else np.nan
        for step, index in zip(events[col.STEP], events[col.INDEX].astype(float), strict=True)
    ]
    first_initializers = [initializers[step] for step in events[col.STEP]]
    table = events.assign(**{col.RUN: name, col.INITIALIZER: first_initializers, col.HEIGHT: height})
    first = [col.RUN, col.STEP, col.EVENT, col.INITIALIZER, col.HEIGHT]
    return table[[*first, *(column for column in table.columns if column not in first)]]


def _spikes_words(known: pd.DataFrame) -> str:
    most = known.loc[known[col.SPIKE].idxmax()]
    medians = known.groupby(col.RUN, sort=False)[col.SPIKE].median()
    each = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
    return (
        f"The highest loss spike, {most[col.SPIKE]:.2f}, follows {most[col.EVENT]} at step {most[col.STEP]:,} of "
        f"{most[col.RUN]}. Median spike of each run: {each}. {spikes_beyond(known)}"
    )


def _listed(names: Sequence[str]) -> str:
    """Join names with commas and a final `and`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
