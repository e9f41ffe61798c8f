"""Compare the layers of two checkpoints by their weights: distances, and directions of movement.

The distance of two layers is the mean over their weight matrices of

    ‖x − y‖² ÷ (‖x‖² + ‖y‖²)

which is 0 for equal matrices and around 1 for unrelated ones of any norm. A copy with one matrix set to zero (so that
it is the identity at birth) is distant by that matrix, even if all others are equal. A matrix that only one of two
layers has, as in hybrids of attention and other mixers, counts as distance 1. `layer_matching` matches layers by
distances.

A copy made after the earlier checkpoint is as near to its donor's old weights as the donor itself. The direction of
movement distinguishes the two: the old layer continues in its direction, if only by the momentum of its optimizer,
while the copy starts with a new optimizer state, and with noise, zeroed matrices or another index. This is measured
twice: against the movement up to the earlier checkpoint, and against the movement from the later checkpoint to the next
one, which also works at the first checkpoint and for a layer that was new there. The farther apart checkpoints are, the
weaker this evidence is, and its weight, the square of the cosine, falls; then the distance decides, as the copy is
usually more distant. With only two checkpoints there is nothing but the distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis.runs.layer_matching import relative_distances
from pli_train.core.anatomy.axes import each_axis, factors, growing, rows
from pli_train.core.anatomy.parts import lengths
from pli_train.core.errors import MISFITS, BadInput, in_a_line

if TYPE_CHECKING:
    from pli_analysis.runs.checkpoint import Checkpoint

SAMPLE = 2**15
"""Maximum number of values compared per matrix; the cosine of unrelated matrices is then within about 0.006 of 0."""
BLOCKS = 8
"""Number of blocks of rows that the sample of a large matrix consists of."""
UNREADABLE = (*MISFITS, OSError)
"""Exceptions raised for sizes that contradict each other, by numpy and safetensors."""


# --- weights ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """The weight matrices of a checkpoint's layers.

    Attributes:
        checkpoint: that holds them.
        names: name of a matrix within a layer → index of each layer that has it → full name. Without a family table
            layers may differ in shapes, so the shape is part of the name.
        depth: number of layers.
        sizes: of the factors of their axes, with `unit` if the family table locates FFN units.
        view: function from full tensor name to a lazy slice.
    """

    checkpoint: Checkpoint
    names: dict[str, dict[int, str]]
    depth: int
    sizes: dict[str, int]
    view: Callable[[str], Any]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Weights:
        """Find the matrices. Raises BadInput if layers are missing, differ in shape, or contradict the config."""
        table, found = checkpoint.anatomy, dict[str, dict[int, str]]()
        for index, inner, name in checkpoint.located:
            if inner in table.tensors:
                found.setdefault(inner, {})[index] = name
        indices = {index for locations in found.values() for index in locations}
        depth = len(indices)
        if not depth or indices != set(range(depth)):
            raise BadInput(f"{checkpoint.path}: layers in the weights are not numbered from 0 without gaps")
        view, sizes = checkpoint.slices(), dict(table.sizes(checkpoint.config))
        names, heads = dict[str, dict[int, str]](), sizes["head"] == 0
        for inner, locations in sorted(found.items()):
            shapes = {index: tuple(view(name).get_shape()) for index, name in sorted(locations.items())}
            if table.by_name:
                for index, shape in shapes.items():
                    if len(shape) > 1:
                        names.setdefault(f"{inner} {shape}", {})[index] = locations[index]
                continue
            if len(set(shapes.values())) > 1:
                (first, shape), *others = shapes.items()
                index, other = next(each for each in others if each[1] != shape)
                both = f"shape {other} in layer {index}, but {shape} in layer {first}"
                raise BadInput(f"{checkpoint.path}: '{inner}' has {both}")
            if len(shapes) < depth:
                continue  # a matrix that some layers do not have is no evidence for a match
            axes, shape = table.tensors[inner][1], next(iter(shapes.values()))
            heads |= _has_heads(axes, shape, sizes)
            if "unit" in factors(axes):
                sizes["unit"] = lengths(axes, shape, sizes)[factors(axes).index("unit")]
            if len(shape) > 1:
                names[inner] = {index: locations[index] for index in shapes}
        if not heads:
            raise BadInput(
                f"{checkpoint.path}: config.json has attention heads, but no weight matrix is divided into heads"
            )
        return cls(checkpoint, names, depth, sizes, view)

    @property
    def units(self) -> int | None:
        """Number of units in an FFN; None if unknown."""
        return self.sizes.get("unit")

    def axes(self, key: str) -> str:
        """Return the pattern of the axes of a matrix."""
        return self.checkpoint.anatomy.tensors.get(key, ("other", ""))[1]

    def has(self, key: str) -> np.ndarray:
        """Return which layers have a matrix: (layers,) bool."""
        return np.isin(np.arange(self.depth), list(self.names.get(key, ())))

    def read(self, key: str, kept: Mapping[str, int]) -> np.ndarray:
        """Read a matrix of all layers, or the same sample of it at every checkpoint: (layers, values).

        Rows of layers without this matrix are 0.

        Args:
            key: name of the matrix within a layer.
            kept: size up to which each growing factor is read, see `common`.
        """
        axes = self.axes(key)
        factor, values = growing(axes), dict[int, np.ndarray]()
        for index, name in self.names[key].items():
            tensor = self.view(name)
            if factor is not None and factor in kept:
                tensor = rows(np.asarray(tensor[:], dtype=np.float32), axes, factor, self.sizes)[: kept[factor]]
                tensor = tensor.reshape(-1, tensor.shape[-1])
            values[index] = sampled(tensor).ravel()
        whole = np.zeros((self.depth, next(iter(values.values())).size))
        for index, row in values.items():
            whole[index] = row
        return whole

    def parts(self, key: str, index: int) -> tuple[str, np.ndarray] | None:
        """Read a matrix of one layer as (factor, (heads or groups, values)); None if it is not divided so."""
        axes = self.axes(key)
        factor = growing(axes)
        if factor not in ("head", "group") or index not in self.names[key]:
            return None
        tensor = np.asarray(self.view(self.names[key][index])[:], dtype=np.float64)
        cut = rows(tensor, axes, factor, self.sizes)
        return factor, cut.reshape(len(cut), -1)


def _has_heads(axes: str, shape: Sequence[int], sizes: Mapping[str, int]) -> bool:
    """Return whether a tensor is divided into heads. Raises ValueError if its shape does not match their number."""
    for length, axis in zip(shape, each_axis(axes), strict=True):
        names = factors(axis)
        known = math.prod(sizes[name] for name in names if name in sizes and name != "unit")
        if len(names) > 1 and (not length or length % known):
            raise ValueError(f"axis '{axis}' has length {length}, which is not a multiple of {known}")
    return any(factor in ("head", "group") for factor in factors(axes))


def common(*several: Weights) -> dict[str, int]:
    """Return the smallest size of each growing factor in which checkpoints differ; only that part can be compared."""
    sizes = {f: {weights.sizes[f] for weights in several if f in weights.sizes} for f in ("head", "group", "unit")}
    return {factor: min(different) for factor, different in sizes.items() if len(different) > 1}


def sampled(tensor: Any) -> np.ndarray:
    """Return evenly spread blocks of a matrix's rows; all rows of a small one. Takes an array or a lazy slice."""
    shape = tensor.shape if isinstance(tensor, np.ndarray) else tensor.get_shape()
    rows_wanted = max(1, SAMPLE // max(int(np.prod(shape[1:])), 1))
    if shape[0] <= rows_wanted:
        return np.asarray(tensor[:], dtype=np.float32)
    size = max(1, rows_wanted // BLOCKS)
    starts = np.linspace(0, shape[0] - size, min(BLOCKS, rows_wanted)).astype(int).tolist()
    return np.concatenate([np.asarray(tensor[start : start + size], dtype=np.float32) for start in starts])


# --- evidence --------------------------------------------------------------------------------------------------------


def distances(old: Weights, new: Weights) -> np.ndarray:
    """Return the distance of each layer of a checkpoint from each of a later one: (earlier, later), see above.

    Raises:
        BadInput: if the checkpoints are not of one model.
    """
    distance = _Mean(old.depth, new.depth)
    for name, x, y in _matrices(old, new):
        here, there = old.has(name)[:, None], new.has(name)[None, :]
        distance.add(np.where(here & there, relative_distances(x, y), 1.0), here | there)
    return distance.of(otherwise=1.0)


@dataclass(frozen=True)
class Compared:
    """Comparison of all layers of one checkpoint with all of another: (layers, layers) each.

    Attributes:
        distance: see above.
        cosine: mean over matrices; a matrix that only one of two layers has counts as 0.
        count: number of matrices that at least one of two layers has.
    """

    distance: np.ndarray
    cosine: np.ndarray
    count: np.ndarray


def compared(old: Weights, new: Weights) -> Compared:
    """Compare all layers. Raises BadInput if the checkpoints have no matrix of the same name and shape."""
    distance, cosine = (_Mean(old.depth, new.depth) for _ in range(2))
    for name, x, y in _matrices(old, new):
        here, there = old.has(name)[:, None], new.has(name)[None, :]
        distance.add(np.where(here & there, relative_distances(x, y), 1.0), here | there)
        cosine.add(np.where(here & there, _cosine(x, y), 0.0), here | there)
    result = Compared(distance.of(otherwise=1.0), cosine.of(otherwise=0.0), distance.count)
    if new is old:  # exact values in place of rounded ones
        np.fill_diagonal(result.distance, 0.0)
        np.fill_diagonal(result.cosine, 1.0)
    return result


def _matrices(old: Weights, new: Weights) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each matrix that both have, as (name within a layer, old values, new values), see `Weights.read`."""
    names = [name for name in old.names if name in new.names]
    if not names:
        raise BadInput(f"{new.checkpoint.path}: has no weight matrix in common with {old.checkpoint.path}")
    kept = common(old, new)
    for name in names:
        x = old.read(name, kept)
        y = x if new is old else new.read(name, kept)
        if x.shape[1] != y.shape[1]:
            raise BadInput(f"{new.checkpoint.path}: '{name}' has another shape than in {old.checkpoint.path}")
        yield name, x, y


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the cosine of every row of x and every row of y; 0 where a row is zero."""
    with np.errstate(all="ignore"):
        cosine = x @ y.T / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None, :])
    return np.where(np.isfinite(cosine), cosine, 0.0)


