"""`pli-analyze lineage`: births, donors and positions of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import FormatOption, Html, LineageFile, OutOption, RunFolder, Stack, Verify, a_file
from pli_analysis.commands.status import FOLLOWED, complain, links_at, write_page
from pli_train.core.cli.console import Bar, say
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder


def lineage(
    run: RunFolder,
    events: Annotated[
        bool, typer.Option("--events", help="One row per growth event instead of one per layer.")
    ] = False,
    tree: Annotated[bool, typer.Option("--tree", help="Print a tree with copies below their donors.")] = False,
    html: Html = None,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="One row per match, for lineages inferred from weights.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Write the lineage as lineage.json, to be edited.", parser=a_file),
    ] = None,
    lineage_file: LineageFile = None,
    stack: Stack = None,
    verify: Verify = False,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Birth, donor and current index of each layer.

    For checkpoints of other programs the lineage is inferred from the weights, with a confidence.

    Example: pli-analyze lineage runs/tiny --format md
    """
    from pli_analysis.metrics import lineage as metric
    from pli_analysis.report import overview
    from pli_analysis.runs.opening import open_run
    from pli_analysis.tables import emit, put

    opened = open_run(run, verify, lineage_file, Bar(FOLLOWED), stack)
    complain(links_at(run))
    notes = opened.notes
    # The lineage of a pli-train run is in one file: checkpoints are read only to verify them.
    if verify or not (opened.path / run_folder.RUN).is_file():
        complain(opened.damaged)
    say(*notes)
    lineage_, confidences = opened.lineage, opened.confidence
    if save is not None:
        metric.write(lineage_, save)
        say(str(save))
    write_page(html, lambda: overview.of_lineage(opened))
    if tree:
        put("\n".join(metric.tree(lineage_)) + "\n", out)
        return
    if confidence and confidences is None:
        raise BadInput(f"{opened.path}: --confidence: the lineage is read from a file, not inferred")
    if confidence and confidences is not None:
        emit(confidences, format, out)
        return
    emit(metric.events(lineage_) if events else metric.layers(lineage_, confidences), format, out)
