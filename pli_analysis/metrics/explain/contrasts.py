"""Inserted layers of one run against matched layers: one pair of numbers for each measure and reference.

References:
    `age`       initial layers of the same run when they had the age of the inserted layers
    `depth`     initial layers of the same run at the same step: those next to the inserted layer in the stack,
                linearly interpolated over the index
    `scratch`   the layers with the same indices, at the end, of a run with the same seed that did not grow
    `depth-scratch`     `depth` minus the same contrast between the same indices in the run that did not grow
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.explain.measures import GRADIENT, MEASURES, gradients, of_layers, while_young
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.inference import eval_tokens
    from pli_analysis.runs.run import Run
    from pli_train.core.lineage import Birth
    from pli_train.core.run_format.run_folder import CheckpointName

AGE, DEPTH, SCRATCH, DEPTH_SCRATCH = "age", "depth", "scratch", "depth-scratch"
REFERENCES = (AGE, DEPTH, SCRATCH, DEPTH_SCRATCH)
PRETRAINED = "pretrained"
"""Initializer of layers whose weights were trained before the run."""
NEAR = 0.05
"""Largest relative difference between an age and the step of the checkpoint that stands for it."""


class Contrast(NamedTuple):
    """Means over the inserted layers of a run, and over the layers that they are matched with."""

    measure: str
    reference: str
    inserted: float
    matched: float


def of_run(
    run: Run,
    scratch: Run | None,
    text: Path | eval_tokens.Text | None,
    blocks: int,
    on_checkpoint: Callable[[], None] = lambda: None,
) -> Iterator[Contrast]:
    """Yield the contrasts of a run, where both numbers are known.

    Args:
        scratch: run that did not grow, with the same seed.
        on_checkpoint: called after each checkpoint that is measured.

    Raises:
        BadInput: if no growth event inserted a layer, the runs have different numbers of layers, or a checkpoint cannot
            be measured.
    """
    require_comparable(run, scratch)
    now = _measured(run, run.checkpoints[-1].name, text, blocks, on_checkpoint)
    inserted = now[col.IS_INSERTED].to_numpy()
    young = _when_young(run, now, text, blocks, on_checkpoint)
    base = None if scratch is None else _measured(scratch, scratch.checkpoints[-1].name, text, blocks, on_checkpoint)
    for measure in MEASURES:
        values = now[measure.name].to_numpy(dtype=float)
        mine, near = values[inserted], beside(values, inserted)
        found = [Contrast(measure.name, DEPTH, *_means(mine, near))]
        found.append(Contrast(measure.name, AGE, *young[measure.name]))
        if base is not None:
            there = base[measure.name].to_numpy(dtype=float)
            found.append(Contrast(measure.name, SCRATCH, *_means(mine, there[inserted])))
            corrected = near + there[inserted] - beside(there, inserted)
            found.append(Contrast(measure.name, DEPTH_SCRATCH, *_means(mine, corrected)))
        yield from (each for each in found if np.isfinite([each.inserted, each.matched]).all())


def require_comparable(run: Run, scratch: Run | None) -> None:
    """Raise BadInput if a run has no inserted or no initial layers, or the other run grew or has another depth."""
    births = _births(run)
    if all(birth.event is None for birth in births):
        raise BadInput(f"{run.path}: no growth event inserted a layer; explain needs inserted layers")
    if all(birth.event is not None for birth in births):
        raise BadInput(f"{run.path}: no initial layer is left to compare the inserted layers with")
    others = [] if scratch is None else _births(scratch)
    if scratch is not None and any(birth.event is not None for birth in others):
        raise BadInput(f"{scratch.path}: a growth event inserted a layer; --scratch is for runs that did not grow")
    if scratch is not None and len(others) != len(births):
        raise BadInput(f"{scratch.path}: has {len(others)} layers at its end, and {run.path} has {len(births)}")


def _births(run: Run) -> list[Birth]:
    """Return the births of the layers at the end of a run, bottom to top."""
    lineage = run.checkpoints[-1].lineage
    return [lineage.layers[id].birth for id in lineage.stack]


def beside(values: np.ndarray, inserted: np.ndarray) -> np.ndarray:
    """Return what the initial layers next to each inserted layer predict for it, interpolated over the index.

    Args:
        values: (layers,), bottom to top.
        inserted: (layers,) bool.

    Returns:
        (inserted layers,). Below the lowest and above the highest initial layer, it is the value of that layer.

    >>> beside(np.array([1.0, 9.0, 3.0, 9.0]), np.array([False, True, False, True])).tolist()
    [2.0, 3.0]
    """
    initial = ~inserted & np.isfinite(values)
    if not initial.any():
        return np.full(int(inserted.sum()), np.nan)
    return np.interp(np.flatnonzero(inserted), np.flatnonzero(initial), values[initial])


def _measured(
    run: Run, name: CheckpointName, text: Path | eval_tokens.Text | None, blocks: int, on_checkpoint: Callable[[], None]
) -> pd.DataFrame:
    """Measure the layers at a checkpoint and count it."""
    table = of_layers(run, name, text, blocks)
    on_checkpoint()
    return table


def _means(mine: np.ndarray, matched: np.ndarray) -> tuple[float, float]:
    """Return both means over the layers where both values are known; NaN if there is none."""
    known = np.isfinite(mine) & np.isfinite(matched)
    return (float(mine[known].mean()), float(matched[known].mean())) if known.any() else (np.nan, np.nan)


def has_age(births: Sequence[Birth]) -> bool:
    """Return whether the age of the initial layers is known: they began at step 0, and not with pretrained weights."""
    return all(birth.event is not None or (birth.step == 0 and birth.initializer != PRETRAINED) for birth in births)


def checkpoints_when_young(run: Run) -> dict[int, CheckpointName]:
    """Return age of inserted layers at the end → checkpoint at which the initial layers had that age.

    Ages without such a checkpoint are missing. Checkpoints right or soon after a growth event do not count, as the
    event changed what the initial layers do.
    """
    last, births = run.checkpoints[-1].step, _births(run)
    if not has_age(births):
        return {}
    ages = {last - birth.step for birth in births if birth.event is not None}
    events = [event.step for event in run.lineage.events]

    def is_near(name: CheckpointName, age: int) -> bool:
        since = [name.step - step for step in events if step < name.step or (step == name.step and name.after)]
        return abs(name.step - age) <= NEAR * age and min(since, default=age) > NEAR * age

    near = {age: [each.name for each in run.checkpoints if is_near(each.name, age)] for age in sorted(ages)}
    return {age: min(names, key=lambda name: abs(name.step - age)) for age, names in near.items() if names}


def _when_young(
    run: Run,
    now: pd.DataFrame,
    text: Path | eval_tokens.Text | None,
    blocks: int,
    on_checkpoint: Callable[[], None],
) -> dict[str, tuple[float, float]]:
    """Return measure → means over the inserted layers, and over the initial layers when they had the same ages.

    Gradients are those of a layer's whole life up to that age, which need no checkpoint.
    """
    initial = list(now.index[~now[col.IS_INSERTED]])
    mine: dict[str, list[float]] = {measure.name: [] for measure in MEASURES}
    matched: dict[str, list[float]] = {measure.name: [] for measure in MEASURES}
    names = checkpoints_when_young(run)
    tables = {name: _measured(run, name, text, blocks, on_checkpoint) for name in sorted(set(names.values()))}
    norms = gradients(run) if has_age(_births(run)) else gradients(run).iloc[:0]
    for age, layers in now[now[col.IS_INSERTED]].groupby(col.AGE):
        for layer in layers.index:
            mine[GRADIENT.name].append(while_young(norms, [layer], int(age)))
            matched[GRADIENT.name].append(while_young(norms, initial, int(age)))
        if age not in names:
            continue
        then = tables[names[age]]
        then = then[then.index.isin(initial)]
        for measure in MEASURES[1:]:
            mine[measure.name] += layers[measure.name].tolist()
            matched[measure.name] += [float(then[measure.name].mean())] * len(layers)
    return {name: _means(np.array(mine[name], dtype=float), np.array(matched[name], dtype=float)) for name in mine}
