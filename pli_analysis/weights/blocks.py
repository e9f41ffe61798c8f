"""Split a tensor of constant shape into blocks, and locate them in its files.

For tensors that grow, or whose parts were copied from several donors, see `pli_analysis.weights.chunks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pli_analysis.runs.tensor_location import TensorLocation
from pli_analysis.runs.tensor_slices import TensorView
from pli_analysis.weights.buffers import BufferPool
from pli_analysis.weights.trajectory import TensorTrajectory, Visit, misfit
from pli_train.core.anatomy.axes import growing
from pli_train.core.errors import MISFITS


class Block(NamedTuple):
    """A contiguous range of a tensor.

    Attributes:
        start: index of its first number in the tensor.
        part: number of its first part.
        folds: its shape as (outer, parts, inner).
    """

    start: int
    part: int
    folds: tuple[int, int, int]

    @property
    def size(self) -> int:
        """Number of numbers in the block."""
        outer, parts, inner = self.folds
        return outer * parts * inner


def is_steady(track: TensorTrajectory) -> bool:
    """Return whether a tensor has the same shape and no padding at all visits, and so have its donors.

    Raises:
        BadInput: if it does not match the lineage.
    """
    try:
        return _is_steady(track)
    except MISFITS as error:
        raise misfit(track.visits[0].position.path.parent, track.id, error) from None


def _is_steady(track: TensorTrajectory) -> bool:
    first, factor = track.visits[0], growing(track.axes)
    alive = factor and first.alive(factor)
    if factor and alive is not None and alive != first.there(track.axes, factor):
        return False
    parts = track.folds(first, first.position.shape)[1]
    straight = tuple((True, number) for number in range(parts))

    def like_first(view_of: TensorView) -> bool:
        position, same = view_of.position, first.position
        if position.shape != same.shape or position.type != same.type:
            return False
        return factor is None or (view_of.alive(factor) == alive and view_of.stored == first.stored)

    def copied_straight(visit: Visit) -> bool:
        return not any(visit.donor_parts) or (
            visit.donor is not None and visit.donor_parts == straight and like_first(visit.donor)
        )

    return all(like_first(visit) and copied_straight(visit) for visit in track.visits)


def has_donor(visit: Visit) -> bool:
    """Return whether a steady tensor has a donor to compare with at a visit."""
    return any(visit.donor_parts)


def blocks(folds: tuple[int, int, int], most: int) -> Iterator[Block]:
    """Split a tensor of a folded shape into contiguous blocks of at most `most` numbers.

    >>> [tuple(block) for block in blocks((3, 2, 4), 16)]
    [(0, 0, (2, 2, 4)), (16, 0, (1, 2, 4))]
    >>> [tuple(block) for block in blocks((1, 3, 4), 8)], [tuple(block) for block in blocks((1, 1, 5), 3)]
    ([(0, 0, (1, 2, 4)), (8, 2, (1, 1, 4))], [(0, 0, (1, 1, 3)), (3, 0, (1, 1, 2))])
    """
    outer, parts, inner = folds
    whole = parts * inner
    if not whole:
        return
    if whole <= most:
        step = most // whole
        for at in range(0, outer, step):
            yield Block(at * whole, 0, (min(step, outer - at), parts, inner))
        return
    together, length = max(most // inner, 1), min(inner, most)
    for at in range(outer):
        for part in range(0, parts, together):
            for number in range(0, inner, length):
                own = (1, min(together, parts - part), min(length, inner - number))
                yield Block(at * whole + part * inner + number, part, own)


class Locations:
    """The location of a tensor in files at each of its visits; none at visits without it."""

    def __init__(self, positions: Sequence[TensorLocation | None]) -> None:
        self._paths = [position.path if position else None for position in positions]
        self._offsets = np.array([position.offset if position else 0 for position in positions])

    def handles(self, visits: slice, start: int, pool: BufferPool) -> tuple[np.ndarray, np.ndarray]:
        """Return the open file of each of some visits, and the offset of the tensor's byte `start` in it.

        Returns:
            File descriptors and offsets, (visits,) each; a descriptor of −1 at visits without the tensor.
        """
        handles = [-1 if path is None else pool.files.handle(path) for path in self._paths[visits]]
        return np.array(handles), self._offsets[visits] + start


def locations(track: TensorTrajectory) -> tuple[Locations, Locations]:
    """Return the locations of a steady tensor and of its donor."""
    donors = [visit.donor.position if visit.donor and has_donor(visit) else None for visit in track.visits]
    return Locations([visit.position for visit in track.visits]), Locations(donors)
