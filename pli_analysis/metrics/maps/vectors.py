"""The vectors of a map's points, read a few columns at a time.

A source of vectors has `points`, `width` (columns in all) and `blocks()`, which yields arrays of (points, columns).

Layers may differ in heads and FFN units, over time and among each other. Checkpoints pad them with zeros to what the
family's config can say, and that differs over time too. So each tensor is seen along its heads, groups and units, and
every point has as many as the largest has: what a part does not have is zero.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pli_analysis.metrics.maps.points import Point
from pli_analysis.runs.ancestry import alive
from pli_train.core.anatomy.axes import each_axis, factors
from pli_train.core.anatomy.parts import lengths
from pli_train.core.errors import BadInput
from pli_train.core.run_format.run_folder import LINEAGE

if TYPE_CHECKING:
    from torch import Tensor

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_train.core.anatomy import Anatomy

BLOCK = 64 * 2**20
"""Bytes of a block of columns, in float64."""
GROWING = ("head", "group", "unit")


class Vectors(Protocol):
    """Vectors that can be read by columns."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def width(self) -> int:
        """How many columns they have."""

    def blocks(self) -> Iterator[np.ndarray]:
        """All columns in turn: (count, columns) float64; the array is the caller's to write to."""


@dataclass(frozen=True)
class Segment:
    """What a point has of one tensor: which of its rows and columns, in the order that all points share; −1 is zero.

    `columns` is None for a tensor of one axis; all axes but the first are one to it.
    """

    tensor: str
    rows: np.ndarray
    columns: np.ndarray | None


@dataclass(frozen=True)
class Weights:
    """The weights of points."""

    points: list[Point]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.points)

    @property
    def width(self) -> int:
        """How many weights the largest part has."""
        return sum(rows * columns for rows, columns in self._shapes.values())

    def blocks(self) -> Iterator[np.ndarray]:
        """All weights in turn.

        Raises:
            BadInput: when a checkpoint cannot be read.
        """
        for name, (rows, columns) in self._shapes.items():
            step = max(1, BLOCK // (8 * self.count * columns))
            for start in range(0, rows, step):
                part = slice(start, min(start + step, rows))
                block = np.zeros((self.count, part.stop - part.start, columns))
                for number, (point, segments) in enumerate(zip(self.points, self._segments, strict=True)):
                    if name in segments:
                        _read(self._slices[point.checkpoint.path], segments[name], part, block[number])
                yield block.reshape(self.count, -1)

    @cached_property
    def _slices(self) -> dict[Path, Callable[[str], Any]]:
        """Folder of a checkpoint → a look at its tensors; every file is opened once."""
        checkpoints = {point.checkpoint.path: point.checkpoint for point in self.points}
        return {path: checkpoint.slices() for path, checkpoint in checkpoints.items()}

    @cached_property
    def _segments(self) -> list[dict[str, Segment]]:
        """For each point: name within the layer → piece."""
        known: dict[Any, np.ndarray] = {}  # most pieces of a run are alike, and there are many
        try:
            found = [
                _segments_of(point, self._slices[point.checkpoint.path], self._widest, known) for point in self.points
            ]
        except (ValueError, LookupError, ZeroDivisionError) as error:
            raise BadInput(f"weights do not fit their {LINEAGE} ({error})") from None
        # A part that lacks a tensor at some checkpoint is compared without it at all of them.
        always: dict[str, set[str]] = {}
        for point, segments in zip(self.points, found, strict=True):
            always[point.part] = always.get(point.part, set(segments)) & set(segments)
        return [
            {name: segment for name, segment in segments.items() if name in always[point.part]}
            for point, segments in zip(self.points, found, strict=True)
        ]

    @cached_property
    def _widest(self) -> dict[str, int]:
        """The most heads, groups and units that a part has."""
        widest: dict[str, int] = {}
        for point in self.points:
            for factor, count in _alive(point).items():
                widest[factor] = max(widest.get(factor, 0), count)
        return widest

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, int]]:
        """Name within the layer → rows and columns of its piece, the same for every point."""
        shapes: dict[str, tuple[int, int]] = {}
        for point, segments in zip(self.points, self._segments, strict=True):
            for name, segment in segments.items():
                shape = len(segment.rows), 1 if segment.columns is None else len(segment.columns)
                if shapes.setdefault(name, shape) != shape:
                    raise BadInput(f"{point.checkpoint.path}: {name} of {point.part} has another size than elsewhere")
        return shapes


