"""`pli-analyze doctor`: check this machine for libraries and devices."""

from __future__ import annotations

import typer

from pli_analysis.commands.options import FormatOption, OutOption


def doctor(format: FormatOption = None, out: OutOption = None) -> None:
    """Check this machine for libraries, cache and devices.

    Exit code 1 if something required is missing.

    Example: pli-analyze doctor
    """
    import pandas as pd

    from pli_analysis import machine
    from pli_analysis.tables import emit

    findings = list(machine.check())
    emit(pd.DataFrame(findings), format, out)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
