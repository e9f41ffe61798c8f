"""`pli-analyze explain`: inserted layers against the layers that were there before, over runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pli_analysis.commands.options import (
    Blocks,
    Device,
    FormatOption,
    Html,
    OutOption,
    Text,
    TextColumn,
    Tokenizer,
    text_of,
)
from pli_analysis.commands.status import open_run, write_page
from pli_analysis.inference.devices import use_device
from pli_train.core.cli.console import Bar, say
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from pli_analysis.runs.run import Run


def explain(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Runs that grew in the same way, or folders of such runs.")
    ],
    scratch: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Run of the same seed with the final depth from the start. Repeatable."),
    ] = None,
    text: Text = None,
    text_column: TextColumn = None,
    tokenizer: Tokenizer = None,
    blocks: Blocks = 64,
    device: Device = "auto",
    each: Annotated[bool, typer.Option("--runs", help="One row per run.")] = False,
    html: Html = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Test whether inserted layers differ from other layers.

    Compares gradients, ablations and prediction depth with those of layers matched by age or by depth. With several
    runs (seeds), each difference has a 95 % interval and an exact test.

    Example: pli-analyze explain runs/seed-1 runs/seed-2 --html explain.html
    """
    from pli_analysis.metrics.explain import explain as metric
    from pli_analysis.report import explain as report
    from pli_analysis.tables import emit

    use_device(device)
    read = text_of(text, text_column, tokenizer)
    table = metric.contrasts(opened(runs), opened(scratch or []), read, blocks, Bar("checkpoints"))
    tests = metric.summary(table)
    say(report.verdict(tests))
    write_page(html, lambda: report.build(table, tests))
    emit(table if each else tests, format, out)


def opened(paths: list[Path]) -> list[Run]:
    """Open all runs at some paths. Raises BadInput if there is none at a path."""
    from pli_analysis.runs import paths as found

    runs = []
    for path in paths:
        sources = [source for source in found.find(path) if source.has_checkpoints]
        if not sources:
            raise BadInput(f"{path}: holds no run with checkpoints")
        runs += [open_run([source.path], name=source.path.name) for source in sources]
    return runs
