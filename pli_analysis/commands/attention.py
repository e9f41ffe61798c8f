"""`pli-analyze attention`: where heads attend."""

from __future__ import annotations

from pli_analysis.commands.on_text import Measurement, on_text


@on_text(progress="blocks")
def attention() -> Measurement:
    """Where heads attend: entropy, distance and pattern.

    One row per head, and per layer for attention rollout. Copied heads are compared with those of their donor.

    Example: pli-analyze attention runs/tiny --html attention.html
    """
    from pli_analysis.metrics.attention import attention
    from pli_analysis.report.attention import section, verdict

    return Measurement(attention, verdict, section)
