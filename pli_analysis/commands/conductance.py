"""`pli-analyze conductance`: how much of the effect of the text goes through each layer."""

from __future__ import annotations

from pli_analysis.commands.on_text import Measurement, on_text


@on_text(progress="blocks")
def conductance() -> Measurement:
    """How much of the effect of the text goes through each layer.

    Integrated gradients and layer conductance, with completeness error, infidelity and sensitivity.

    Example: pli-analyze conductance runs/tiny --html conductance.html
    """
    from pli_analysis.metrics.attribution.conductance import conductance
    from pli_analysis.report.conductance import section, verdict

    return Measurement(conductance, verdict, section)
