"""Read a tensor of constant shape at several checkpoints at once.

What Python does is done once for them all, and what is compared lies in a core's cache. Where a tensor grows, or parts
of it were copied from several donors, see `pli_analysis.weights.chunks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pli_analysis.runs.tensor_slices import TensorLocation, TensorView
from pli_analysis.weights.buffers import BufferPool
from pli_analysis.weights.trajectory import TensorTrajectory, Visit, misfit
from pli_train.core.anatomy.axes import growing
from pli_train.core.errors import MISFITS

BLOCK = 2**19
"""Numbers of a block at most."""
STACK = 2**22
"""Numbers of a stack at most, all its checkpoints together; one at least."""


class Block(NamedTuple):
    """A stretch of a tensor in memory.

    Attributes:
        start: the number of the tensor that it begins with.
        part: the first part that it has something of.
        folds: its own.
    """

    start: int
    part: int
    folds: tuple[int, int, int]

    @property
    def size(self) -> int:
        """How many numbers."""
        outer, parts, inner = self.folds
        return outer * parts * inner


@dataclass(frozen=True)
class Stack:
    """A block at some visits, one after another.

    Attributes:
        block: which.
        visits: the numbers of these visits.
        now: (visits, numbers).
        previous: (visits, numbers), of the visit before each; the first of all is its own.
        birth: (1, numbers).
        donors: (visits, numbers), zeros at a visit without a donor; None when none has one.
    """

    block: Block
    visits: slice
    now: np.ndarray
    previous: np.ndarray
    birth: np.ndarray
    donors: np.ndarray | None


def is_steady(track: TensorTrajectory) -> bool:
    """Whether a tensor is the same numbers at all visits, all of them alive, and so are donors it was copied from.

    Raises:
        BadInput: when it does not fit the lineage.
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
    """Whether a visit of a steady tensor has a donor to compare it with."""
    return any(visit.donor_parts)


def blocks(folds: tuple[int, int, int], most: int) -> Iterator[Block]:
    """Cut a tensor of these folds into stretches of memory of `most` numbers or less.

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


def stacks(track: TensorTrajectory, pool: BufferPool) -> Iterator[Stack]:
    """Read a steady tensor, block by block, at all visits; arrays are good until the next one.

    Visits that nobody asked for are in no stack, when they come before all that somebody did.

    Raises:
        FileNotFoundError: when a checkpoint was removed meanwhile.
        BadInput: when it cannot be read.
    """
    visits, position = track.visits, track.visits[0].position
    skip = [visit.wanted for visit in visits].index(True)
    own, theirs = lines(track)
    for block in blocks(track.folds(visits[0], position.shape), BLOCK):
        height = min(max(STACK // block.size, 1), len(visits))
        # The row above those of now is what was before.
        buffer = pool.take("stack", (height + 1, block.size), position.wide)
        birth = buffer[1:2] if height == len(visits) else pool.take("birth", (1, block.size), position.wide)
        for first in range(0, len(visits), height):
            stop = min(first + height, len(visits))
            if first:
                buffer[0] = buffer[height]
            own.read(slice(first, stop), block, buffer[1 : stop - first + 1], pool)
            if not first:
                if not skip:
                    buffer[0] = buffer[1]
                if height < len(visits):
                    birth[0] = buffer[1]
            some = slice(max(first, skip), stop)
            if some.start < stop:
                previous, now = (buffer[some.start - first + row : stop - first + row] for row in (0, 1))
                donors = pool.take("donors", now.shape, position.wide) if theirs.any(some) else None
                if donors is not None:
                    theirs.read(some, block, donors, pool)
                yield Stack(block, some, now, previous, birth, donors)


def lines(track: TensorTrajectory) -> tuple[Lines, Lines]:
    """Where a steady tensor lies, and where its donor does."""
    donors = [visit.donor.position if visit.donor and has_donor(visit) else None for visit in track.visits]
    return Lines([visit.position for visit in track.visits]), Lines(donors)


class Lines:
    """Where a tensor lies at each of its visits, if it does."""

    def __init__(self, locations: Sequence[TensorLocation | None]) -> None:
        self._paths = [position.path if position else None for position in locations]
        self._offsets = np.array([position.offset if position else 0 for position in locations])
        self._stored = next((position.dtype for position in locations if position), np.dtype(np.float32))

    def read(self, visits: slice, block: Block, into: np.ndarray, pool: BufferPool) -> None:
        """A block of it at some visits, a row each; zeros where it is not."""
        raw = into if self._stored == into.dtype else pool.take("raw", into.shape, self._stored)
        for path, offset, row in zip(self._paths[visits], self._within(visits, block).tolist(), raw, strict=True):
            if path is None:
                row[:] = 0
            else:
                pool.files.read(path, offset, row)
        if raw is not into:
            into[...] = raw

    def any(self, visits: slice) -> bool:
        """Whether it is at one of some visits."""
        return any(path is not None for path in self._paths[visits])

    def handles(self, visits: slice, block: Block, pool: BufferPool) -> tuple[np.ndarray, np.ndarray]:
        """The handle of the file that it is in and where in it a block begins, at some visits; -1 where it is not."""
        handles = [-1 if path is None else pool.files.handle(path) for path in self._paths[visits]]
        return np.array(handles), self._within(visits, block)

    def _within(self, visits: slice, block: Block) -> np.ndarray:
        return self._offsets[visits] + block.start * self._stored.itemsize
