"""The loss of a run over steps, tokens, FLOPs and seconds: read from a run, event files or downloads.

A run reaches a loss where its smoothed curve first comes down to it, linearly interpolated between points. A loss that
it never reaches, or is below at its first point, is missing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import scalars as readers
from pli_analysis.metrics.loss import AXES, at_steps
from pli_analysis.metrics.runs import config_of
from pli_analysis.others import trainer_log
from pli_train import run_folder
from pli_train.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.scalars import Scalars

USUAL_TAGS = (run_folder.EVAL_LOSS, run_folder.LOSS, "eval/loss", "train/loss")
BATCHES = ("train.block_size", "train.batch_size", "train.accumulation", "train.mlm_probability")
EVALUATION = ("eval.", "train.eval_blocks")
"""Keys of a config that decide, with the seed and the corpus, which batches a run sees and what it is evaluated on."""


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
        seed: of a run of ours; None for others'.
        shared: what has to be equal for runs of one seed to have the same batches and evaluation: key → value.
    """

    name: str
    group: str
    table: pd.DataFrame
    events: list[int] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    width: int = 1
    seed: int | None = None
    shared: dict[str, object] = field(default_factory=dict)

    @cached_property
    def losses(self) -> np.ndarray:
        """[points], the smoothed loss, which everything here is measured on."""
        return smoothed(self.table["loss"].to_numpy(dtype=float), self.width)


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
    scalars, name = trainer_log.any_of(path), trainer_log.name_of(path)
    tags, known = _tags(path, list(scalars.columns), pattern), _of_run(path)
    found = []
    for tag in tags:
        called = f"{name}:{tag}" if len(tags) > 1 else name
        found.append(
            Curve(called, group or called, _table(scalars, tag), damaged=scalars.damaged, width=width, **known)
        )
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


def _of_run(path: Path) -> dict[str, Any]:
    """What the folder of a run tells beside scalars: `events`, `seed` and `shared` of its curves."""
    if not (path / run_folder.RUN).is_file():
        return {}
    from pli_analysis.run import Run

    run = Run.open(path)
    seed, corpus = run.record.get("seed"), run.record.get("corpus")
    shared = {key: value for key, value in config_of(run).items() if key.startswith((*BATCHES, *EVALUATION))}
    return {
        "events": sorted({event.step for event in run.lineage.events}),
        "seed": seed if isinstance(seed, int) else None,
        "shared": shared | {"corpus": corpus.get("fingerprint") if isinstance(corpus, dict) else None},
    }


def require(curves: Sequence[Curve], axis: str) -> None:
    """Raise BadInput when a run has no loss, or none on that axis."""
    if axis not in ("step", *AXES):
        raise BadInput(f"--by {axis}: is none of step, {', '.join(AXES)}")
    for curve in curves:
        if not len(curve.table):
            raise BadInput(f"{curve.name}: has no finite loss")
        if curve.table[axis].isna().any():
            raise BadInput(f"--by {axis}: {curve.name} did not log it; compare by step")


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
    with np.errstate(invalid="ignore", over="ignore"):
        share = (losses[at - 1] - level) / (losses[at - 1] - losses[at])
        return float(where[at - 1] + share * (where[at] - where[at - 1]))


def loss_at(curve: Curve, at: float, axis: str = "step") -> float:
    """The smoothed loss at a point of an axis, linearly interpolated between points; NaN outside of them."""
    where = curve.table[axis].to_numpy(dtype=float)
    return float(np.interp(at, where, curve.losses, left=np.nan, right=np.nan)) if len(where) else float("nan")
