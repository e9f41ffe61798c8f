"""`pli-analyze attribution`: what each layer, head and FFN adds to the logits."""

from __future__ import annotations

from pli_analysis.commands.on_text import Measurement, on_text


@on_text(progress="blocks")
def attribution() -> Measurement:
    """What each layer, head and FFN adds to the logits.

    The parts add up to the logits of the right tokens: direct logit attribution along the residual stream.

    Example: pli-analyze attribution runs/tiny --html attribution.html
    """
    from pli_analysis.metrics.attribution.attribution import attribution
    from pli_analysis.report.attribution import section, verdict

    return Measurement(attribution, verdict, section)
