"""Loss over steps, tokens, FLOPs and seconds.

Columns, one row an observation:
    split       `train` (mean over the step's batch) or `eval` (held-out text, estimated from the same blocks)
    step        optimizer updates done
    tokens      tokens trained on
    flops       floating-point operations of training, counted on paper
    seconds     of training, evaluations and checkpoints left out
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
    """Both losses of a run; empty when it logged none."""
    import pandas as pd

    parts = []
    for split, tag in SPLITS.items():
        table = scalars.table(tag)
        axes = {axis: at_steps(scalars, axis, table[col.STEP].to_numpy()) for axis in AXES}
        parts.append(pd.DataFrame({col.SPLIT: split, col.STEP: table[col.STEP], **axes, col.LOSS: table[col.VALUE]}))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)[COLUMNS]


def at_steps(scalars: Scalars, axis: str, steps: np.ndarray) -> np.ndarray:
    """Tokens, FLOPs or seconds at some steps: as logged, and in a straight line between logs; NaN where none were."""
    logged = scalars.table(AXES[axis])
    if not len(logged):
        return np.full(len(steps), np.nan)
    return np.interp(steps, np.append(0, logged[col.STEP]), np.append(0, logged[col.VALUE]))


def births(scalars: Scalars, steps: list[int]) -> dict[str, np.ndarray]:
    """Where growth events lie on each axis."""
    at = np.asarray(steps, dtype=float)
    return {col.STEP: at, **{axis: at_steps(scalars, axis, at) for axis in AXES}}
