"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pli_analysis.inference.devices import DeviceName
from pli_analysis.tables import Format
from pli_train.core import output
from pli_train.core.cli.shell import Command
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pli_analysis.inference import eval_tokens


def a_file(word: str) -> Path:
    """Parse the name of an output file; `-` is stdout. Raises BadInput for a name that ends in a slash."""
    if word.endswith("/"):
        raise BadInput(f"{word}: cannot be written (it is a folder: name a file)")
    return output.STDOUT if word == "-" else Path(word)


def run_argument(metavar: str, help: str, several: bool = False) -> Any:
    """Return the argument for a run, whose default is the newest run under runs/.

    Args:
        metavar, help: as in `typer.Argument`; the default is added to the help.
        several: whether the parameter is a list of paths.
    """
    return typer.Argument(
        metavar=metavar,
        help=f"{help} (default: the newest run under runs/).",
        default_factory=(lambda: [_newest()]) if several else _newest,
        show_default=False,
    )


def _newest() -> Path:
    """Return the newest run under runs/; without runs, the folder itself, so that the command reports it."""
    root = Path("runs")
    try:
        return run_folder.newest_run(root)
    except BadInput:  # not raised here, as help and completion ask for the default too
        return root


RunFolder = Annotated[
    list[Path],
    run_argument("[RUN...]", "Folder of a run, of HF Trainer or of a model; or checkpoints in order", several=True),
]
LineageFile = Annotated[
    Path | None, typer.Option("--lineage", metavar="FILE", help="Use this lineage.json for checkpoints that have none.")
]
Stack = Annotated[
    str | None,
    typer.Option("--stack", metavar="PATH", help="Models with several stacks: path of the layers to analyze."),
]
FormatOption = Annotated[
    Format | None,
    typer.Option("--format", "-f", metavar="FORMAT", help="Output format: table, json, csv, md, latex or parquet."),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write to FILE; its suffix sets the format.", parser=a_file),
]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="Also measure ablation, pruning, lenses, probes, attribution, conductance, attention, neurons.",
    ),
]
Verify = Annotated[bool, typer.Option("--verify", help="Check every file's hash; skip checkpoints that differ.")]
Text = Annotated[
    Path | None,
    typer.Option("--text", metavar="FILE", help="Use this text or folder of texts instead of held-out blocks."),
]
TextColumn = Annotated[
    str | None, typer.Option("--text-column", metavar="NAME", help="With --text: column that holds the text.")
]
Tokenizer = Annotated[
    Path | None,
    typer.Option("--tokenizer", metavar="PATH", help="With --text: folder of a tokenizer, or tokenizer.json."),
]
Device = Annotated[
    DeviceName,
    typer.Option("--device", metavar="DEVICE", help="Device for models: auto (a GPU if there is one), cpu, cuda, mps."),
]
Blocks = Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of blocks of text to use.")]
At = Annotated[
    int | None, typer.Option("--at", min=0, metavar="STEP", help="Step of the checkpoint (default: the last).")
]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write an HTML page with the figures.", parser=a_file)
]


def text_of(text: Path | None, column: str | None, tokenizer: Path | None) -> eval_tokens.Text | None:
    """Return the text given by --text and its options. Raises BadInput for such an option without --text."""
    from pli_analysis.inference.eval_tokens import Text

    if text is None:
        for option, value in (("--text-column", column), ("--tokenizer", tokenizer)):
            if value is not None:
                raise BadInput(f"{option}: applies only to --text FILE: give both")
        return None
    return Text(text, column or "text", tokenizer)


def alone(option: str, value: str, is_value: Callable[[str | None], bool]) -> type[Command]:
    """Return a command class in which an option may be given without a value, which Typer does not support.

    Args:
        option: the option, such as `--html`.
        value: the value of the option when given alone.
        is_value: returns whether the next word (None at the end of the line) is the value of the option.
    """

    class Filling(Command):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            pairs = zip(args, [*args[1:], None], strict=False)  # without words there are no pairs
            filled = [f"{option}={value}" if arg == option and not is_value(word) else arg for arg, word in pairs]
            return super().parse_args(ctx, filled)

    return Filling
