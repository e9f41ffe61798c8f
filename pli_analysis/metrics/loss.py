"""Loss over steps, tokens, FLOPs and seconds.

Columns, one row for each logged loss:
    split       `train` (mean over the step's batch) or `eval` (held-out text, always the same blocks)
    step        optimizer updates done
    tokens      tokens trained on
    flops       floating-point operations of training, computed from tensor shapes
    seconds     training time, without evaluations and checkpoints
    loss        nats per target
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.scalars.reading import Scalars

AXES = {col.TOKENS: run_folder.TOKENS, col.FLOPS: run_folder.FLOPS, col.SECONDS: run_folder.SECONDS}
SPLITS = {"train": run_folder.LOSS, "eval": run_folder.EVAL_LOSS}
COLUMNS = [col.SPLIT, col.STEP, *AXES, col.LOSS]


def loss(scalars: Scalars) -> pd.DataFrame:
    """Return the training and eval losses of a run; empty if it logged none."""
    import pandas as pd

    parts = []
    for split, tag in SPLITS.items():
        table = scalars.table(tag)
        axes = {axis: at_steps(scalars, axis, table[col.STEP].to_numpy()) for axis in AXES}
        parts.append(pd.DataFrame({col.SPLIT: split, col.STEP: table[col.STEP], **axes, col.LOSS: table[col.VALUE]}))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)[COLUMNS]


def at_steps(scalars: Scalars, axis: str, steps: np.ndarray) -> np.ndarray:
    """Return tokens, FLOPs or seconds at some steps, linearly interpolated between logs; NaN if not logged."""
    logged = scalars.table(AXES[axis])
    if not len(logged):
        return np.full(len(steps), np.nan)
    return np.interp(steps, np.append(0, logged[col.STEP]), np.append(0, logged[col.VALUE]))


def births(scalars: Scalars, steps: list[int]) -> dict[str, np.ndarray]:
    """Return the positions of growth events on each axis."""
    at = np.asarray(steps, dtype=float)
    return {col.STEP: at, **{axis: at_steps(scalars, axis, at) for axis in AXES}}
