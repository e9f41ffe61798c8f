"""Runs against each other: whose loss is lower at a step, and who comes down to a loss sooner.

A run reaches a loss where its smoothed curve first comes down to it, in a straight line between the points around.
What it never reached, or had already passed at its first point, is missing rather than guessed. Speed-up is what the
reference needed ÷ what the run needed, for the same loss: in steps, tokens, FLOPs or seconds. Over seeds it is the
ratio of geometric means, with a percentile bootstrap over the runs of both groups (Efron, 1979).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import scalars as readers
from pli_analysis.metrics.loss import AXES, at_steps
from pli_train import run_folder
from pli_train.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.scalars import Scalars

USUAL_TAGS = (run_folder.EVAL_LOSS, run_folder.LOSS, "eval/loss", "train/loss")
DRAWS, COVERED = 2000, 95.0
"""Bootstrap draws, and the per cent of them that a band covers."""


@dataclass(frozen=True)
class Curve:
    """One run's loss.

    Attributes:
        name: of the run.
        group: of the runs that differ by seed alone; the run's own name when none was given.
        table: `step`, `tokens`, `flops`, `seconds` and `loss`, by step; an axis that was not logged is NaN. Seconds are
            of training for our runs, since the first point for others'.
        events: steps of growth.
        damaged: a line for each file of which records could not be read.
        width: points that `losses` is smoothed over.
    """

    name: str
    group: str
    table: pd.DataFrame
    events: list[int] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    width: int = 1

    @cached_property
    def losses(self) -> np.ndarray:
        """[points], the smoothed loss, which everything here is measured on."""
        return smoothed(self.table["loss"].to_numpy(dtype=float), self.width)


# --- reading --------------------------------------------------------------------------------------------------------


def read(asked: Sequence[str], tag: str | None = None, width: int = 1) -> list[Curve]:
    """The loss curves of some runs.

    Args:
        asked: run folders, event folders or files, JSON or CSV downloads; `GROUP=PATH` puts one into a group.
        tag: a pattern (`eval*`); each tag it matches is a curve. By default the usual names of a loss are looked for.
        width: points to smooth losses over, an odd number of them.

    Raises:
        BadInput: when a path holds no scalars, or none that matches, or `width` is even.
    """
    if width % 2 == 0:
        raise BadInput(
            f"--smooth {width}: a mean around a point takes an odd number of points: {width - 1} or {width + 1}"
        )
    found = [curve for each in asked for curve in _curves(*grouped(each), tag, width)]
    names = [curve.name for curve in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"two runs are called {twice[0]!r}: rename one, so that a table can tell them apart")
    return found


def grouped(asked: str) -> tuple[str, Path]:
    """The group and the path of `GROUP=PATH`, the group empty where none is told."""
    group, sign, path = asked.partition("=")
    return (group, Path(path)) if sign and group and not Path(asked).exists() else ("", Path(asked))


def _curves(group: str, path: Path, pattern: str | None, width: int) -> list[Curve]:
    scalars, name = readers.read(path), readers.name_of(path)
    tags, events = _tags(path, list(scalars.columns), pattern), _events(path)
    found = []
    for tag in tags:
        called = f"{name}:{tag}" if len(tags) > 1 else name
        found.append(Curve(called, group or called, _table(scalars, tag), events, scalars.damaged, width))
    return found


def _tags(path: Path, there: list[str], pattern: str | None) -> list[str]:
    if pattern is not None:
        chosen = fnmatch.filter(there, pattern)
    else:
        usual = [tag for tag in USUAL_TAGS if tag in there]
        chosen = usual[:1] or (there if len(there) == 1 else [])
    if not chosen:
        asked = f"matches --tag {pattern!r}" if pattern else "is a loss by its name; choose one with --tag"
        raise BadInput(f"{path}: no scalar {asked}; {readers.told(there)}")
    return chosen


def _table(scalars: Scalars, tag: str) -> pd.DataFrame:
    import pandas as pd

    points = scalars.table(tag)
    points = points[np.isfinite(points["value"])]
    steps = points["step"].to_numpy()
    axes = {}
    for axis, logged in AXES.items():
        known = len(scalars.table(logged)) > 0
        axes[axis] = at_steps(scalars, axis, steps) if known else np.full(len(steps), np.nan)
    if len(steps) and np.isnan(axes["seconds"]).all():
        axes["seconds"] = (points["wall_time"] - points["wall_time"].iloc[0]).to_numpy()
    return pd.DataFrame({"step": steps, **axes, "loss": points["value"].to_numpy()})


def _events(path: Path) -> list[int]:
    if not (path / run_folder.RUN).is_file():
        return []
    from pli_analysis.run import Run

    return sorted({event.step for event in Run.open(path).lineage.events})


def require(curves: Sequence[Curve], axis: str) -> None:
    """Raise BadInput when a run has no loss, or none on that axis."""
    if axis not in ("step", *AXES):
        raise BadInput(f"--by {axis}: is none of step, {', '.join(AXES)}")
    for curve in curves:
        if not len(curve.table):
            raise BadInput(f"{curve.name}: has no finite loss")
        if curve.table[axis].isna().any():
            raise BadInput(f"--by {axis}: {curve.name} did not log it; compare by step")


def parse_levels(text: str) -> list[float]:
    """Losses from `5.5,4`. Raises BadInput for what is no number."""
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        levels = [float("nan")]
    if not np.isfinite(levels).all():
        raise BadInput(f"--levels {text}: give losses with commas between them, as 5.5,4")
    return sorted(levels, reverse=True)


# --- measuring ------------------------------------------------------------------------------------------------------


def smoothed(losses: np.ndarray, width: int) -> np.ndarray:
    """A running mean over `width` points around each (odd; shorter, and still centred, at both ends).

    >>> smoothed(np.array([4.0, 1.0, 1.0, 4.0]), 3).tolist()
    [4.0, 2.0, 2.0, 4.0]
    """
    reach = np.minimum(width // 2, np.minimum(np.arange(len(losses)), np.arange(len(losses))[::-1]))
    sums, at = np.concatenate([[0.0], np.cumsum(losses)]), np.arange(len(losses))
    means = (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)
    return np.where(reach == 0, losses, means)  # as logged where nothing is smoothed: sums would round


def reached(curve: Curve, level: float, axis: str) -> float:
    """Where on an axis a run's smoothed loss first comes down to a level; NaN when it never does, or was below before.

    >>> import pandas as pd
    >>> reached(Curve("r", "r", pd.DataFrame({"step": [0, 10], "loss": [4.0, 2.0]})), 3.5, "step")
    2.5
    """
    losses = curve.losses
    below = np.flatnonzero(losses <= level)
    if not len(below) or below[0] == 0:
        return float("nan")
    at, where = int(below[0]), curve.table[axis].to_numpy(dtype=float)
    share = (losses[at - 1] - level) / (losses[at - 1] - losses[at])
    return float(where[at - 1] + share * (where[at] - where[at - 1]))


def loss_at(curve: Curve, step: float) -> float:
    """The smoothed loss at a step, in a straight line between points; NaN outside them."""
    steps = curve.table["step"].to_numpy()
    return float(np.interp(step, steps, curve.losses, left=np.nan, right=np.nan)) if len(steps) else float("nan")


def last_common_step(curves: Sequence[Curve]) -> int:
    """The last step that all runs came to."""
    return int(min(curve.table["step"].max() for curve in curves))


def common_levels(curves: Sequence[Curve], count: int) -> list[float]:
    """Losses that all runs come down to, evenly spaced from the lowest start to the highest end; empty for none."""
    high, low = min(curve.losses[0] for curve in curves), max(curve.losses.min() for curve in curves)
    return [float(f"{level:.4g}") for level in np.linspace(high, low, count + 2)[1:-1]] if low < high else []


def by_group(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Group → its curves, groups in the order of their first."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    return groups


def speed_ups(
    curves: Sequence[Curve], levels: Sequence[float], axis: str = "step", reference: str | None = None
) -> pd.DataFrame:
    """How much sooner each group comes down to each level than the reference.

    Returns:
        One row a level and group: `level`, `group`, `runs`, `reached` (how many of them do), `at` (geometric mean over
        them, on the axis), `speed_up`, `low` and `high` (95 % bootstrap band). `at` is missing unless all runs of the
        group reach the level, `speed_up` unless all of the reference do too, the band also where both have one run.

    Raises:
        BadInput: when no group is called `reference`.
    """
    import pandas as pd

    groups = by_group(curves)
    base = reference or next(iter(groups))
    if base not in groups:
        raise BadInput(f"no run or group is called {base!r}; there are: {', '.join(groups)}")
    rows = []
    for level in levels:
        needed = {name: np.array([reached(c, level, axis) for c in group]) for name, group in groups.items()}
        for name, mine in needed.items():
            ratio, low, high = _ratio(needed[base], mine, same=name == base)
            at = float(np.exp(np.log(mine).mean()))
            count = int(np.isfinite(mine).sum())
            rows.append((level, name, len(mine), count, at, ratio, low, high))
    return pd.DataFrame(rows, columns=["level", "group", "runs", "reached", "at", "speed_up", "low", "high"])


def _ratio(base: np.ndarray, mine: np.ndarray, same: bool) -> tuple[float, float, float]:
    """The ratio of two groups' geometric means, and its bootstrap band."""
    missing = float("nan")
    if not (np.isfinite(base).all() and np.isfinite(mine).all()):
        return missing, missing, missing
    logs = np.log(base), np.log(mine)
    ratio = float(np.exp(logs[0].mean() - logs[1].mean()))
    if same or len(base) == len(mine) == 1:
        return ratio, missing, missing
    chance = np.random.default_rng(0)
    means = [group[chance.integers(len(group), size=(DRAWS, len(group)))].mean(axis=1) for group in logs]
    low, high = np.exp(np.percentile(means[0] - means[1], [50 - COVERED / 2, 50 + COVERED / 2]))
    return ratio, float(low), float(high)


def summary(curves: Sequence[Curve], at: int, ups: pd.DataFrame) -> pd.DataFrame:
    """One row a run, the lowest loss at step `at` first; with its group's speed-up at each level, of `speed_ups`."""
    import pandas as pd

    rows = []
    for curve in curves:
        row = {
            "run": curve.name,
            "group": curve.group,
            "events": len(curve.events),
            "last step": curve.table["step"].max(),
        }
        row |= {"lowest loss": curve.table["loss"].min(), f"loss at {at}": loss_at(curve, at)}
        mine = ups[ups["group"] == curve.group]
        row |= {f"speed-up to {r.level:g}": r.speed_up for r in mine.itertuples()}
        rows.append(row)
    return pd.DataFrame(rows).sort_values(f"loss at {at}", kind="stable", ignore_index=True)
