"""Locations of tensors in safetensors files, and their types."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pli_analysis.runs.file_reader import Files
from pli_train.core.errors import BadInput

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
