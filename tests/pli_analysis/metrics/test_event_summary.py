"""The change of the loss at birth: where it is taken from, and which events have none."""

import numpy as np
import pandas as pd

from pli_analysis import columns as col
from pli_analysis.metrics.disturbance.event_summary import changes_at_birth


def test_a_measured_change_precedes_a_logged_one_and_step_0_has_none():
    events = pd.DataFrame(
        {
            col.STEP: [0, 10, 20, 30],
            col.LOSS_CHANGE: [0.5, 0.25, np.nan, np.nan],
            col.LOSS_BEFORE: [4.0, 3.0, 2.0, np.nan],
            col.LOSS_AFTER: [5.0, 3.5, 2.125, 1.0],
        }
    )
    assert changes_at_birth(events).tolist()[1:3] == [0.25, 0.125]
    assert changes_at_birth(events).isna().tolist() == [True, False, False, True]
