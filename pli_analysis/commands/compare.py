"""`pli-analyze compare`: compare groups of runs."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pli_analysis.commands.options import FormatOption, Html, OutOption
from pli_analysis.commands.status import complain, write_page
from pli_train.core.cli.console import say
from pli_train.core.errors import BadInput

Axis = Literal["step", "tokens", "flops", "seconds"]


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, folders of runs, or logs of other programs.")
    ],
    tag: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Scalars to compare: a name, or a pattern such as eval*.")
    ] = None,
    by: Annotated[
        Axis, typer.Option("--by", metavar="AXIS", help="Axis of the comparison: step, tokens, flops or seconds.")
    ] = "step",
    at: Annotated[
        float | None,
        typer.Option(metavar="POINT", help="Point on the axis at which losses are compared (default: the end)."),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            metavar="LOSS,LOSS",
            help="Loss levels at which speed-ups are computed, or final: the loss with which the reference ends.",
        ),
    ] = None,
    envelope: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP,GROUP",
            help="Also compare with the lowest loss of these groups (or patterns) at each point.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Run or group to compare with (default: the envelope or the first)."),
    ] = None,
    smooth: Annotated[int, typer.Option(min=1, metavar="N", help="Smooth losses by a mean of N points (odd).")] = 1,
    speed_ups: Annotated[
        bool, typer.Option("--speed-ups", help="One row per loss level and group, with 95 % intervals.")
    ] = False,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="One row per group, with 95 % intervals in the cells, for a paper.")
    ] = False,
    each: Annotated[bool, typer.Option("--runs", help="One row per run.")] = False,
    points: Annotated[bool, typer.Option("--points", help="One row per point of each run's curve.")] = False,
    html: Html = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Compare groups of runs: loss, and speed-up to reach a loss.

    Losses are compared at equal steps, tokens, FLOPs or seconds. Write GROUP=RUN to make a run one seed of a group.
    Prints one row per group.

    Example: pli-analyze compare runs/tiny runs/baseline --by flops
    """
    from pli_analysis.metrics.comparison import compare as metric
    from pli_analysis.metrics.comparison import curves as curve_metric
    from pli_analysis.metrics.comparison import tables
    from pli_analysis.report import compare as report
    from pli_analysis.tables import emit

    kinds = {
        "--runs": (each, tables.per_run),
        "--speed-ups": (speed_ups, tables.speed_ups_of),
        "--points": (points, tables.points),
        "--intervals": (intervals, tables.with_intervals),
    }
    asked = [option for option, (on, _) in kinds.items() if on]
    if len(asked) > 1:
        raise BadInput(f"{' and '.join(asked)}: cannot be combined, as each prints its own table: use one of them")
    curves = curve_metric.read(runs, tag, smooth)
    complain(list(dict.fromkeys(line for curve in curves for line in curve.damaged)))
    losses = metric.parse_levels(levels) if levels else None
    enveloped = [] if envelope is None else envelope.split(",")
    compared = [metric.compared(of_one, by, at, losses, reference, enveloped) for of_one in metric.by_scalar(curves)]
    say(*map(report.verdict, compared))
    write_page(html, lambda: report.build(compared))
    table_of = kinds[asked[0]][1] if asked else tables.summary
    emit(tables.of_scalars(compared, table_of), format, out)
