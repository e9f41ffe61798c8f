"""Loss curves for tests, without a run."""

import pandas as pd

from pli_analysis.metrics.comparison.curves import Curve


def curve(name, steps, losses, group=None):
    """The curve of a run; without a group it is one by itself."""
    return Curve(name, group or name, pd.DataFrame({"step": steps, "loss": losses}))
