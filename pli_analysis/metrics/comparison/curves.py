"""Loss curves over steps, tokens, FLOPs and seconds, and where they reach a given loss.

A run reaches a loss where its smoothed curve first comes down to it, linearly interpolated between points. A loss that
it never reaches, or is below at its first point, is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.comparison import loss_tags as names_of_losses
from pli_analysis.metrics.comparison.configs import config_of
from pli_analysis.metrics.loss import AXES, at_steps
from pli_analysis.runs import paths
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.scalars.reading import Scalars

BATCHES = ("train.block_size", "train.batch_size", "train.accumulation", "train.mlm_probability")
EVALUATION = ("eval.", "train.eval_blocks")
"""Keys of a config that decide, with the seed and the corpus, which batches a run sees and what it is evaluated on."""
LISTED = 4
"""Steps or runs that a line names, at most."""


@dataclass(frozen=True)
class Curve:
    """One run's loss.

    Attributes:
        name: of the run.
        group: of the runs that differ by seed alone; the run's own name when none was given.
        table: `step`, `tokens`, `flops`, `seconds` and `loss`, by step, where the loss is finite; an axis that was not
            logged is NaN. Seconds are of training for our runs, since the first point for others'.
        events: steps of growth.
        damaged: a line for each file of which records could not be read, and one for points that are not finite.
        width: points that `losses` is smoothed over.
        seed: of a run of ours; None for others'.
        shared: what has to be equal for runs of one seed to have the same batches and evaluation: key → value.
        tag: the scalar that it is, by the name that all runs have; empty where none is told.
        diverged: the step from which on no loss is finite; None where the last one is.
        counts: what `step` counts: `step`, or `epoch`.
        gaps: the axes of `table` at points whose loss is not finite, up to where the run diverged.
    """

    name: str
    group: str
    table: pd.DataFrame
    events: list[int] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    width: int = 1
    seed: int | None = None
    shared: dict[str, object] = field(default_factory=dict)
    tag: str = ""
    diverged: int | None = None
    counts: str = "step"
    gaps: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def omitted(self) -> int:
        """How many points are left out because their loss is not finite, up to where the run diverged."""
        return len(self.gaps.get(col.STEP, ()))

    @cached_property
    def losses(self) -> np.ndarray:
        """[points], the smoothed loss, which everything here is measured on."""
        return smoothed(self.table[col.LOSS].to_numpy(dtype=float), self.width)


def read(asked: Sequence[str], tag: str | None = None, width: int = 1) -> list[Curve]:
    """The loss curves of some runs.

    Args:
        asked: paths; `GROUP=PATH` puts the runs at one into a group.
        tag: a pattern (`eval*`); each tag it matches that all runs have is a curve of each run, and `Curve.tag` tells
            which. By default it is the loss of `pli_analysis.metrics.comparison.loss_tags`.
        width: points to smooth losses over, an odd number of them.

    Raises:
        BadInput: when a path holds no scalars, the runs have none in common, or `width` is even.
    """
    if width % 2 == 0:
        raise BadInput(
            f"--smooth {width}: a mean around a point takes an odd number of points: {width - 1} or {width + 1}"
        )
    found = [(group, *each) for group, path in map(grouped, asked) for each in paths.logged(path)]
    runs = dict(zip(paths.names([source for _, source, _ in found]), found, strict=True))
    there = {name: list(logged.columns) for name, (_, _, logged) in runs.items()}
    files = {name: source.path.stem for name, (_, source, _) in runs.items() if source.is_download}
    every = names_of_losses.chosen(there, files, tag)
    curves = []
    for name, (group, source, logged) in runs.items():
        known = _of_run(source.path)
        for tags in every:
            points, gaps, diverged = _finite(_table(logged, tags[name]))
            known |= {"tag": names_of_losses.label(tags, files), "diverged": diverged, "gaps": gaps}
            known["counts"] = "epoch" if tags[name] in logged.epochs else "step"
            read_one = Curve(name, group or name, points, width=width, **known)
            curves.append(replace(read_one, damaged=[*logged.damaged, *_gaps_line(read_one)]))
    return curves


def grouped(asked: str) -> tuple[str, Path]:
    """The group and the path of `GROUP=PATH`, the group empty where none is told.

    Raises:
        BadInput: when there is no path: an empty one would be the current folder.
    """
    group, sign, path = asked.partition("=")
    if not asked or (sign and not path and not Path(asked).exists()):
        raise BadInput(f"'{asked}': names no run; write GROUP=RUN, or RUN alone")
    return (group, Path(path)) if sign and group and not Path(asked).exists() else ("", Path(asked))


def _finite(points: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, np.ndarray], int | None]:
    """The points with a finite loss, the axes of the others, and the step from which on all are others.

    That step is None when the last loss is finite. Points from it on are not among the others.
    """
    finite = np.isfinite(points[col.LOSS].to_numpy())
    end = int(np.flatnonzero(finite)[-1]) + 1 if finite.any() else 0
    others = points[:end][~finite[:end]].drop(columns=col.LOSS)
    diverged = int(points[col.STEP].iloc[end]) if end < len(points) else None
    return points[finite].reset_index(drop=True), {axis: others[axis].to_numpy() for axis in others}, diverged


def _gaps_line(curve: Curve) -> list[str]:
    """A line on points that are left out because their loss is not finite, if there are some."""
    if not curve.omitted:
        return []
    plural = "s" * (curve.omitted > 1)
    where = f"{curve.counts}{plural} {_few([f'{step:,}' for step in curve.gaps[col.STEP]])}"
    return [f"{curve.name}: {curve.omitted} point{plural} of {curve.tag or 'the loss'} not finite, at {where}"]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _table(scalars: Scalars, tag: str) -> pd.DataFrame:
    """One scalar as `loss`, with the axes at its steps."""
    import pandas as pd

    points = scalars.table(tag)
    steps = points[col.STEP].to_numpy()
    axes = {}
    for axis, logged in AXES.items():
        known = len(scalars.table(logged)) > 0
        axes[axis] = at_steps(scalars, axis, steps) if known else np.full(len(steps), np.nan)
    if len(steps) and np.isnan(axes[col.SECONDS]).all():
        axes[col.SECONDS] = (points[col.WALL_TIME] - points[col.WALL_TIME].iloc[0]).to_numpy()
    return pd.DataFrame({col.STEP: steps, **axes, col.LOSS: points[col.VALUE].to_numpy()})


def _of_run(path: Path) -> dict[str, Any]:
    """What the folder of a run tells beside scalars: `events`, `seed` and `shared` of its curves."""
    if not (path / run_folder.RUN).is_file():
        return {}
    from pli_analysis.runs.opening import open_run

    run = open_run(path)
    seed, corpus = run.record.get("seed"), run.record.get("corpus")
    shared = {key: value for key, value in config_of(run).items() if key.startswith((*BATCHES, *EVALUATION))}
    return {
        "events": sorted({event.step for event in run.lineage.events}),
        "seed": seed if isinstance(seed, int) else None,
        "shared": shared | {"corpus": corpus.get("fingerprint") if isinstance(corpus, dict) else None},
    }


def require(curves: Sequence[Curve], axis: str) -> None:
    """Raise BadInput when no run has a loss, or one has none on that axis."""
    if axis not in (col.STEP, *AXES):
        raise BadInput(f"--by {axis}: is none of step, {', '.join(AXES)}")
    if not converged(curves):
        names, tag = ", ".join(curve.name for curve in curves), curves[0].tag
        raise BadInput(f"{names}: diverged, no loss at the end is finite{f' ({tag})' if tag else ''}")
    if axis == col.STEP:
        _require_one_unit(converged(curves))
    for curve in converged(curves):
        if curve.table[axis].isna().any():
            raise BadInput(f"--by {axis}: {curve.name} did not log it; compare by step")


def _require_one_unit(curves: Sequence[Curve]) -> None:
    """Raise BadInput when some runs count steps and others epochs."""
    runs: dict[str, list[str]] = {}
    for curve in curves:
        runs.setdefault(curve.counts, []).append(curve.name)
    if len(runs) > 1:
        each = [f"{_few(names)} {'counts' if len(names) == 1 else 'count'} {unit}s" for unit, names in runs.items()]
        raise BadInput(f"{', '.join(each)}: compare logs that count the same, or compare --by seconds")


def converged(curves: Sequence[Curve]) -> list[Curve]:
    """Those whose last loss is finite."""
    return [curve for curve in curves if curve.diverged is None]


def smoothed(losses: np.ndarray, width: int) -> np.ndarray:
    """A running mean over `width` points around each (odd; shorter, and still centered, at both ends).

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
    with np.errstate(invalid="ignore", over="ignore"):
        share = (losses[at - 1] - level) / (losses[at - 1] - losses[at])
        return float(where[at - 1] + share * (where[at] - where[at - 1]))


def loss_at(curve: Curve, at: float, axis: str = col.STEP) -> float:
    """The smoothed loss at a point of an axis, linearly interpolated between finite points.

    NaN outside of them, and where a loss that is not finite lies between the two.
    """
    where = curve.table[axis].to_numpy(dtype=float)
    if is_gap(curve, at, axis):
        return float("nan")
    return float(np.interp(at, where, curve.losses, left=np.nan, right=np.nan)) if len(where) else float("nan")


def is_gap(curve: Curve, at: float, axis: str = col.STEP) -> bool:
    """Whether a loss that is not finite was logged at a point of an axis, or between the finite ones beside it."""
    if not curve.omitted:
        return False
    where, gaps = curve.table[axis].to_numpy(dtype=float), curve.gaps[axis]
    if np.any(where == at):
        return False
    before, after = where[where < at].max(initial=-np.inf), where[where > at].min(initial=np.inf)
    return bool(np.any((before < gaps) & (gaps < after)))
