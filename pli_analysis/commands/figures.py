"""`pli-analyze figures`: the figures of a report as files for a paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pli_analysis.commands.options import Device, Explain, LineageFile, Stack, Verify, a_file
from pli_analysis.commands.outputs import inputs_of, require_files
from pli_analysis.commands.report import of_several, refuse_for_several, runs_of
from pli_analysis.commands.status import complain, open_run
from pli_analysis.inference.devices import use_device
from pli_train.core import output
from pli_train.core.cli.console import Bar, timed
from pli_train.core.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from pli_analysis.report.parts import Section
    from pli_analysis.runs.run import Run

DEFAULT = "figures in the run's folder"
INCH = 96.0
UNITS = {"in": INCH, "cm": INCH / 2.54, "mm": INCH / 25.4, "pt": INCH / 72.27, "px": 1.0}
"""Unit → pixels. A point is that of TeX, 1/72.27 inch, so that a column's width may be copied from there."""
NARROWEST, WIDEST = 1.5 * INCH, 40 * INCH
"""Widths at which figures can be drawn, in pixels."""
Style = Literal["paper", "slides"]
SCALES: dict[str, float] = {"paper": 1.0, "slides": 2.0}
"""Style → factor of the sizes of text and lines."""


def figures(
    run: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN...]", help="As for drift, or several runs (default: the newest under runs/)."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="Figures, views or sections to write, such as drift,loss-flops."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", "-f", metavar="FORMAT,FORMAT", help="File formats: pdf (the default), svg or png."),
    ] = None,
    width: Annotated[
        str, typer.Option(metavar="WIDTH", help="Width with its unit: in, cm, mm, pt (of TeX) or px.")
    ] = "3.25in",
    style: Annotated[
        Style, typer.Option(metavar="STYLE", help="Text of 7 to 8 points (paper) or 14 to 16 points (slides).")
    ] = "paper",
    dpi: Annotated[int, typer.Option(min=30, max=2400, metavar="N", help="Pixels per inch of png.")] = 300,
    explain: Explain = False,
    device: Device = "auto",
    lineage_file: LineageFile = None,
    stack: Stack = None,
    verify: Verify = False,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="DIR|FILE", help=f"Folder, or file of one figure (default: {DEFAULT})."),
    ] = None,
) -> None:
    """Write the figures of a report as PDF, SVG or PNG files.

    They have the width and the text size of a paper; text in PDF and SVG remains text. Prints the paths of the files.

    Example: pli-analyze figures runs/tiny --only loss,drift -o figs
    """
    from pli_analysis.figures.paper import printed
    from pli_analysis.report import figure_files, rendering
    from pli_analysis.runs.opening import newest_run

    use_device(device)
    pixels = pixels_of(width) / SCALES[style]
    file, formats = file_of(out), formats_of(format, out)
    names = None if only is None else figure_files.parse(only)
    rendering.require_browser()
    paths = run or [str(newest_run().path)]
    if file is not None:
        require_files({"-o": file}, inputs_of({"run": paths, "lineage_file": lineage_file}))
    if several := runs_of(paths):
        refuse_for_several({"--explain": explain, "--lineage": lineage_file, "--stack": stack}, len(several))
        beside, report = of_several(several, verify)
        sections = report.sections
    else:
        opened = open_run([Path(path) for path in paths], verify, lineage_file, stack)
        beside, sections = opened.path, _sections(opened, names, explain)
    chosen = figure_files.choose(names, sections)
    if file is not None and len(chosen) > 1:
        raise BadInput(f"-o {out}: is one file, and {len(chosen)} figures are to be written: give --only, or a folder")
    drawings = {name: printed(shown.drawing, pixels, shown.view) for name, shown in chosen.items()}
    with timed(f"{len(chosen)} figures as {', '.join(formats)}"):
        files = rendering.render(drawings, formats, dpi, SCALES[style], Bar("files"))
    _write(files, file, Path(out) if out is not None else beside / "figures")


def _sections(run: Run, names: list[str] | None, explain: bool) -> list[Section]:
    """Build the sections of a run that the named figures belong to; without names those of the report."""
    from pli_analysis.report import content, figure_files, plugins

    complain(run.scalars.damaged)
    functions = content.SECTIONS | {id: each.build for id, each in content.EXPLANATIONS.items()} | plugins.sections()
    del functions["provenance"]  # it has no figure
    if names is not None:
        ids = figure_files.needed(names, functions)
    else:
        ids = [id for id in functions if explain or id not in content.EXPLANATIONS]
    return content.sections_of(run, {id: functions[id] for id in ids}, Bar("sections"))


def _write(files: dict[tuple[str, str], bytes], file: Path | None, folder: Path) -> None:
    """Write the files of figures, by (name, format), and print their paths."""
    if file is None:
        output.make_folder(folder)
    for (name, format), content in files.items():
        path = file or folder / f"{name}.{format}"
        output.write(path, content)
        if path != output.STDOUT:
            print(path)


def pixels_of(width: str) -> float:
    """Return a width in pixels.

    Raises:
        BadInput: if it is not a number with a unit of `UNITS`, or if nothing can be drawn at this width.

    >>> pixels_of("3.25in"), pixels_of(" 480 px "), round(pixels_of("254mm"))
    (312.0, 480.0, 960)
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]+)", width.strip())
    if not found or found[2] not in UNITS:
        raise BadInput(f"--width {width}: is not a number with a unit; use {', '.join(UNITS)}, such as 3.25in")
    pixels = float(found[1]) * UNITS[found[2]]
    if not NARROWEST <= pixels <= WIDEST:
        raise BadInput(f"--width {width}: is not between {NARROWEST / INCH:g}in and {WIDEST / INCH:g}in")
    return pixels


def file_of(out: str | None) -> Path | None:
    """Return the file that is named by `-o`; None if it names a folder: one that exists, or a name without a suffix."""
    if out is None or out.endswith("/") or Path(out).is_dir() or (out != "-" and not Path(out).suffix):
        return None
    return a_file(out)


def formats_of(format: str | None, out: str | None) -> list[str]:
    """Return the formats of files: the given ones, or else that of the file's ending, or else pdf.

    Raises:
        BadInput: for an unknown format or ending, or several formats for one file.
    """
    from pli_analysis.report.rendering import FORMATS

    file = file_of(out)
    ending = "" if file is None else file.suffix.lower().removeprefix(".")
    if format is None and ending and ending not in FORMATS:
        known = ", ".join(f".{each}" for each in FORMATS)
        raise BadInput(f"{out}: unknown file ending .{ending}; use one of {known}, or give --format")
    formats = [word.strip().lower() for word in (format or ending or "pdf").split(",")]
    for each in formats:
        if each not in FORMATS:
            raise BadInput(f"--format {format}: {each} is none of {', '.join(FORMATS)}{did_you_mean(each, FORMATS)}")
    if file is not None and len(formats) > 1:
        raise BadInput(f"-o {out}: is one file, and --format {format} are several: name a folder")
    return list(dict.fromkeys(formats))
