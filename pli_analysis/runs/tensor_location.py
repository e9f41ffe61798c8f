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
"""Types that ml_dtypes adds to numpy, by their names there."""
FLOATS = ("F64", "F32", "F16", *NARROW)
"""Types of weights; other types are the codes of a quantized model."""


@dataclass(frozen=True)
class TensorLocation:
    """Location of a tensor: `offset` in bytes from the start of a file; `type` as safetensors names it."""

    path: Path
    offset: int
    type: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """The stored numpy type. Raises BadInput for a type that is not supported."""
        if self.type in NARROW:
            import ml_dtypes

            return np.dtype(getattr(ml_dtypes, NARROW[self.type]))
        if self.type not in TYPES:
            raise BadInput(f"{self.path}: contains a tensor of type {self.type}, which is not supported")
        return np.dtype(TYPES[self.type]).newbyteorder("<")

    @property
    def wide(self) -> np.dtype:
        """The type for computations: float32, or float64 where float32 would lose digits."""
        return np.dtype(np.float32 if self.type == "F32" or self.dtype.itemsize <= 2 else np.float64)

    def rows(self, start: int, stop: int) -> TensorLocation:
        """Return the location of rows `start` to `stop`."""
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return TensorLocation(self.path, self.offset + start * row, self.type, (stop - start, *self.shape[1:]))

    def read(self, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the tensor in the type for computations.

        Args:
            buffer: float32 array that is overwritten and returned if it has the tensor's shape.

        Raises:
            FileNotFoundError: if the file was removed.
            BadInput: if the file cannot be read or has become shorter.
        """
        fits = buffer is not None and self.type == "F32" and buffer.dtype == np.float32 and buffer.shape == self.shape
        stored = buffer if buffer is not None and fits else np.empty(self.shape, self.dtype)
        with Files() as files:
            files.read(self.path, self.offset, stored)
        return stored.astype(self.wide, copy=False)


@dataclass(frozen=True)
class View:
    """A lazy slice of a tensor whose type safetensors does not return to numpy: reads it whole, then selects."""

    position: TensorLocation

    def get_shape(self) -> list[int]:
        """Return the shape, as slices of the safetensors library do."""
        return list(self.position.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read some rows and columns in the type for computations."""
        return np.asarray(self.position.read()[key])