class _Mean:
    """Mean over matrices for each pair of layers; each pair counts only the matrices that apply to it."""

    def __init__(self, *shape: int) -> None:
        self._sum, self.count = np.zeros(shape), np.zeros(shape)

    def add(self, values: np.ndarray, applies: np.ndarray) -> None:
        self._sum += np.where(applies, values, 0.0)
        self.count += applies

    def of(self, otherwise: float) -> np.ndarray:
        """Return the means, and `otherwise` for pairs without a matrix."""
        return np.where(self.count > 0, self._sum / np.maximum(self.count, 1), otherwise)


@dataclass(frozen=True)
class Neighbor:
    """The checkpoint before or after a pair of checkpoints.

    Attributes:
        weights: of its layers.
        locations: for each layer of the nearer checkpoint of the pair, its index in this one; None if it has none.
    """

    weights: Weights
    locations: Sequence[int | None]


def onward(old: Weights, new: Weights, ahead: Neighbor | None, after: Neighbor | None) -> np.ndarray:
    """Return how well a movement from each layer to each later layer continues the movements before and after it.

    With θ₀ the weights of a layer at the checkpoint before the pair, θ₁ and θ₂ at the pair, θ₃ at the one after, it is

        s(cos(θ₁ − θ₀, θ₂ − θ₁)) + s(cos(θ₂ − θ₁, θ₃ − θ₂)),  s(c) = sign(c) · c²

    with each cosine a mean over matrices. c² is the share of a squared movement in the direction of another.

    Returns:
        (earlier, later), in [-2, 2]; a term without data is 0.
    """
    cosines = []
    if ahead is not None:
        cosines.append(_straightness(ahead, old, new))
    if after is not None:
        cosines.append(_straightness(after, new, old).T)
    return sum((np.sign(cosine) * cosine**2 for cosine in cosines), np.zeros((old.depth, new.depth)))


