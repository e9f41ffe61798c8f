"""The vectors of a map's points, read a few columns at a time.

A source of vectors has `count` (vectors), `width` (columns in total) and `blocks()`, which yields arrays of (vectors,
columns).

Layers may differ in their numbers of heads and FFN units, and these change over time. Checkpoints pad layers with zeros
to sizes that the family's config can express, which change over time as well. So each tensor is indexed by heads,
groups and units, and each vector has as many of these as the largest: missing ones are zero.
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
"""Size of a block of columns in float64, in bytes."""
GROWING = ("head", "group", "unit")


class Vectors(Protocol):
    """Vectors that can be read by columns."""

    @property
    def count(self) -> int:
        """Number of vectors."""

    @property
    def width(self) -> int:
        """Number of columns."""

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all columns in blocks of (count, columns) float64; the caller may modify them."""


@dataclass(frozen=True)
class Segment:
    """Indices of the rows and columns of a tensor that belong to a point, in an order shared by all points; −1 is zero.

    All axes but the first are flattened to columns; `columns` is None for a tensor with one axis.
    """

    tensor: str
    rows: np.ndarray
    columns: np.ndarray | None


@dataclass(frozen=True)
class Weights:
    """The weights of points as vectors."""

    points: list[Point]

    @property
    def count(self) -> int:
        """Number of points."""
        return len(self.points)

    @property
    def width(self) -> int:
        """Number of weights of the largest part."""
        return sum(rows * columns for rows, columns in self._shapes.values())

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all weights in blocks.

        Raises:
            BadInput: if a checkpoint cannot be read.
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
        """Checkpoint folder → function that returns a slice of a tensor; each file is opened once."""
        checkpoints = {point.checkpoint.path: point.checkpoint for point in self.points}
        return {path: checkpoint.slices() for path, checkpoint in checkpoints.items()}

    @cached_property
    def _segments(self) -> list[dict[str, Segment]]:
        """For each point: tensor name within the layer → segment."""
        known: dict[Any, np.ndarray] = {}  # there are many segments, and most have equal indices
        try:
            found = [
                _segments_of(point, self._slices[point.checkpoint.path], self._widest, known) for point in self.points
            ]
        except (ValueError, LookupError, ZeroDivisionError) as error:
            raise BadInput(f"weights do not match their {LINEAGE} ({error})") from None
        # A tensor that a part lacks at some checkpoint is left out at all of them.
        always: dict[str, set[str]] = {}
        for point, segments in zip(self.points, found, strict=True):
            always[point.part] = always.get(point.part, set(segments)) & set(segments)
        return [
            {name: segment for name, segment in segments.items() if name in always[point.part]}
            for point, segments in zip(self.points, found, strict=True)
        ]

    @cached_property
    def _widest(self) -> dict[str, int]:
        """Largest number of heads, groups and units of any part."""
        widest: dict[str, int] = {}
        for point in self.points:
            for factor, count in _alive(point).items():
                widest[factor] = max(widest.get(factor, 0), count)
        return widest

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, int]]:
        """Tensor name within the layer → rows and columns of its segment, equal for all points."""
        shapes: dict[str, tuple[int, int]] = {}
        for point, segments in zip(self.points, self._segments, strict=True):
            for name, segment in segments.items():
                shape = len(segment.rows), 1 if segment.columns is None else len(segment.columns)
                if shapes.setdefault(name, shape) != shape:
                    raise BadInput(f"{point.checkpoint.path}: {name} of {point.part} differs in size from other parts")
        return shapes


class Outputs:
    """Outputs of points on a text as vectors: see `checkpoint_model.outputs_of`.

    They are stored in a temporary file of 4 · points · columns bytes, not in memory.

    Args:
        points: points of the run.
        of: layers, heads or ffn.
        tokens: (blocks, block_size), of `pli_analysis.inference.eval_tokens`.
        kept: (blocks, block_size) bool: the tokens whose outputs are kept.
    """

    def __init__(self, points: list[Point], of: str, tokens: Tensor, kept: Tensor) -> None:
        from pli_analysis.inference import checkpoint_model

        self.count, self.width = len(points), 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed with this object
        checkpoint: Checkpoint | None = None
        for point in points:
            if point.checkpoint is not checkpoint:
                checkpoint = point.checkpoint
                outputs = checkpoint_model.outputs_of(checkpoint, of, tokens, kept)
            row = outputs[checkpoint.lineage.index(point.layer)]
            row = row if point.head is None else row[:, point.head]
            if self.width not in (0, row.size):
                raise BadInput(
                    f"{checkpoint.path}: {point.part} has {row.size} outputs, and other parts have {self.width}"
                )
            self.width = row.size
            self._file.write(np.ascontiguousarray(row, dtype=np.float32).tobytes())
        self._file.flush()

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all outputs in blocks."""
        values = np.memmap(self._file, np.float32, "r", shape=(self.count, self.width))
        step = max(1, BLOCK // (8 * self.count))
        for start in range(0, self.width, step):
            yield values[:, start : start + step].astype(np.float64)


def _read(slices: Callable[[str], Any], segment: Segment, part: slice, out: np.ndarray) -> None:
    """Read some rows of a segment into `out`, (rows, columns)."""
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
        out[...] = found  # the usual case: no padding
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
    """Return the segments of a point. `known` caches indices that many segments share."""
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
            raise BadInput(f"{checkpoint.path}: {full} has {len(shape)} axes, expected {len(axes)}")
        indices = []
        for axis, length in zip(axes, shape, strict=True):
            key = axis, length, tuple(sizes.items()), tuple(living.items()), tuple(only.items())
            if key not in known:
                known[key] = locations(axis, length, sizes, living, widest, only)
            indices.append(known[key])
        segments[name] = Segment(full, indices[0], _flat(indices[1:], shape[1:]) if indices[1:] else None)
    return segments


def _flat(indices: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Convert indices on several axes to indices on the flattened axis; −1 stays −1."""
    found = indices[0]
    for index, length in zip(indices[1:], shape[1:], strict=True):
        there = (found[:, None] >= 0) & (index[None, :] >= 0)
        found = np.where(there, found[:, None] * length + index[None, :], -1).ravel()
    return found


def _belongs(anatomy: Anatomy, name: str, point: Point, sizes: Mapping[str, int]) -> bool:
    """Return whether a tensor of a layer has weights of a point. Shared keys and values belong to no head."""
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
    """Return the indices on one axis of a tensor in the order shared by all points; −1 for padding.

    Args:
        axis: axis of an einops pattern, such as `(qkv head dim)`.
        length: length of the axis in this tensor.
        sizes: sizes of the factors of axes that have several.
        living: numbers of heads, groups and units without padding.
        widest: largest numbers of these at any point.
        only: index of the head (group, member) to select; all if empty.

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