class Outputs:
    """What points put out on a text: layers their hidden states, heads and FFNs what they add to them.

    They lie in a temporary file, of 4 · points · columns bytes, and not in memory.

    Args:
        points: of the run.
        of: layers, heads or ffn.
        tokens: (blocks, block_size), of `pli_analysis.inference.checkpoint_model`.
        kept: (blocks, block_size) bool: the tokens that count.
    """

    def __init__(self, points: list[Point], of: str, tokens: Tensor, kept: Tensor) -> None:
        from pli_analysis.inference import checkpoint_model

        self.count, self.width = len(points), 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it goes with this object
        checkpoint: Checkpoint | None = None
        for point in points:
            if point.checkpoint is not checkpoint:
                checkpoint = point.checkpoint
                outputs = checkpoint_model.outputs_of(checkpoint, of, tokens, kept)
            row = outputs[checkpoint.lineage.index(point.layer)]
            row = row if point.head is None else row[:, point.head]
            if self.width not in (0, row.size):
                raise BadInput(f"{checkpoint.path}: {point.part} puts out another number of values than elsewhere")
            self.width = row.size
            self._file.write(np.ascontiguousarray(row, dtype=np.float32).tobytes())
        self._file.flush()

    def blocks(self) -> Iterator[np.ndarray]:
        """All outputs in turn."""
        values = np.memmap(self._file, np.float32, "r", shape=(self.count, self.width))
        step = max(1, BLOCK // (8 * self.count))
        for start in range(0, self.width, step):
            yield values[:, start : start + step].astype(np.float64)


def _read(slices: Callable[[str], Any], segment: Segment, part: slice, out: np.ndarray) -> None:
    """Fill (rows, columns) with some rows of a piece."""
    rows, columns = segment.rows[part], segment.columns
    there = rows >= 0
    if not there.any():
        return
    top, bottom = int(rows[there].min()), int(rows[there].max()) + 1
    if columns is None:
        found = slices(segment.tensor)[top:bottom]
        out[there, 0] = found[rows[there] - top]
        return
    live = columns >= 0
    left, right = int(columns[live].min()), int(columns[live].max()) + 1
    tensor = slices(segment.tensor)
    if len(tensor.get_shape()) > 2:
        found = tensor[top:bottom].reshape(bottom - top, -1)[:, left:right]
    else:
        found = tensor[top:bottom, left:right]
    if found.shape == out.shape and there.all() and live.all() and _rising(rows) and _rising(columns):
        out[...] = found  # nearly always: nothing was padded
    else:
        out[np.ix_(there, live)] = found[np.ix_(rows[there] - top, columns[live] - left)]


def _rising(numbers: np.ndarray) -> bool:
    return len(numbers) == 1 or bool((np.diff(numbers) == 1).all())


def _alive(point: Point) -> dict[str, int]:
    checkpoint = point.checkpoint
    return alive(checkpoint.anatomy.sizes(checkpoint.config), *checkpoint.lineage.shape(point.layer))


def _segments_of(
    point: Point, slices: Callable[[str], Any], widest: Mapping[str, int], known: dict[Any, np.ndarray]
) -> dict[str, Segment]:
    """What a point has of each tensor of its layer. `known` keeps what is alike for many."""
    checkpoint, anatomy = point.checkpoint, point.checkpoint.anatomy
    sizes, living, only = anatomy.sizes(checkpoint.config), _alive(point), {}
    if point.head is not None:
        member = sizes["member"]
        only = {"group": point.head // member, "member": point.head % member, "head": point.head}
    segments = {}
    for name, full in sorted(checkpoint.names_of_layers[point.layer].items()):
        if not _belongs(anatomy, name, point, sizes):
            continue
        shape = list(slices(full).get_shape())
        axes = each_axis(anatomy.tensors.get(name, ("other", ""))[1]) or ["_"] * len(shape)
        if len(axes) != len(shape) or not shape:
            raise BadInput(f"{checkpoint.path}: {full} has {len(shape)} axes")
        indices = []
        for axis, length in zip(axes, shape, strict=True):
            key = axis, length, tuple(sizes.items()), tuple(living.items()), tuple(only.items())
            if key not in known:
                known[key] = locations(axis, length, sizes, living, widest, only)
            indices.append(known[key])
        segments[name] = Segment(full, indices[0], _flat(indices[1:], shape[1:]) if indices[1:] else None)
    return segments


def _flat(indices: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Places on several axes as places on one, on which the axes lie one within the other; −1 stays −1."""
    found = indices[0]
    for index, length in zip(indices[1:], shape[1:], strict=True):
        there = (found[:, None] >= 0) & (index[None, :] >= 0)
        found = np.where(there, found[:, None] * length + index[None, :], -1).ravel()
    return found


def _belongs(anatomy: Anatomy, name: str, point: Point, sizes: Mapping[str, int]) -> bool:
    """Whether a point has something of a tensor of its layer. Keys and values that heads share are no head's."""
    if point.part == point.layer:
        return True
    return anatomy.labels(name, sizes)[0] == ("ffn" if point.head is None else "h0")


def locations(
    axis: str,
    length: int,
    sizes: Mapping[str, int],
    living: Mapping[str, int],
    widest: Mapping[str, int],
    only: Mapping[str, int],
) -> np.ndarray:
    """Where each of the places that all points share lies on one axis of a tensor; −1 where there is only padding.

    Args:
        axis: of an einops pattern, e.g. `(qkv head dim)`.
        length: of the axis, in this tensor.
        sizes: of the tensor, for every factor that stands beside another.
        living: how many heads, groups and units are more than padding.
        widest: the most that any point has.
        only: of which head (group, member) the places are wanted; all where it does not say.

    >>> locations("(qkv head dim)", 12, {"qkv": 3, "head": 2}, {"head": 1}, {"head": 2}, {}).tolist()
    [0, 1, -1, -1, 4, 5, -1, -1, 8, 9, -1, -1]
    >>> locations("(qkv head dim)", 12, {"qkv": 3, "head": 2}, {"head": 2}, {"head": 2}, {"head": 1}).tolist()
    [2, 3, 6, 7, 10, 11]
    """
    names = factors(axis)
    factored = lengths(axis, [length], sizes)
    shared = [widest.get(name, now) if name in GROWING else now for name, now in zip(names, factored, strict=True)]
    wanted: list[Sequence[int]] = [
        [only[name]] if name in only else range(count) for name, count in zip(names, shared, strict=True)
    ]
    grid = np.meshgrid(*wanted, indexing="ij")
    there = np.ones(grid[0].shape, bool)
    for name, now, at in zip(names, factored, grid, strict=True):
        there &= at < min(living.get(name, now), now)
    inside = [np.where(there, at, 0) for at in grid]
    return np.where(there, np.ravel_multi_index(inside, factored), -1).ravel()
