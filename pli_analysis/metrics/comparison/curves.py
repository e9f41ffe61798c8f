"""Loss curves over steps, tokens, FLOPs and seconds, and where they reach a given loss.

A run reaches a loss where its smoothed curve first falls to it, linearly interpolated between points. A loss that it
never reaches, or that its first point is already below, is missing.
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

BATCHES = ("train.block_size", "train.batch_size", "train.accumulation", "train.mlm_probability", "train.order")
EVALUATION = ("eval.", "train.eval_blocks")
"""Config keys that determine, with the seed and the corpus, the batches and the evaluation blocks of a run."""
LISTED = 4
"""Maximum number of steps or runs listed in a message."""


@dataclass(frozen=True)
class Curve:
    """One run's loss.

    Attributes:
        name: name of the run.
        group: name of the runs that differ only by seed; the run's own name if none was given.
        table: `step`, `tokens`, `flops`, `seconds` and `loss` by step, at points with a finite loss; an axis that was
            not logged is NaN. Seconds are of training; for logs of other libraries, since the first point.
        events: steps of growth events.
        damaged: one line for each file with unreadable records, and one for points that are not finite.
        width: number of points over which `losses` is smoothed.
        seed: seed of a pli run; None for logs of other libraries.
        shared: settings that must be equal for runs of one seed to have the same batches and evaluation: key → value.
        tag: name of the scalar that all runs have in common; empty if not known.
        diverged: step from which on no loss is finite; None if the last loss is finite.
        counts: unit of `step`: `step` or `epoch`.
        gaps: the axes of `table` at points before `diverged` whose loss is not finite.
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
        """Number of points before `diverged` that are left out because their loss is not finite."""
        return len(self.gaps.get(col.STEP, ()))

    @cached_property
    def losses(self) -> np.ndarray:
        """The smoothed loss, (points,), on which all comparisons are based."""
        return smoothed(self.table[col.LOSS].to_numpy(dtype=float), self.width)


def read(arguments: Sequence[str], tag: str | None = None, width: int = 1) -> list[Curve]:
    """Read the loss curves of some runs.

    Args:
        arguments: paths; `GROUP=PATH` assigns the runs at a path to a group.
        tag: a pattern such as `eval*`; each matching tag that all runs have gives one curve for each run, with the tag
            in `Curve.tag`. By default the loss chosen by `pli_analysis.metrics.comparison.loss_tags`.
        width: number of points over which losses are smoothed; odd.

    Raises:
        BadInput: if a path has no scalars, the runs have none in common, or `width` is even.
    """
    if width % 2 == 0:
        raise BadInput(
            f"--smooth {width}: a centered mean needs an odd number of points; use {width - 1} or {width + 1}"
        )
    sources = [(group, *each) for group, path in map(grouped, arguments) for each in paths.logged(path)]
    runs = dict(zip(paths.names([source for _, source, _ in sources]), sources, strict=True))
    tags_of = {name: list(logged.columns) for name, (_, _, logged) in runs.items()}
    files = {name: source.path.stem for name, (_, source, _) in runs.items() if source.is_download}
    chosen = names_of_losses.chosen(tags_of, files, tag)
    curves = []
    for name, (group, source, logged) in runs.items():
        facts = _of_run(source.path)
        for tags in chosen:
            points, gaps, diverged = _finite(_table(logged, tags[name]))
            facts |= {"tag": names_of_losses.label(tags, files), "diverged": diverged, "gaps": gaps}
            facts["counts"] = "epoch" if tags[name] in logged.epochs else "step"
            curve = Curve(name, group or name, points, width=width, **facts)
            curves.append(replace(curve, damaged=[*logged.damaged, *_gaps_line(curve)]))
    return curves


def grouped(argument: str) -> tuple[str, Path]:
    """Split `GROUP=PATH` into group and path; the group is empty for a path alone.

    Raises:
        BadInput: if the path is empty, as it would mean the current folder.
    """
    group, sign, path = argument.partition("=")
    if not argument or (sign and not path and not Path(argument).exists()):
        raise BadInput(f"'{argument}': has no path of a run; write GROUP=RUN, or RUN alone")
    return (group, Path(path)) if sign and group and not Path(argument).exists() else ("", Path(argument))


def _finite(points: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, np.ndarray], int | None]:
    """Split points into those with a finite loss and the axes of the others; return also the step of divergence.

    No loss is finite from that step on, and points from there on are in neither; it is None if the last loss is finite.
    """
    finite = np.isfinite(points[col.LOSS].to_numpy())
    end = int(np.flatnonzero(finite)[-1]) + 1 if finite.any() else 0
    others = points[:end][~finite[:end]].drop(columns=col.LOSS)
    diverged = int(points[col.STEP].iloc[end]) if end < len(points) else None
    return points[finite].reset_index(drop=True), {axis: others[axis].to_numpy() for axis in others}, diverged