def _straightness(start: Neighbor, middle: Weights, end: Weights) -> np.ndarray:
    """Return the cosine of each layer's movement from `start` to `middle` and on to each layer of `end`: (middle, end).

    `start` may also be the latest of the three: both movements then change their sign, and the cosine is the same.
    """
    several = (start.weights, middle, end)
    kept, mean = common(*several), _Mean(middle.depth, end.depth)
    for name in middle.names:
        if all(name in weights.names for weights in several):
            x, y, z = (weights.read(name, kept) for weights in several)
            cosine = np.stack(
                [_cosine_of_movements(x, at, here, z) for here, at in zip(y, start.locations, strict=True)]
            )
            mean.add(cosine, middle.has(name)[:, None] & end.has(name)[None, :])
    return mean.of(otherwise=0.0)


def _cosine_of_movements(first: np.ndarray, at: int | None, here: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the cosine of the movement from row `at` of `first` to `here` and from there to each row of `last`."""
    if at is None or first.shape[1] != len(here):
        return np.zeros(len(last))
    before, after = here - first[at], last - here
    with np.errstate(all="ignore"):
        cosine = after @ before / (np.linalg.norm(after, axis=1) * np.linalg.norm(before))
    return np.where(np.isfinite(cosine), cosine, 0.0)


def weights_of(checkpoint: Checkpoint) -> Weights:
    """Return the weight matrices of a checkpoint. Raises BadInput with its path if they do not fit its config."""
    from safetensors import SafetensorError

    try:
        return Weights.of(checkpoint)
    except BadInput as error:
        message = str(error)
        raise error if message.startswith(str(checkpoint.path)) else BadInput(f"{checkpoint.path}: {message}") from None
    except (*UNREADABLE, SafetensorError) as error:
        message = f"weights do not match config.json ({in_a_line(error)})"
        raise BadInput(f"{checkpoint.path}: {message}") from None
