"""`pli-analyze NAME`: metrics of other packages, each a command."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pli_analysis.commands.options import FormatOption, Html, LineageFile, OutOption, RunFolder, Stack
from pli_analysis.commands.status import open_run, write_page
from pli_analysis.report import plugins
from pli_train.core.cli.console import say, timed
from pli_train.core.plugins import Plugin


def commands() -> Iterator[tuple[str, Callable[..., None]]]:
    """Yield name and command of each metric of another package, without importing the packages."""
    for name, plugin in plugins.installed().items():
        yield name, _command(plugin)


def _command(plugin: Plugin) -> Callable[..., None]:
    def command(
        runs: RunFolder,
        html: Html = None,
        lineage_file: LineageFile = None,
        stack: Stack = None,
        format: FormatOption = None,
        out: OutOption = None,
    ) -> None:
        from pli_analysis.report.parts import Report
        from pli_analysis.tables import emit

        run = open_run(runs, lineage=lineage_file, stack=stack)
        with timed(str(plugin)):
            measured = plugins.measure(plugin, run)
        if measured.finding:
            say(measured.finding)
        write_page(html, lambda: Report(run.name, measured.finding, [measured.section(measured.table)]))
        emit(measured.table, format, out)

    command.__name__ = plugin.name
    command.__doc__ = f"""Metric of {plugin.package} {plugin.version}.

    A metric of an installed package; also a section of the report.

    Example: pli-analyze {plugin.name} runs/tiny --html {plugin.name}.html
    """
    return command