def _gaps_line(curve: Curve) -> list[str]:
    """Return a line about points that are left out because their loss is not finite, if any."""
    if not curve.omitted:
        return []
    plural = "s" * (curve.omitted > 1)
    where = f"{curve.counts}{plural} {_few([f'{step:,}' for step in curve.gaps[col.STEP]])}"
    return [f"{curve.name}: {curve.omitted} point{plural} of {curve.tag or 'the loss'} not finite, at {where}"]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _table(scalars: Scalars, tag: str) -> pd.DataFrame:
    """Return one scalar as `loss`, with the axes at its steps."""
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
    """Return `events`, `seed` and `shared` of the curves of a run folder; nothing for other logs."""
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


def by_group(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Return the curves of each group, groups in order of first appearance."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    return groups


def require(curves: Sequence[Curve], axis: str) -> None:
    """Raise BadInput if all runs diverged, or a run did not log the axis."""
    if axis not in (col.STEP, *AXES):
        raise BadInput(f"--by {axis}: is not an axis; use one of step, {', '.join(AXES)}")
    if not converged(curves):
        names, tag = ", ".join(curve.name for curve in curves), curves[0].tag
        raise BadInput(
            f"{names}: diverged, the last loss is not finite{f' ({tag})' if tag else ''}; add a run to compare"
        )
    if axis == col.STEP:
        _require_one_unit(converged(curves))
    for curve in converged(curves):
        if curve.table[axis].isna().any():
            raise BadInput(f"--by {axis}: {curve.name} did not log {axis}; use --by step")


def _require_one_unit(curves: Sequence[Curve]) -> None:
    """Raise BadInput if some runs count steps and others epochs."""
    runs: dict[str, list[str]] = {}
    for curve in curves:
        runs.setdefault(curve.counts, []).append(curve.name)
    if len(runs) > 1:
        each = [f"{_few(names)} {'counts' if len(names) == 1 else 'count'} {unit}s" for unit, names in runs.items()]
        raise BadInput(f"{', '.join(each)}: compare logs with the same unit, or use --by seconds")


def converged(curves: Sequence[Curve]) -> list[Curve]:
    """Return the curves whose last loss is finite."""
    return [curve for curve in curves if curve.diverged is None]


def smoothed(losses: np.ndarray, width: int) -> np.ndarray:
    """Return the centered running mean over `width` points (odd); the window is shorter, but centered, at the ends.

    >>> smoothed(np.array([4.0, 1.0, 1.0, 4.0]), 3).tolist()
    [4.0, 2.0, 2.0, 4.0]
    """
    reach = np.minimum(width // 2, np.minimum(np.arange(len(losses)), np.arange(len(losses))[::-1]))
    sums, at = np.concatenate([[0.0], np.cumsum(losses)]), np.arange(len(losses))
    means = (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)
    return np.where(reach == 0, losses, means)  # exactly as logged where the window is one point: sums would round


def reached(curve: Curve, level: float, axis: str) -> float:
    """Return the point of an axis where the smoothed loss first falls to a level.

    NaN if it never does, or if the first point is at or below the level.

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
    """Return the smoothed loss at one point of an axis: see `losses_at`."""
    return float(losses_at(curve, np.array([at]), axis)[0])


def losses_at(curve: Curve, points: np.ndarray, axis: str = col.STEP) -> np.ndarray:
    """Return the smoothed loss at points of an axis, (points,), linearly interpolated between finite points.

    NaN outside their range, and if a loss that is not finite lies between the two neighboring points.
    """
    where = curve.table[axis].to_numpy(dtype=float)
    if not len(where):
        return np.full(len(points), np.nan)
    losses = np.interp(points, where, curve.losses, left=np.nan, right=np.nan)
    return np.where([is_gap(curve, point, axis) for point in points], np.nan, losses) if curve.omitted else losses


def is_gap(curve: Curve, at: float, axis: str = col.STEP) -> bool:
    """Return whether a loss that is not finite was logged at a point of an axis or between its finite neighbors."""
    if not curve.omitted:
        return False
    where, gaps = curve.table[axis].to_numpy(dtype=float), curve.gaps[axis]
    if np.any(where == at):
        return False
    before, after = where[where < at].max(initial=-np.inf), where[where > at].min(initial=np.inf)
    return bool(np.any((before < gaps) & (gaps < after)))
