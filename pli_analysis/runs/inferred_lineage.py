"""Infer the lineage of checkpoints from their weights.

The distance of two layers is the mean over their weight matrices of

    ‖x − y‖² ÷ (‖x‖² + ‖y‖²)

which is 0 for equal ones and around 1 for unrelated ones, whatever their size. A copy with one matrix emptied (the
identity at birth) is far by it, however near the others are. Of a matrix that only one of two layers has, as in hybrids
of attention and others, the distance is 1. `matching` says who is who by distances.

A copy made since the earlier checkpoint is as near to its donor's old weights as the donor itself is. Movement tells
them apart: the layer that was there goes on the way that it was going, by its optimizer's momentum if nothing else,
while the copy's optimizer begins anew and takes noise, silence or another place in the stack along. This shows twice:
against the movement up to the earlier checkpoint, and against the movement from the later checkpoint to the one after
it, which also works at the first checkpoint of all, and for a layer that was itself new there. The farther apart
checkpoints are, the less there is of it, and the square of the cosine makes it count less; then the distance decides,
as the copy mostly lies farther off. With two checkpoints alone there is nothing but the distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.runs.layer_matching import COPY, Match, chances, costs, match, relative_distances
from pli_train.core.anatomy.axes import each_axis, factors, growing, rows
from pli_train.core.anatomy.parts import lengths
from pli_train.core.errors import MISFITS, BadInput, in_a_line
from pli_train.core.lineage import Lineage

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import ProgressCallback

SAMPLE = 2**15
"""Numbers of a matrix, at most, that are compared: a cosine of unrelated ones is then off by 0.006."""
BLOCKS = 8
"""Stretches of a large matrix that the sample is taken from."""
COLUMNS = [col.CHECKPOINT, col.STEP, col.PART, col.INDEX, col.MATCHED_INDEX, col.DISTANCE, col.RUNNER_UP_DISTANCE]
COLUMNS += [col.CONFIDENCE, col.DONOR, col.DONOR_CONFIDENCE]
UNKNOWN, CLONE = "unknown", "clone"


# --- weights ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """The weight matrices of a checkpoint's layers.

    Attributes:
        checkpoint: where they are.
        names: name of a matrix within a layer → index of each layer that has it → full name. Layers without a table
            may differ in shapes: the shape is then part of the name.
        depth: how many layers.
        sizes: of the factors of their axes, `unit` among them where the table tells.
        view: a look at a tensor by its full name.
    """

    checkpoint: Checkpoint
    names: dict[str, dict[int, str]]
    depth: int
    sizes: dict[str, int]
    view: Callable[[str], Any]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Weights:
        """Find them. Raises BadInput when layers are missing or differ, or the config tells of others."""
        table, found = checkpoint.anatomy, dict[str, dict[int, str]]()
        for index, inner, name in checkpoint.located:
            if inner in table.tensors:
                found.setdefault(inner, {})[index] = name
        indices = {index for locations in found.values() for index in locations}
        depth = len(indices)
        if not depth or indices != set(range(depth)):
            raise BadInput(f"{checkpoint.path}: its weights have no layers that are numbered from 0 without a gap")
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
                raise BadInput(f"{checkpoint.path}: its layers differ in the shape of {inner}")
            if len(shapes) < depth:
                continue  # what a layer lacks tells nothing of who it is
            axes, shape = table.tensors[inner][1], next(iter(shapes.values()))
            heads |= _has_heads(axes, shape, sizes)
            if "unit" in factors(axes):
                sizes["unit"] = lengths(axes, shape, sizes)[factors(axes).index("unit")]
            if len(shape) > 1:
                names[inner] = {index: locations[index] for index in shapes}
        if not heads:
            raise BadInput(f"{checkpoint.path}: its weights have none of the heads that its config names")
        return cls(checkpoint, names, depth, sizes, view)

    @property
    def units(self) -> int | None:
        """Width of an FFN."""
        return self.sizes.get("unit")

    def axes(self, key: str) -> str:
        """The pattern of the axes of a matrix."""
        return self.checkpoint.anatomy.tensors.get(key, ("other", ""))[1]

    def has(self, key: str) -> np.ndarray:
        """Which layers have a matrix: (layers,) bool."""
        return np.isin(np.arange(self.depth), list(self.names.get(key, ())))

    def read(self, key: str, kept: Mapping[str, int]) -> np.ndarray:
        """A matrix of all layers, or a sample of its numbers that is the same at every checkpoint: (layers, numbers).

        Layers without it have zeros there.

        Args:
            key: its name within a layer.
            kept: see `common`.
        """
        axes = self.axes(key)
        factor, found = growing(axes), dict[int, np.ndarray]()
        for index, name in self.names[key].items():
            tensor = self.view(name)
            if factor is not None and factor in kept:
                tensor = rows(np.asarray(tensor[:], dtype=np.float32), axes, factor, self.sizes)[: kept[factor]]
                tensor = tensor.reshape(-1, tensor.shape[-1])
            found[index] = sampled(tensor).ravel()
        whole = np.zeros((self.depth, next(iter(found.values())).size))
        for index, numbers in found.items():
            whole[index] = numbers
        return whole

    def parts(self, key: str, index: int) -> tuple[str, np.ndarray] | None:
        """What heads, or groups of them, have of a matrix of one layer: the factor, and (heads or groups, numbers)."""
        axes = self.axes(key)
        factor = growing(axes)
        if factor not in ("head", "group") or index not in self.names[key]:
            return None
        tensor = np.asarray(self.view(self.names[key][index])[:], dtype=np.float64)
        cut = rows(tensor, axes, factor, self.sizes)
        return factor, cut.reshape(len(cut), -1)


def _has_heads(axes: str, shape: Sequence[int], sizes: Mapping[str, int]) -> bool:
    """Whether a tensor falls into heads. Raises ValueError when it does not divide into as many as the config tells."""
    for length, axis in zip(shape, each_axis(axes), strict=True):
        names = factors(axis)
        known = math.prod(sizes[name] for name in names if name in sizes and name != "unit")
        if len(names) > 1 and (not length or length % known):
            raise ValueError(f"{length} numbers are no whole multiple of {known}: {axis}")
    return any(factor in ("head", "group") for factor in factors(axes))


def common(*several: Weights) -> dict[str, int]:
    """How much all have of each growing factor in which they differ; what comes after that is left out."""
    sizes = {f: {weights.sizes[f] for weights in several if f in weights.sizes} for f in ("head", "group", "unit")}
    return {factor: min(found) for factor, found in sizes.items() if len(found) > 1}


def sampled(tensor: Any) -> np.ndarray:
    """Some stretches of a matrix's rows, spread evenly; all of a small one. Takes an array or a look at a tensor."""
    shape = tensor.shape if isinstance(tensor, np.ndarray) else tensor.get_shape()
    rows_wanted = max(1, SAMPLE // max(int(np.prod(shape[1:])), 1))
    if shape[0] <= rows_wanted:
        return np.asarray(tensor[:], dtype=np.float32)
    size = max(1, rows_wanted // BLOCKS)
    starts = np.linspace(0, shape[0] - size, min(BLOCKS, rows_wanted)).astype(int).tolist()
    return np.concatenate([np.asarray(tensor[start : start + size], dtype=np.float32) for start in starts])


# --- evidence --------------------------------------------------------------------------------------------------------


def distances(old: Weights, new: Weights) -> np.ndarray:
    """Distance of each layer of a checkpoint from each of a later one: (earlier, later), see above.

    Raises:
        BadInput: when they are not of one model.
    """
    distance = _Mean(old.depth, new.depth)
    for name, x, y in _matrices(old, new):
        here, there = old.has(name)[:, None], new.has(name)[None, :]
        distance.add(np.where(here & there, relative_distances(x, y), 1.0), here | there)
    return distance.of(otherwise=1.0)


@dataclass(frozen=True)
class Compared:
    """The weights of all layers of one checkpoint beside all of another: (layers, layers) each.

    Attributes:
        distance: see above.
        cosine: mean over matrices; 0 for one that only one of two layers has.
        count: how many matrices either of two layers has.
    """

    distance: np.ndarray
    cosine: np.ndarray
    count: np.ndarray


def compared(old: Weights, new: Weights) -> Compared:
    """Compare all layers. Raises BadInput when there is no matrix of one name and shape in both."""
    distance, cosine = (_Mean(old.depth, new.depth) for _ in range(2))
    for name, x, y in _matrices(old, new):
        here, there = old.has(name)[:, None], new.has(name)[None, :]
        distance.add(np.where(here & there, relative_distances(x, y), 1.0), here | there)
        cosine.add(np.where(here & there, _cosine(x, y), 0.0), here | there)
    found = Compared(distance.of(otherwise=1.0), cosine.of(otherwise=0.0), distance.count)
    if new is old:  # whatever rounding makes of it
        np.fill_diagonal(found.distance, 0.0)
        np.fill_diagonal(found.cosine, 1.0)
    return found


def _matrices(old: Weights, new: Weights) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each matrix that both have, by its name within a layer, as `Weights.read` gives it."""
    names = [name for name in old.names if name in new.names]
    if not names:
        raise BadInput(f"{new.checkpoint.path}: has no weight matrix in common with {old.checkpoint.path}")
    kept = common(old, new)
    for name in names:
        x = old.read(name, kept)
        y = x if new is old else new.read(name, kept)
        if x.shape[1] != y.shape[1]:
            raise BadInput(f"{new.checkpoint.path}: its {name} has another shape than in {old.checkpoint.path}")
        yield name, x, y


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of every row of x and every row of y; 0 where one of them is zero."""
    with np.errstate(all="ignore"):
        found = x @ y.T / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None, :])
    return np.where(np.isfinite(found), found, 0.0)


