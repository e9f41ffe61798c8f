"""Commands that measure one checkpoint on blocks of text: all have the same options."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

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

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.report.parts import Section


class Measurement(NamedTuple):
    """What a command measures.

    Attributes:
        measure: function of run, text, blocks, step and progress that returns a table.
        verdict: returns the finding of a table in a sentence or two.
        section: returns the report section of a table.
    """

    measure: Callable[..., pd.DataFrame]
    verdict: Callable[[pd.DataFrame], str]
    section: Callable[[pd.DataFrame], Section]


def on_text(progress: str) -> Callable[[Callable[[], Measurement]], Callable[..., None]]:
    """Return a decorator that makes a command of a function that imports and returns a `Measurement`.

    The command has the name and the docstring of the function.

    Args:
        progress: what the progress bar counts.
    """

    def decorate(load: Callable[[], Measurement]) -> Callable[..., None]:
        def command(
            runs: RunFolder,
            at: At = None,
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
            from pli_analysis.report.parts import of_checkpoint
            from pli_analysis.tables import emit

            use_device(device)
            measure, verdict, section = load()
            run = open_run(runs, stack=stack)
            table = measure(run, text_of(text, text_column, tokenizer), blocks, at, Bar(progress))
            finding = verdict(table)
            say(finding)
            write_page(html, lambda: of_checkpoint(table, finding, section(table)))
            emit(table, format, out)

        command.__name__, command.__doc__ = load.__name__, load.__doc__
        return command

    return decorate
