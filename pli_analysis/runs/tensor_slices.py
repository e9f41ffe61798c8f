"""Read the live part of tensors.

A tensor is seen as far as it is alive: heads and FFN units that a checkpoint only pads are cut away.
"""

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