class _Mean:
    """A mean over matrices for each pair of layers, over those that concern the pair."""

    def __init__(self, *shape: int) -> None:
        self._sum, self.count = np.zeros(shape), np.zeros(shape)

    def add(self, values: np.ndarray, concerned: np.ndarray) -> None:
        self._sum += np.where(concerned, values, 0.0)
        self.count += concerned

    def of(self, otherwise: float) -> np.ndarray:
        """The means; where nothing concerned a pair, `otherwise`."""
        return np.where(self.count > 0, self._sum / np.maximum(self.count, 1), otherwise)


@dataclass(frozen=True)
class Neighbor:
    """A checkpoint ahead of two others or after them.

    Attributes:
        weights: of its layers.
        locations: for each layer of the nearer of the two, where it is here; None where it is not.
    """

    weights: Weights
    locations: Sequence[int | None]


def onward(old: Weights, new: Weights, ahead: Neighbor | None, after: Neighbor | None) -> np.ndarray:
    """How straight on each layer of a checkpoint would have moved to be each of a later one.

    With θ₀ the layer at the checkpoint ahead, θ₁ and θ₂ at the two, θ₃ at the one after, it is

        s(cos(θ₁ − θ₀, θ₂ − θ₁)) + s(cos(θ₂ − θ₁, θ₃ − θ₂)),  s(c) = sign(c) · c²

    with each cosine the mean over matrices: the share of a squared movement that lies in the direction of another.

    Returns:
        (earlier, later), in [-2, 2]; a term of which nothing is known is 0.
    """
    cosines = []
    if ahead is not None:
        cosines.append(_straightness(ahead, old, new))
    if after is not None:
        cosines.append(_straightness(after, new, old).T)
    return sum((np.sign(cosine) * cosine**2 for cosine in cosines), np.zeros((old.depth, new.depth)))


