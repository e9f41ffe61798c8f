"""Process large tensors in chunks that fit into a core's cache.

A segment is a range of the first axis, which is contiguous in each file, with a trajectory of its own: some heads,
groups or FFN units if the axis is indexed by these, else some rows that belong to all of them.
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
"""Size of a segment in float32, in bytes. Four arrays are in use: now, before, at birth, and a difference."""


class Steps(NamedTuple):
    """The steps into which a tensor can be split along its first axis.

    Attributes:
        number: number of steps, without padding.
        height: rows in each step.
        factor: `head`, `group` or `unit` if each step is one; None for rows that belong to all or none of them.
    """

    number: int
    height: int
    factor: str | None


def segments(track: TensorTrajectory) -> Iterator[tuple[int, TensorTrajectory]]:
    """Split a tensor into segments; a tensor that is small or cannot be split is one segment.

    Yields:
        (number of the first part in the segment, segment).

    Raises:
        BadInput: if it does not match the lineage.
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
    """Return how a tensor can be split; it has one step if the growing factor is not the first of its axis."""
    factor, length = growing(axes), view_of.position.shape[0]
    if factor is None or factor not in factors(each_axis(axes)[0]):
        return Steps(length, 1, None)
    if factor != factors(axes)[0]:
        return Steps(1, length, None)
    there, alive = view_of.there(axes, factor), view_of.alive(factor)
    if alive is not None and alive > there:
        raise ValueError(f"{alive} of factor {factor}, but only {there} are stored")
    return Steps(there if alive is None else alive, length // there, factor)


def stretch(view_of: TensorView, steps: Steps, start: int, stop: int) -> TensorView:
    """Return a range of steps of a tensor as a tensor view without padding."""
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
    """Restrict a visit to a range of steps with `parts` parts each; 0 if each step belongs to all parts."""
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
    """Return whether a range is the same rows of the tensor at all checkpoints, and of the donors to compare with."""
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
