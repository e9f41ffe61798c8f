"""Follow one tensor through all checkpoints by layer id.

At each checkpoint, it is returned with its birth weights (rows that are added later have their own birth) and its
weights at the previous checkpoint. Only a few arrays of the tensor's size are in memory, whatever the number of
checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pli_analysis.runs.ancestry import copied_units, donor
from pli_analysis.runs.tensor_location import TensorLocation
from pli_analysis.runs.tensor_slices import TensorView, view_of
from pli_analysis.weights.buffers import BufferPool
from pli_analysis.weights.moments import folds_of
from pli_train.core.anatomy.axes import from_rows, growing, rows
from pli_train.core.anatomy.parts import cut, number_of
from pli_train.core.errors import MISFITS, BadInput, in_a_line
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_train.core.anatomy import Anatomy
    from pli_train.core.lineage import Layer


@dataclass(frozen=True)
class Visit(TensorView):
    """A checkpoint at which a tensor is read.

    Attributes:
        number: number of the checkpoint.
        wanted: whether results are wanted for it; else it is read only because later ones need it.
        donor: the tensor of the same name in the layer that this one was copied from.
        donor_parts: the donor of each part: (True if it is in `donor`, False if in this tensor; its number there).
        copied: number of FFN units, from the first, that were copied from `donor` at birth; None for all.
    """

    number: int
    wanted: bool
    donor: TensorView | None = None
    donor_parts: tuple[tuple[bool, int] | None, ...] = ()
    copied: int | None = None


@dataclass(frozen=True)
class Seen:
    """A tensor at a checkpoint, at birth and at the previous checkpoint: three arrays of one shape and type."""

    visit: Visit
    now: np.ndarray
    birth: np.ndarray
    previous: np.ndarray


@dataclass(frozen=True)
class TensorTrajectory:
    """One tensor of a layer at all checkpoints; `anatomy` is the model family's table."""

    anatomy: Anatomy
    id: str
    name: str
    visits: tuple[Visit, ...]

    @property
    def axes(self) -> str:
        """The pattern of its axes; empty if it is not in the table."""
        return self.anatomy.tensors.get(self.name, ("other", ""))[1]

    @property
    def bytes(self) -> int:
        """Number of bytes read from files."""
        return sum(math.prod(v.position.shape) * v.position.dtype.itemsize * (2 if v.donor else 1) for v in self.visits)

    def see(self, pool: BufferPool | None = None) -> Iterator[Seen]:
        """Read the tensor at each visit in order; arrays are valid until the next one.

        Args:
            pool: buffers to read into, which no other trajectory uses at the same time.

        Raises:
            FileNotFoundError: if a checkpoint was removed meanwhile.
            BadInput: if a checkpoint cannot be read, or does not match the lineage.
        """
        pool, last = pool or BufferPool(), None
        for turn, visit in enumerate(self.visits):
            try:
                # Two alternating buffers: one for this visit, while the other still has the previous one.
                now = visit.read(self.axes, pool.take(f"now {turn % 2}", visit.position.shape))
                if last is None:
                    birth = pool.take("birth", now.shape, now.dtype)
                    birth[...] = now
                    seen = Seen(visit, now, birth, now)
                else:
                    birth, previous = (
                        self._with_newborns(old, last.visit, now, visit) for old in (last.birth, last.now)
                    )
                    seen = Seen(visit, now, birth, previous)
            except MISFITS as error:
                raise misfit(visit.position.path.parent, self.id, error) from None
            if visit.wanted:
                yield seen
            last = seen

    def folds(self, visit: Visit, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the tensor's shape as (outer, parts, inner), with all axes before and after the parts combined."""
        return _folds(self.anatomy, self.name, tuple(shape), tuple(visit.own.items()))

    def _with_newborns(self, old: np.ndarray, then: Visit, now: np.ndarray, visit: Visit) -> np.ndarray:
        """Return earlier weights of the tensor, extended by rows that are new at this visit.

        Args:
            old, now: the tensor at visit `then`, and at `visit`.
        """
        if old.dtype != now.dtype:
            old = old.astype(now.dtype)
        if old.shape == now.shape:
            return old
        factor = growing(self.axes)
        if factor is None:
            raise ValueError(f"{self.name} changed its shape from {old.shape} to {now.shape}")
        known, grown = rows(old, self.axes, factor, then.own), rows(now, self.axes, factor, visit.own)
        if known.shape[1:] != grown.shape[1:] or len(known) > len(grown):
            raise ValueError(f"{self.name} changed its shape from {old.shape} to {now.shape}")
        whole = np.concatenate([known, grown[len(known) :]])
        return np.ascontiguousarray(from_rows(whole, self.axes, factor))


def misfit(checkpoint: Path, id: str, error: Exception) -> BadInput:
    """Return the error for weights whose sizes contradict the lineage, which is detected in several functions."""
    return BadInput(f"{checkpoint}: weights of layer {id} do not match its lineage ({in_a_line(error)})")


def growths(checkpoints: Sequence[Checkpoint], run: Path) -> dict[str, list[int]]:
    """Return by layer id the numbers of the checkpoints that are the first with the layer, or with new heads or units.

    Raises:
        BadInput: if the step of such a checkpoint of a pli run is not that of the birth: birth weights are then lost.
            For checkpoints of other libraries, the first weights count as birth weights.
    """
    found: dict[str, list[int]] = {}
    shapes: dict[str, tuple[int, int | None]] = {}
    for number, checkpoint in enumerate(checkpoints):
        for id in checkpoint.lineage.stack:
            shape, known = checkpoint.lineage.shape(id), shapes.get(id)
            if shape == known:
                continue
            for born in _births(checkpoint, id, known):
                if born != checkpoint.step and checkpoint.known is None:
                    raise BadInput(
                        f"{run}: birth weights of layer {id} are missing: they are of step {born}, and the first "
                        f"complete checkpoint with these parts is {checkpoint.name}"
                    )
            shapes[id] = shape
            found.setdefault(id, []).append(number)
    return found


def _births(checkpoint: Checkpoint, id: str, known: tuple[int, int | None] | None) -> Iterator[int]:
    """Yield the birth steps of what layer `id` has here and lacked when its numbers of heads and units were `known`."""
    lineage, layer = checkpoint.lineage, checkpoint.lineage.layers[id]
    heads, units = lineage.shape(id)
    if known is None:
        yield layer.birth.step
        return
    had, width = known
    if heads > had:
        yield list(layer.heads.values())[had].step
    if units is not None and width is not None and units > width:
        event = next((number for number, wide in layer.widths.items() if wide > width), None)
        if event is None or event > len(lineage.events):
            raise BadInput(f"{checkpoint.path}: its {run_folder.LINEAGE} has no birth of unit {width} of layer {id}")
        yield lineage.events[event - 1].step if event else layer.birth.step


def tracks(
    checkpoints: Sequence[Checkpoint], grown: dict[str, list[int]], wanted: Sequence[int], donors: bool
) -> list[TensorTrajectory]:
    """Return the trajectory of each tensor of each layer, with the visits needed for the wanted checkpoints.

    Args:
        checkpoints: all checkpoints of the run, in order.
        grown: result of `growths`.
        wanted: numbers of the wanted checkpoints.
        donors: whether donors are read too.
    """
    wanted_numbers = set(wanted)
    needed = wanted_numbers | {number - 1 for number in wanted_numbers}
    found: dict[tuple[str, str], list[Visit]] = {}
    locations: dict[Path, dict[str, TensorLocation]] = {}
    for number, checkpoint in enumerate(checkpoints[: max(wanted_numbers, default=-1) + 1]):
        ids = [id for id in checkpoint.lineage.stack if number in needed or number in grown[id]]
        for id in ids:
            try:
                for name, visit in _visits(checkpoint, id, locations, number, number in wanted_numbers, donors):
                    found.setdefault((id, name), []).append(visit)
            except MISFITS as error:
                raise misfit(checkpoint.path, id, error) from None
        locations.clear()
    table = checkpoints[-1].anatomy
    kind = table.model_type
    if other := next((c for c in checkpoints if c.anatomy.model_type != kind), None):
        raise BadInput(f"{other.path}: is a {other.anatomy.model_type}, and {checkpoints[-1].name} is a {kind}")
    return [
        TensorTrajectory(table, id, name, tuple(visits))
        for (id, name), visits in found.items()
        if any(v.wanted for v in visits)
    ]


def names(checkpoint: Checkpoint, id: str) -> list[str]:
    """Return the names of a layer's tensors within the layer, in the order of tables of sums."""
    return sorted(checkpoint.names_of_layers[id])


def _visits(
    checkpoint: Checkpoint,
    id: str,
    locations: dict[Path, dict[str, TensorLocation]],
    number: int,
    wanted: bool,
    donors: bool,
) -> Iterator[tuple[str, Visit]]:
    lineage, sizes = checkpoint.lineage, checkpoint.anatomy.sizes(checkpoint.config)
    layer = lineage.layers[id]
    whole = layer.birth.donor if donors and wanted else None
    copied = whole is not None or any(birth.donor is not None for birth in layer.heads.values())
    for name in names(checkpoint, id):
        seen = view_of(checkpoint, id, name, sizes, locations)
        theirs: TensorView | None = None
        donor_parts: tuple[tuple[bool, int] | None, ...] = ()
        if donors and wanted and copied:
            if whole in lineage.stack and name in checkpoint.names_of_layers[whole]:
                theirs = view_of(checkpoint, whole, name, sizes, locations)
            donor_parts = _donors_of(checkpoint.anatomy, layer, name, seen.own, theirs is not None)
        units = copied_units(layer) if theirs is not None else None
        yield (
            name,
            Visit(**vars(seen), number=number, wanted=wanted, donor=theirs, donor_parts=donor_parts, copied=units),
        )


def _donors_of(
    anatomy: Anatomy, layer: Layer, name: str, sizes: dict[str, int], cloned: bool
) -> tuple[tuple[bool, int] | None, ...]:
    """Return the donor of each part of a tensor: see `Visit.donor_parts`."""
    found: list[tuple[bool, int] | None] = []
    for label in anatomy.labels(name, sizes):
        owner, theirs = donor(layer, label, sizes["member"]) or ("", "")
        known = owner == layer.id or (cloned and owner == layer.birth.donor)
        found.append((owner != layer.id, number_of(theirs) or 0) if known else None)
    return tuple(found)


class Pair(NamedTuple):
    """The weights of a tensor that are compared with its donors, and the donors' weights in the same order.

    Attributes:
        mine, theirs: contiguous arrays of one shape and type.
        folds: shape of both as of `TensorTrajectory.folds`.
        has: (parts,): whether a part has a donor of its shape; `theirs` has no meaning where it has none.
    """

    mine: np.ndarray
    theirs: np.ndarray
    folds: tuple[int, int, int]
    has: np.ndarray


def counterpart(track: TensorTrajectory, seen: Seen, pool: BufferPool) -> Pair | None:
    """Return a tensor and its donors at the same checkpoint; None if no part of it has a donor.

    Parts are compared with the parts that they were copied from. FFN units that were added to either side after the
    copy have no counterpart, and are left out.
    """
    visit, now = seen.visit, seen.now
    if not any(visit.donor_parts):
        return None
    folds, theirs = track.folds(visit, now.shape), None
    if visit.donor is not None:
        theirs = visit.donor.read(track.axes, pool.take("donor", visit.donor.position.shape))
        theirs = theirs.astype(now.dtype, copy=False)
    if theirs is not None and visit.donor is not None and _has_further_units(track, visit):
        mine, theirs = (
            np.ascontiguousarray(rows(array, track.axes, "unit", view_of.own)[: visit.copied])
            for array, view_of in ((now, visit), (theirs, visit.donor))
        )
        return Pair(mine, theirs, (1, 1, mine.size), np.array([mine.shape == theirs.shape]))
    straight = all(
        donor_parts is not None and donor_parts[0] and donor_parts[1] == number
        for number, donor_parts in enumerate(visit.donor_parts)
    )
    if straight and theirs is not None and theirs.shape == now.shape:
        return Pair(now, theirs, folds, np.ones(folds[1], dtype=bool))
    laid, mine = now.copy().reshape(folds), now.reshape(folds)
    others = None
    if visit.donor is not None and theirs is not None:
        own = tuple(visit.donor.own.items())
        others = theirs.reshape(_folds(track.anatomy, track.name, theirs.shape, own))
    has = np.zeros(folds[1], dtype=bool)
    for number, donor_parts in enumerate(visit.donor_parts):
        source = None if donor_parts is None else others if donor_parts[0] else mine
        if (
            donor_parts is None
            or source is None
            or source.shape[::2] != laid.shape[::2]
            or donor_parts[1] >= source.shape[1]
        ):
            continue
        laid[:, number], has[number] = source[:, donor_parts[1]], True
    return Pair(now, laid.reshape(now.shape), folds, has)


def _has_further_units(track: TensorTrajectory, visit: Visit) -> bool:
    """Return whether a tensor or its donor has FFN units that were added after the copy."""
    if visit.copied is None or visit.donor is None or growing(track.axes) != "unit":
        return False
    return any((view_of.alive("unit") or 0) > visit.copied for view_of in (visit, visit.donor))


# Thousands of checkpoints have tensors of only a few dozen shapes.
@lru_cache(maxsize=4096)
def _folds(
    anatomy: Anatomy, name: str, shape: tuple[int, ...], sizes: tuple[tuple[str, int], ...]
) -> tuple[int, int, int]:
    found = cut(anatomy, "", name, shape, dict(sizes))
    return folds_of(found.shape, found.kept)
