"""`pli-analyze compare`: several runs."""

from __future__ import annotations

from typing import Annotated

import typer

from pli_analysis.commands.options import FormatOption, Html, OutOption
from pli_analysis.commands.telling import complain, write_page
from pli_train.shell import one_of
from pli_train.telling import say

AXES = ("step", "tokens", "flops", "seconds")


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, event folders or files, downloads.")],
    tag: Annotated[str | None, typer.Option(metavar="PATTERN", help="Which scalar: a name, or eval*.")] = None,
    by: Annotated[str, one_of(AXES, "--by", metavar="AXIS", help="Compare over {words}.")] = "step",
    at: Annotated[int | None, typer.Option(metavar="STEP", help="Where losses are compared; else the end.")] = None,
    levels: Annotated[str | None, typer.Option(metavar="LOSS,LOSS", help="Losses at which speed-ups are told.")] = None,
    reference: Annotated[str | None, typer.Option(metavar="NAME", help="What speed-ups refer to.")] = None,
    smooth: Annotated[int, typer.Option(min=1, metavar="N", help="Mean over so many points, an odd number.")] = 1,
    speed_ups: Annotated[bool, typer.Option("--speed-ups", help="One row a level and group, with bands.")] = False,
    html: Html = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Whose loss is lower, and who comes to a loss sooner.

    GROUP=RUN in place of a run makes it a seed of that group.

    Example: pli-analyze compare runs/tiny runs/baseline --by flops
    """
    from pli_analysis.metrics import compare as metric
    from pli_analysis.report import compare as told
    from pli_analysis.tables import emit

    curves = metric.read(runs, tag, smooth)
    complain(list(dict.fromkeys(line for curve in curves for line in curve.damaged)))
    metric.require(curves, by)
    step = metric.last_common_step(curves) if at is None else at
    asked = metric.parse_levels(levels) if levels else metric.common_levels(curves, 3)
    base = reference or curves[0].group
    ups = metric.speed_ups(curves, asked, by, base)
    table = metric.summary(curves, step, ups)
    say(told.verdict(curves, step))
    write_page(html, lambda: told.tell(curves, table, step, by, base))
    emit(ups if speed_ups else table, format, out)
