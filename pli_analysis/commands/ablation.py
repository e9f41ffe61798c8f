"""`pli-analyze ablation`: loss without single heads, FFNs and layers."""

from __future__ import annotations

from pli_analysis.commands.on_text import Measurement, on_text


@on_text(progress="ablations")
def ablation() -> Measurement:
    """Effect of masking heads and FFNs and of skipping layers.

    The change of the loss, with a 95 % interval, head importance and block influence.

    Example: pli-analyze ablation runs/tiny --html ablation.html
    """
    from pli_analysis.metrics.ablation.ablation import ablation
    from pli_analysis.report.ablation import section, verdict

    return Measurement(ablation, verdict, section)
