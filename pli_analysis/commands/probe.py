"""`pli-analyze probe`: which properties of a token can be read from the output of each layer."""

from __future__ import annotations

from pli_analysis.commands.on_text import Measurement, on_text


@on_text(progress="labels")
def probe() -> Measurement:
    """What linear probes read from each layer, and what it adds.

    Labels are casing, previous token and position; of Python source also kind of token, brackets and indentation.

    Example: pli-analyze probe runs/tiny --html probe.html
    """
    from pli_analysis.metrics.probing.probe import probe
    from pli_analysis.report.probe import section, verdict

    return Measurement(probe, verdict, section)
