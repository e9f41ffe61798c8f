"""`pli-analyze neurons`: the tokens at which FFN units are most active, and copied units against their donors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pli_analysis.commands.options import (
    At,
    Blocks,
    Device,
    FormatOption,
    Html,
    OutOption,
    RunFolder,
    Stack,
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
    import pandas as pd


def neurons(
    runs: RunFolder,
    at: At = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", metavar="ID", help="Layer to measure; may be repeated (default: inserted layers)."),
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option("--unit", metavar="ID", help="Unit to print, such as c.u3; may be repeated."),
    ] = None,
    units: Annotated[
        int,
        typer.Option("--units", min=0, metavar="N", help="Print the N most active units of each layer; 0 for all."),
    ] = 3,
    top: Annotated[int, typer.Option("--top", min=1, metavar="K", help="Number of contexts of each unit.")] = 5,
    text: Text = None,
    text_column: TextColumn = None,
    tokenizer: Tokenizer = None,
    blocks: Blocks = 64,
    device: Device = "auto",
    html: Html = None,
    stack: Stack = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Tokens at which FFN units are most active, with their text.

    Copied units are compared with the units of the donor: correlation of activations, and overlap of top contexts.

    Example: pli-analyze neurons runs/tiny --html neurons.html
    """
    if layer and unit:
        raise BadInput("--layer and --unit exclude each other: the id of a unit names its layer")
    use_device(device)
    from pli_analysis.metrics.neurons import neurons as metric
    from pli_analysis.report.neurons import section, verdict
    from pli_analysis.report.parts import of_checkpoint
    from pli_analysis.tables import emit

    run = open_run(runs, stack=stack)
    given = text_of(text, text_column, tokenizer)
    layers = metric.chosen_layers(run.at(at).lineage, layer or [one.partition(".")[0] for one in unit or []])
    table = metric.neurons(run, given, blocks, at, Bar("blocks"), layers, top)
    contexts = metric.strongest(table, layers, units) if not unit else metric.named(table, _known(table, unit))
    finding = verdict(table)
    say(finding)
    write_page(html, lambda: of_checkpoint(table, finding, section(table, contexts)))
    emit(contexts, format, out)


def _known(table: pd.DataFrame, units: list[str]) -> list[str]:
    """Return the ids of units without repetitions. Raises BadInput for one that its layer does not have."""
    from pli_analysis import columns as col

    for unit in units:
        if unit not in set(table[col.UNIT]):
            last = table[table[col.LAYER] == unit.partition(".")[0]][col.UNIT].iloc[-1]
            raise BadInput(f"--unit {unit}: there is no such unit (the last one of the layer is {last})")
    return list(dict.fromkeys(units))
