"""Process large tensors in chunks that fit into a core's cache.

A piece is a stretch of the first axis. It lies in one place of each file, and is a tensor with a track of its own: some
of the heads, groups or FFN units where the axis numbers those, and some rows of all of them where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pli_analysis.runs.tensor_location import TensorLocation
from pli_analysis.runs.tensor_slices import TensorView
from pli_analysis.weights import trajectory
from pli_analysis.weights.trajectory import TensorTrajectory, Visit
from pli_train.core.anatomy.axes import each_axis, factors, growing
from pli_train.core.errors import MISFITS

SIZE = 2**21
"""Bytes of a piece in float32. Four arrays are in use: what is now, was before and was at birth, and a difference."""


class Steps(NamedTuple):
    """Where a tensor can be cut along its first axis.

    Attributes:
        number: of the living steps.
        height: rows of each.
        factor: what each is: `head`, `group` or `unit`; None for rows that have something of all of them, or of none.
    """

    number: int
    height: int
    factor: str | None


def segments(track: TensorTrajectory) -> Iterator[tuple[int, TensorTrajectory]]:
    """The pieces of a tensor, or the tensor itself where it is small or cannot be cut.

    Yields:
        (number of the first part that the piece has something of, the piece).

    Raises:
        BadInput: when it does not fit the lineage.
    """
    whole = 4 * max(math.prod(visit.position.shape) for visit in track.visits)
    if whole < 2 * SIZE:
        yield 0, track
        return
    steps = []
    for visit in track.visits:
        try:
            steps.append(steps_of(visit, track.axes))
        except MISFITS as error:
            raise trajectory.misfit(visit.position.path.parent, track.id, error) from None
    if not _correspond(track, steps):
        yield 0, track
        return
    owners, stored, height = track.anatomy.owners(track.name), track.visits[0].stored, steps[0].height
    kept = [stored[owner] for owner in owners if owner != steps[0].factor]
    parts = math.prod(kept) if len(kept) < len(owners) else 0
    row, most = max(math.prod(visit.position.shape[1:]) for visit in track.visits), max(step.number for step in steps)
    size = -(-most // max(round(4 * most * height * row / SIZE), 1))
    for start in range(0, most, size):
        visits = [
            _visit(visit, step, start, min(start + size, step.number), parts)
            for visit, step in zip(track.visits, steps, strict=True)
            if step.number > start
        ]
        yield start * parts, TensorTrajectory(track.anatomy, track.id, track.name, tuple(visits))


def steps_of(view_of: TensorView, axes: str) -> Steps:
    """Where a tensor of these axes can be cut; it is one step where what grows does not come first in its axis."""
    factor, length = growing(axes), view_of.position.shape[0]
    if factor is None or factor not in factors(each_axis(axes)[0]):
        return Steps(length, 1, None)
    if factor != factors(axes)[0]:
        return Steps(1, length, None)
    there, alive = view_of.there(axes, factor), view_of.alive(factor)
    if alive is not None and alive > there:
        raise ValueError(f"{alive} of {factor} are alive and {there} stored")
    return Steps(there if alive is None else alive, length // there, factor)


def stretch(view_of: TensorView, steps: Steps, start: int, stop: int) -> TensorView:
    """Some steps of a tensor as a tensor, with nothing in it that is not alive."""
    count, others, stored = stop - start, view_of.position.shape[1:], view_of.stored
    offset = start * steps.height * math.prod(others) * view_of.position.dtype.itemsize
    position = TensorLocation(
        view_of.position.path, view_of.position.offset + offset, view_of.position.type, (count * steps.height, *others)
    )
    if steps.factor == "unit":
        return TensorView(position, stored, view_of.heads, count)
    if steps.factor is None:
        return TensorView(position, stored, view_of.heads, view_of.units)
    heads = count * (stored["member"] if steps.factor == "group" else 1)
    return TensorView(position, stored | {"head": heads, "group": heads // stored["member"]}, heads, view_of.units)


def _visit(visit: Visit, steps: Steps, start: int, stop: int, parts: int) -> Visit:
    """A visit to some steps only, each of which has so many parts; 0 where each has something of all parts."""
    donor = stretch(visit.donor, steps, start, stop) if visit.donor else None
    donor_parts = visit.donor_parts
    if parts:
        donor_parts = tuple(
            one and (one[0], one[1] - start * parts) for one in donor_parts[start * parts : stop * parts]
        )
    copied = visit.copied
    if steps.factor == "unit" and copied is not None:
        copied = min(max(copied - start, 0), stop - start)
    return Visit(
        **vars(stretch(visit, steps, start, stop)),
        number=visit.number,
        wanted=visit.wanted,
        donor=donor,
        donor_parts=donor_parts,
        copied=copied,
    )


def _correspond(track: TensorTrajectory, steps: Sequence[Steps]) -> bool:
    """Whether a stretch is the same rows of the tensor at all checkpoints, and of the donors they are compared with."""
    alike = {(step.height, visit.stored["member"]) for visit, step in zip(track.visits, steps, strict=True)}
    rows = {step.number for step in steps if step.factor is None}
    if len(alike) > 1 or len(rows) > 1:
        return False
    for visit, step in zip(track.visits, steps, strict=True):
        if visit.donor is not None and steps_of(visit.donor, track.axes) != step:
            return False
        known = {number: donor_parts for number, donor_parts in enumerate(visit.donor_parts) if donor_parts is not None}
        if step.factor in ("head", "group") and any(
            donor_parts != (True, number) for number, donor_parts in known.items()
        ):
            return False
    return True
