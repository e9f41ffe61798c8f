"""`pli-analyze lens`: what the model would predict from the output of each layer."""

from __future__ import annotations

from pli_analysis.commands.on_text import Measurement, on_text


@on_text(progress="batches")
def lens() -> Measurement:
    """Predictions read from each layer: logit lens and tuned lens.

    The loss of these predictions, their distance to the model's, and where predictions are decided.

    Example: pli-analyze lens runs/tiny --html lens.html
    """
    from pli_analysis.metrics.lens import lens
    from pli_analysis.report.lens import section, verdict

    return Measurement(lens, verdict, section)
