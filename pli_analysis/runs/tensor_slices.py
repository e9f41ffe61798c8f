"""Read the live part of tensors, without the heads and FFN units that are only padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.runs.ancestry import alive
from pli_analysis.runs.safetensors_file import locations_of
from pli_analysis.runs.tensor_location import TensorLocation
from pli_train.core.anatomy.axes import factors, from_rows, growing, rows
from pli_train.core.anatomy.parts import lengths
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from pli_analysis.runs.checkpoint import Checkpoint


@dataclass(frozen=True)
class TensorView:
    """A tensor at one checkpoint: its location, the stored sizes of its axes' factors, and its live sizes."""

    position: TensorLocation
    stored: dict[str, int]
    heads: int
    units: int | None

    @property
    def own(self) -> dict[str, int]:
        """Live sizes of the factors."""
        return self.stored | alive(self.stored, self.heads, self.units)

    def alive(self, factor: str) -> int | None:
        """Return the live size of a factor; None if the lineage does not record it."""
        return alive(self.stored, self.heads, self.units).get(factor)

    def there(self, axes: str, factor: str) -> int:
        """Return the stored size of a factor of its axes, with padding."""
        return _length(axes, factor, self.position.shape, tuple(self.stored.items()))

    def read(self, axes: str, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read its live part as a contiguous array."""
        factor, whole = growing(axes), self.position.read(buffer)
        alive = self.alive(factor) if factor else None
        if factor is None or alive is None:
            return whole
        stored = self.there(axes, factor)
        if alive == stored:
            return whole
        if alive > stored:
            raise ValueError(f"lineage has {alive} of factor '{factor}', but only {stored} are stored")
        return np.ascontiguousarray(from_rows(rows(whole, axes, factor, self.stored)[:alive], axes, factor))


def view_of(
    checkpoint: Checkpoint, id: str, name: str, sizes: dict[str, int], locations: dict[Path, dict[str, TensorLocation]]
) -> TensorView:
    """Return a tensor of a layer at a checkpoint.

    Args:
        checkpoint: that holds the tensor.
        id: of the layer.
        name: of the tensor within the layer.
        sizes: of the checkpoint, from its anatomy.
        locations: cache of tensor locations by file; new files are added.

    Raises:
        BadInput: if the file cannot be read or does not contain the tensor.
    """
    full = checkpoint.names_of_layers[id][name]
    holder, rows = checkpoint.home(full)
    path, stored = checkpoint.files[holder], checkpoint.stored[holder]
    if path not in locations:
        locations[path] = locations_of(path)
    if stored not in locations[path]:
        raise BadInput(f"{path}: tensor '{stored}' is missing")
    position = locations[path][stored]
    position = position if rows is None else position.rows(rows.start, rows.stop)
    return TensorView(position, sizes, *checkpoint.lineage.shape(id))


# Cached, as thousands of checkpoints have tensors of only a few dozen shapes.


@lru_cache(maxsize=4096)
def _length(axes: str, factor: str, shape: tuple[int, ...], sizes: tuple[tuple[str, int], ...]) -> int:
    return lengths(axes, shape, dict(sizes))[factors(axes).index(factor)]