def _straightness(start: Neighbor, middle: Weights, end: Weights) -> np.ndarray:
    """Between each layer's way from `start` to `middle` and its way from there to each layer of `end`: (middle, end).

    Read against time where `start` is the latest of the three: both ways then turn round, and the cosine stays.
    """
    several = (start.weights, middle, end)
    kept, found = common(*several), _Mean(middle.depth, end.depth)
    for name in middle.names:
        if all(name in weights.names for weights in several):
            x, y, z = (weights.read(name, kept) for weights in several)
            cosine = np.stack([_turn(x, at, here, z) for here, at in zip(y, start.locations, strict=True)])
            found.add(cosine, middle.has(name)[:, None] & end.has(name)[None, :])
    return found.of(otherwise=0.0)


def _turn(first: np.ndarray, at: int | None, here: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Cosine between the way from one row of `first` to here and the way from here to each row of `last`."""
    if at is None or first.shape[1] != len(here):
        return np.zeros(len(last))
    before, after = here - first[at], last - here
    with np.errstate(all="ignore"):
        cosine = after @ before / (np.linalg.norm(after, axis=1) * np.linalg.norm(before))
    return np.where(np.isfinite(cosine), cosine, 0.0)


# --- the lineage -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inferred:
    """A lineage found by weights.

    Attributes:
        lineages: one for each checkpoint, in order.
        confidence: one row for each match:
            checkpoint, step  the later one of the two
            part              layer or head id
            index             where the layer sits, or the head's number
            matched_index     where it was in the checkpoint before; empty for a newborn
            distance          to what it was matched with; of a newborn to the nearest
            runner_up_distance  distance of the second nearest, of those that could be it
            confidence        in [0, 1], of the match, or of its being a newborn
            donor, donor_confidence  of a newborn that is near a layer that was there before
    """

    lineages: list[Lineage]
    confidence: pd.DataFrame


def infer(
    checkpoints: Sequence[Checkpoint],
    on_progress: ProgressCallback = lambda done, total: None,
    known: Lineage | None = None,
) -> Inferred:
    """Follow layers through checkpoints by their weights. A part's birth is the first checkpoint that has it.

    Args:
        checkpoints: in order.
        on_progress: told (checkpoints done, checkpoints in all).
        known: the lineage of the first one, where it is written down; else its layers are founders.

    Raises:
        BadInput: when they are not of one model that grows, or the first is not what `known` tells.
    """
    import pandas as pd

    first = weights_of(checkpoints[0])
    if known is not None and len(known.stack) != first.depth:
        raise BadInput(f"{checkpoints[0].path}: has {first.depth} layers, and its lineage {len(known.stack)}")
    lineage = _begun(checkpoints[0].step, first) if known is None else known.as_of(len(known.events))
    found, ahead = list[tuple[object, ...]](), None
    lineages = [lineage.as_of(len(lineage.events))]
    pairs = _pairs(first, checkpoints[1:])
    following = next(pairs, None)
    while following is not None:
        on_progress(len(lineages), len(checkpoints))
        pair, following = following, next(pairs, None)
        after = None if following is None else Neighbor(following.new, following.distance.argmin(axis=1).tolist())
        try:
            matched = match(pair.distance, onward(pair.old, pair.new, ahead, after))
            found += _grown(lineage, pair.old, pair.new, pair.distance, matched)
        except UNREADABLE as error:
            raise _misfit(pair.old, pair.new, error) from None
        lineages.append(lineage.as_of(len(lineage.events)))
        ahead = Neighbor(pair.old, matched.locations)
    on_progress(len(checkpoints), len(checkpoints))
    table = pd.DataFrame(found, columns=COLUMNS).astype({col.INDEX: "Int64", col.MATCHED_INDEX: "Int64"})
    return Inferred(lineages, table)


UNREADABLE = (*MISFITS, OSError)
"""What sizes that contradict each other come to light as, in safetensors too."""


@dataclass(frozen=True)
class Pair:
    """Two checkpoints in a row, and how far each layer of the one is from each of the other: (earlier, later)."""

    old: Weights
    new: Weights
    distance: np.ndarray


def _pairs(old: Weights, checkpoints: Sequence[Checkpoint]) -> Iterator[Pair]:
    """Each checkpoint with the one before it. Raises BadInput when they are not of one model that grows."""
    for checkpoint in checkpoints:
        new = weights_of(checkpoint)
        _check(old, new)
        try:
            yield Pair(old, new, distances(old, new))
        except UNREADABLE as error:
            raise _misfit(old, new, error) from None
        old = new


def _misfit(old: Weights, new: Weights, error: Exception) -> BadInput:
    message = f"cannot be matched with {old.checkpoint.path} ({in_a_line(error)})"
    return BadInput(f"{new.checkpoint.path}: {message}")


def weights_of(checkpoint: Checkpoint) -> Weights:
    """The weight matrices of a checkpoint. Raises BadInput, naming it, when they do not fit its config."""
    from safetensors import SafetensorError

    try:
        return Weights.of(checkpoint)
    except BadInput as error:
        message = str(error)
        raise error if message.startswith(str(checkpoint.path)) else BadInput(f"{checkpoint.path}: {message}") from None
    except (*UNREADABLE, SafetensorError) as error:
        message = f"its weights do not fit its config ({in_a_line(error)})"
        raise BadInput(f"{checkpoint.path}: {message}") from None


def _begun(step: int, weights: Weights) -> Lineage:
    """The lineage of a run that is first seen at a step."""
    lineage = Lineage.begin(weights.depth, weights.sizes["head"], UNKNOWN, weights.units)
    return seen_from(lineage, step)


def seen_from(lineage: Lineage, step: int) -> Lineage:
    """The lineage with its founders' births at the step at which they are first seen."""
    for id, layer in lineage.layers.items():
        if layer.birth.event is None:
            heads = {h: replace(birth, step=step) if birth.event is None else birth for h, birth in layer.heads.items()}
            lineage.layers[id] = replace(layer, birth=replace(layer.birth, step=step), heads=heads)
    return lineage


def _check(old: Weights, new: Weights) -> None:
    before, after = old.checkpoint, new.checkpoint
    if before.anatomy.model_type != after.anatomy.model_type:
        raise BadInput(
            f"{after.path}: is a {after.anatomy.model_type}, and {before.path} a {before.anatomy.model_type}"
        )
    if old.sizes["member"] != new.sizes["member"]:
        raise BadInput(f"{after.path}: other numbers of heads share keys than in {before.path}")
    for what, message in (("head", "heads"), ("unit", "FFN units")):
        if new.sizes.get(what, 0) < old.sizes.get(what, 0):
            raise BadInput(f"{after.path}: has {new.sizes.get(what, 0)} {message} a layer, fewer than {before.path}")


def _grown(
    lineage: Lineage, old: Weights, new: Weights, distance: np.ndarray, found: Match
) -> list[tuple[object, ...]]:
    """Let happen in the lineage what leads from one checkpoint to the next; tell how sure it is."""
    step = new.checkpoint.step
    was = list(lineage.stack)
    _rearranged(lineage, [was[at] for at in found.locations if at is not None], step)
    donors: dict[int, tuple[str | None, float | None]] = {}
    for index, at in enumerate(found.locations):
        if at is None:
            donor, sure = _donor(distance[:, index])
            donors[index] = (None if donor is None else was[donor], sure)
            lineage.insert(index, step, CLONE if donor is not None else UNKNOWN, donors[index][0])
    message = []
    for index, at in enumerate(found.locations):
        if at is None:
            mine, *others = sorted(distance[:, index])
        else:
            mine = distance[at, index]
            others = [*np.delete(distance[at], index), *np.delete(distance[:, index], at)]
        second = min(others, default=None)
        row = (lineage.stack[index], index, at, mine, second, found.confidence[index])
        message.append((str(new.checkpoint.name), step, *row, *donors.get(index, (None, None))))
    return message + _wider(lineage, old, new, found)


def _rearranged(lineage: Lineage, order: list[str], step: int) -> None:
    """Take out of the stack who is gone, and bring the others into the order in which they are found."""
    for id in [id for id in lineage.stack if id not in order]:
        lineage.stack.remove(id)
        lineage.note("remove", step, layer=id)
    for index, id in enumerate(order):
        if lineage.stack[index] != id:
            lineage.swap(index, lineage.stack.index(id), step)


def _donor(distance: np.ndarray) -> tuple[int | None, float | None]:
    """Which earlier layer a newborn is a copy of, if any, and how sure that is."""
    if not len(distance) or distance.min() > COPY:
        return None, None
    shares = chances(costs(np.array([*distance, COPY])))
    best = int(np.argmax(shares))
    return (best, float(shares[best])) if best < len(distance) else (None, None)


def _wider(lineage: Lineage, old: Weights, new: Weights, found: Match) -> list[tuple[object, ...]]:
    """Record heads and FFN units that a config has more of than before; tell how sure the old heads are."""
    step, message = new.checkpoint.step, list[tuple[object, ...]]()
    if new.sizes["head"] > old.sizes["head"]:
        for index, at in enumerate(found.locations):
            if at is not None:
                message += _heads(lineage.stack[index], old, at, new, index)
    heads = {id: new.sizes["head"] for id in lineage.stack if len(lineage.layers[id].heads) < new.sizes["head"]}
    if heads:
        lineage.add_heads(heads, step, UNKNOWN, {}, to=new.sizes["head"])
    units = new.units or 0
    wider = {id: units for id in lineage.stack if (lineage.layers[id].units or units) < units}
    if wider:
        lineage.widen(wider, step, UNKNOWN, to=units)
    return message


def _heads(id: str, old: Weights, at: int, new: Weights, index: int) -> list[tuple[object, ...]]:
    """How sure it is that a layer's old heads are in their old places: a lineage knows of no other."""
    found = []
    for inner in old.names:
        before, after = old.parts(inner, at), new.parts(inner, index)
        if before and after and before[1].shape[1] == after[1].shape[1]:
            each = old.sizes["member"] if before[0] == "group" else 1
            found.append(np.repeat(np.repeat(relative_distances(before[1], after[1]), each, axis=0), each, axis=1))
    if not found:
        raise BadInput(
            f"{new.checkpoint.path}: has {new.sizes['head']} heads a layer of another size than the "
            f"{old.sizes['head']} in {old.checkpoint.path}: that is no growth"
        )
    member, message = old.sizes["member"], list[tuple[object, ...]]()
    distance = np.mean(found, axis=0)
    for head in range(len(distance)):
        rivals = distance[head, head % member :: member]  # one of each group: heads of a group share their keys
        sure = float(chances(costs(rivals))[head // member])
        second = float(np.delete(rivals, head // member).min())
        row = (f"{id}.h{head}", head, head, float(distance[head, head]), second, sure)
        message.append((str(new.checkpoint.name), new.checkpoint.step, *row, None, None))
    return message
