"""`pli-analyze pruning`: loss over the number of masked heads."""

from __future__ import annotations

from pli_analysis.commands.on_text import Measurement, on_text


@on_text(progress="masks")
def pruning() -> Measurement:
    """Loss over the number of masked heads.

    Which share of heads can be pruned? Heads are masked by importance, by the loss change of each head, and at random.

    Example: pli-analyze pruning runs/tiny --html pruning.html
    """
    from pli_analysis.metrics.ablation.pruning import pruning
    from pli_analysis.report.pruning import section, verdict

    return Measurement(pruning, verdict, section)
