"""The envelope of several groups: the lowest loss that any of them has at a cost.

Growth should be compared with the best model that does not grow. Which depth that is depends on the budget, so that the
comparison needs runs of several fixed depths.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.comparison.curves import Curve, by_group, losses_at
from pli_analysis.metrics.loss import AXES
from pli_train.core.errors import BadInput, did_you_mean

NAME = "envelope"


@dataclass(frozen=True)
class Envelope:
    """The lowest mean loss of some groups.

    Attributes:
        curves: one for each seed. At each point it has the loss of this seed in the group with the lowest mean loss at
            this point of the axis or before it.
        spans: (group, point of the axis from which on its mean loss is the lowest), in order.
        members: names of the groups.
    """

    curves: list[Curve]
    spans: list[tuple[str, float]]
    members: list[str]


def envelope(curves: Sequence[Curve], patterns: Sequence[str], by: str) -> Envelope:
    """Compute the envelope of the groups that match one of some patterns.

    Args:
        curves: of all groups, none diverged, all of one scalar.
        patterns: names of groups, or patterns such as `depth-*`.
        by: the axis.

    Raises:
        BadInput: if a pattern matches no group, a group is named `envelope`, or the groups have different seeds.
    """
    members = _members(by_group(curves), patterns)
    points = np.unique(np.concatenate([curve.table[by] for group in members.values() for curve in group]))
    each = np.stack([[losses_at(curve, points, by) for curve in group] for group in members.values()])
    means = np.nan_to_num(each.mean(1), nan=np.inf)  # (groups, points); infinite unless all runs have a loss there
    here = means.min(0)
    lowest = np.minimum.accumulate(here)
    known = np.isfinite(lowest)
    # The point at which the lowest loss so far was reached, and the group that reached it.
    where = np.maximum.accumulate(np.where(here <= lowest, np.arange(len(points)), 0))
    best = means.argmin(0)[where]
    first = next(iter(members.values()))
    alike = all(curve.shared == first[0].shared for group in members.values() for curve in group)
    made = [
        _curve(curve, alike, by, points[known], each[best, number, where][known]) for number, curve in enumerate(first)
    ]
    return Envelope(made, _spans(list(members), best[known], points[known]), list(members))


def _members(groups: dict[str, list[Curve]], patterns: Sequence[str]) -> dict[str, list[Curve]]:
    """Return the matching groups, the curves of each in the order of their seeds."""
    if NAME in groups:
        raise BadInput(f"--envelope: a group is already named '{NAME}'; give it another name")
    for pattern in patterns:
        if not fnmatch.filter(groups, pattern):
            known = f"{did_you_mean(pattern, groups)} (groups: {', '.join(groups)})"
            raise BadInput(f"--envelope {pattern}: no group has this name{known}")
    names = [name for name in groups if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    members = {name: sorted(groups[name], key=lambda curve: curve.seed or 0) for name in names}
    seeds = {name: [curve.seed for curve in group] for name, group in members.items()}
    first = names[0]
    for name in names[1:]:
        if seeds[name] != seeds[first]:
            raise BadInput(
                f"--envelope: {first} has {_words(seeds[first])} and {name} has {_words(seeds[name])}; "
                "each group needs one run for each of the same seeds"
            )
    if len(set(seeds[first])) < len(seeds[first]):
        raise BadInput(f"--envelope: {first} has {_words(seeds[first])}; a group needs one run for each seed")
    return members


def _words(seeds: Sequence[int | None]) -> str:
    return f"the seed{'s' * (len(seeds) > 1)} {', '.join('unknown' if seed is None else str(seed) for seed in seeds)}"


def _curve(member: Curve, alike: bool, by: str, points: np.ndarray, losses: np.ndarray) -> Curve:
    """Make the curve of one seed; the seed is known only if all groups have the same batches and evaluation."""
    import pandas as pd

    table = pd.DataFrame({axis: np.full(len(points), np.nan) for axis in (col.STEP, *AXES)} | {by: points})
    name = NAME if member.seed is None else f"{NAME}, seed {member.seed}"
    return Curve(
        name,
        NAME,
        table.assign(**{col.LOSS: losses}),
        seed=member.seed if alike else None,
        shared=member.shared,
        tag=member.tag,
        counts=member.counts,
    )


def _spans(names: Sequence[str], best: np.ndarray, points: np.ndarray) -> list[tuple[str, float]]:
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    return [(names[best[start]], float(points[start])) for start in starts]
