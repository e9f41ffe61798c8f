"""Locate tensors in safetensors files and read the live part.

A tensor is seen as far as it is alive: heads and FFN units that a checkpoint only pads are cut away.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis.runs.ancestry import alive
from pli_analysis.runs.file_reader import Files
from pli_train.core.anatomy.axes import factors, from_rows, growing, rows
from pli_train.core.anatomy.parts import lengths
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from pli_analysis.runs.run import Checkpoint

TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1"}
TYPES |= {"BOOL": "?"}
NARROW = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""Types that numpy learns from ml_dtypes, by their names there."""
FLOATS = ("F64", "F32", "F16", *NARROW)
"""Types that weights have; other numbers in their place are codes that a quantized model looks up."""


@dataclass(frozen=True)
class TensorLocation:
    """Where the numbers of a tensor lie: `offset` bytes into a file, in safetensors' name of their type."""

    path: Path
    offset: int
    type: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """What its numbers are to numpy. Raises BadInput for a type that is not read here."""
        if self.type in NARROW:
            import ml_dtypes

            return np.dtype(getattr(ml_dtypes, NARROW[self.type]))
        if self.type not in TYPES:
            raise BadInput(f"{self.path}: holds numbers of type {self.type}, which are not read here")
        return np.dtype(TYPES[self.type]).newbyteorder("<")

    @property
    def wide(self) -> np.dtype:
        """What they are worked with as: float32, or float64 where float32 would lose digits."""
        return np.dtype(np.float32 if self.type == "F32" or self.dtype.itemsize <= 2 else np.float64)

    def rows(self, start: int, stop: int) -> TensorLocation:
        """Some rows of it."""
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return TensorLocation(self.path, self.offset + start * row, self.type, (stop - start, *self.shape[1:]))

    def read(self, buffer: np.ndarray | None = None) -> np.ndarray:
        """The tensor, in the type it is worked with.

        Args:
            buffer: a float32 array that may be overwritten and returned, when it has the tensor's size.

        Raises:
            FileNotFoundError: when the file was removed.
            BadInput: when it cannot be read, or is no longer as long as it was.
        """
        fits = buffer is not None and self.type == "F32" and buffer.dtype == np.float32 and buffer.shape == self.shape
        stored = buffer if buffer is not None and fits else np.empty(self.shape, self.dtype)
        with Files() as files:
            files.read(self.path, self.offset, stored)
        return stored.astype(self.wide, copy=False)


@dataclass(frozen=True)
class View:
    """A look at a tensor whose type the safetensors library does not give to numpy: read whole, then cut."""

    position: TensorLocation

    def get_shape(self) -> list[int]:
        """The shape, in safetensors' own words."""
        return list(self.position.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Some rows and columns, in the type they are worked with."""
        return np.asarray(self.position.read()[key])


@dataclass(frozen=True)
class TensorView:
    """A tensor at one checkpoint: where it lies, the factors of its axes as stored, and how much of it is alive."""

    position: TensorLocation
    stored: dict[str, int]
    heads: int
    units: int | None

    @property
    def own(self) -> dict[str, int]:
        """The factors as far as they are alive."""
        return self.stored | alive(self.stored, self.heads, self.units)

    def alive(self, factor: str) -> int | None:
        """How much of the growing factor is alive; None where the lineage does not tell."""
        return alive(self.stored, self.heads, self.units).get(factor)

    def there(self, axes: str, factor: str) -> int:
        """How much of a factor of its axes is stored, dead or alive."""
        return _length(axes, factor, self.position.shape, tuple(self.stored.items()))

    def read(self, axes: str, buffer: np.ndarray | None = None) -> np.ndarray:
        """What is alive of it, contiguous."""
        factor, found = growing(axes), self.position.read(buffer)
        alive = self.alive(factor) if factor else None
        if factor is None or alive is None:
            return found
        there = self.there(axes, factor)
        if alive == there:
            return found
        if alive > there:
            raise ValueError(f"{alive} of {factor} are alive and {there} stored")
        return np.ascontiguousarray(from_rows(rows(found, axes, factor, self.stored)[:alive], axes, factor))


def view_of(
    checkpoint: Checkpoint, id: str, name: str, sizes: dict[str, int], locations: dict[Path, dict[str, TensorLocation]]
) -> TensorView:
    """A tensor of a layer at a checkpoint.

    Args:
        id, name: of the layer, and of the tensor within it.
        sizes: of the checkpoint, as its anatomy gives them.
        locations: what is known of its files, which is added to.

    Raises:
        BadInput: when its file cannot be read, or does not hold it.
    """
    full = checkpoint.names_of_layers[id][name]
    holder, rows = checkpoint.home(full)
    path, stored = checkpoint.files[holder], checkpoint.stored[holder]
    if path not in locations:
        locations[path] = locations_of(path)
    if stored not in locations[path]:
        raise BadInput(f"{path}: tensor '{stored}' cannot be read (it is not there)")
    position = locations[path][stored]
    position = position if rows is None else position.rows(rows.start, rows.stop)
    return TensorView(position, sizes, *checkpoint.lineage.shape(id))


# Thousands of checkpoints have tensors of a few dozen shapes.


@lru_cache(maxsize=4096)
def _length(axes: str, factor: str, shape: tuple[int, ...], sizes: tuple[tuple[str, int], ...]) -> int:
    return lengths(axes, shape, dict(sizes))[factors(axes).index(factor)]


def locations_of(path: Path) -> dict[str, TensorLocation]:
    """Where each tensor of a safetensors file lies. The library checks the file first."""
    from pli_analysis.runs.run import open_weights

    with open_weights(path):
        pass
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            laid = _laid_out(file.read(size))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise BadInput(f"{path}: not readable as safetensors ({error})") from None
    return {name: TensorLocation(path, 8 + size + offset, type, shape) for name, (offset, type, shape) in laid.items()}


@lru_cache(maxsize=8)
def _laid_out(header: bytes) -> dict[str, tuple[int, str, tuple[int, ...]]]:
    """A header as name → (offset, type, shape). Checkpoints of one shape have one header, and share this."""
    table = json.loads(header)
    table.pop("__metadata__", None)
    return {
        name: (message["data_offsets"][0], message["dtype"], tuple(message["shape"])) for name, message in table.items()
    }
