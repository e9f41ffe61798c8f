"""`pli-analyze drift`: distance of each part from its birth weights."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from pli_analysis import columns as col
from pli_analysis.commands.options import FormatOption, LineageFile, OutOption, RunFolder, Stack, Verify
from pli_analysis.commands.status import complain, open_run
from pli_train.core.cli.console import Bar, say
from pli_train.core.errors import BadInput

Part = Literal["layer", "head", "ffn", "norms", "attention", "matrix", "all"]


def drift(
    run: RunFolder,
    of: Annotated[
        Part,
        typer.Option(
            "--of", metavar="PART", help="Parts to measure: layer, head, ffn, norms, attention, matrix or all."
        ),
    ] = "layer",
    gauge: Annotated[
        bool, typer.Option("--gauge", help="Heads: distance of Q^T K and O^T V, which no change of basis affects.")
    ] = False,
    spectral: Annotated[bool, typer.Option("--spectral", help="Matrices: spectral norm and ranks of the change.")] = (
        False
    ),
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of threads (default: all cores).")
    ] = None,
    lineage_file: LineageFile = None,
    stack: Stack = None,
    verify: Verify = False,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Distance of each part from its birth weights.

    Also reports its update rate, its path length, and its distance from the part that it was copied from.

    Example: pli-analyze drift runs/tiny --of head --format csv -o drift.csv
    """
    from pli_analysis.metrics.drift.drift import drift as measure
    from pli_analysis.metrics.drift.drift import unknown
    from pli_analysis.tables import emit

    opened = open_run(run, verify, lineage_file, stack)
    complain(opened.scalars.damaged)
    if gauge and of not in ("head", "all"):
        raise BadInput(f"--gauge: applies only to heads, not to '{of}': use --of head or --of all")
    if spectral and of not in ("matrix", "all"):
        raise BadInput(f"--spectral: applies only to matrices, not to '{of}': use --of matrix or --of all")
    cores = threads or os.cpu_count() or 1
    table = measure(opened, of, Bar("tensors of all checkpoints"), gauge=gauge, spectral=spectral, threads=cores)
    if len(opened.checkpoints) == 1:
        say("there is only one checkpoint, so every distance is 0")
    elif len(table) and (table[col.RELATIVE_L2] == 0).all():
        say("the weights are the same at every checkpoint")
    if table[col.RELATIVE_L2].isna().any():
        say(*unknown(opened, cores))
    emit(table, format, out)
