"""Lineage where no file tells it: the layers of each checkpoint found again in the next one, by their weights.

The distance of two layers is the mean over their weight matrices of

    ‖x − y‖² ÷ (‖x‖² + ‖y‖²)

which is 0 for equal ones and around 1 for unrelated ones, whatever their size. A copy with one matrix emptied (the
identity at birth) is far by it, however near the others are. Of a matrix that only one of two layers has, as in hybrids
of attention and others, the distance is 1. `matching` says who is who by distances.

A copy made since the earlier checkpoint has moved from the donor's weights as the donor has itself. Two things tell
them apart: the layer that was there before mostly goes on the way that it was going, by its optimizer's momentum if
nothing else, which shows where there is a checkpoint ahead of the two; and the copy mostly lies farther off, by its
noise, and by an optimizer that begins anew and takes longer steps. Where neither is there, or they disagree, the
confidence says so. Without a checkpoint ahead, and with many steps between the two, the second alone errs: it then
counts half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis.others.matching import COPY, Match, apart, chances, costs, match
from pli_analysis.weights import follow
from pli_train.anatomy.axes import each_axis, factors, growing, rows
from pli_train.anatomy.parts import lengths
from pli_train.errors import BadInput
from pli_train.lineage import Lineage

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.run import Checkpoint, Watch

SAMPLE = 2**15
"""Numbers of a matrix, at most, that are compared: a cosine of unrelated ones is then off by 0.006."""
BLOCKS = 8
"""Stretches of a large matrix that the sample is taken from."""
COLUMNS = ["checkpoint", "step", "part", "index", "matched", "distance", "runner_up", "confidence"]
COLUMNS += ["donor", "donor_confidence"]
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
        look: a look at a tensor by its full name.
    """

    checkpoint: Checkpoint
    names: dict[str, dict[int, str]]
    depth: int
    sizes: dict[str, int]
    look: Callable[[str], Any]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Weights:
        """Find them. Raises BadInput when layers are missing or differ, or the config tells of others."""
        table, found = checkpoint.anatomy, dict[str, dict[int, str]]()
        for index, inner, name in checkpoint.located:
            if inner in table.tensors:
                found.setdefault(inner, {})[index] = name
        indices = {index for places in found.values() for index in places}
        depth = len(indices)
        if not depth or indices != set(range(depth)):
            raise BadInput(f"{checkpoint.path}: its weights have no layers that are numbered from 0 without a gap")
        look, sizes = checkpoint.slices(), dict(table.sizes(checkpoint.config))
        names, heads = dict[str, dict[int, str]](), sizes["head"] == 0
        for inner, places in sorted(found.items()):
            shapes = {index: tuple(look(name).get_shape()) for index, name in sorted(places.items())}
            if table.by_name:
                for index, shape in shapes.items():
                    if len(shape) > 1:
                        names.setdefault(f"{inner} {shape}", {})[index] = places[index]
                continue
            if len(set(shapes.values())) > 1:
                raise BadInput(f"{checkpoint.path}: its layers differ in the shape of {inner}")
            axes, shape = table.tensors[inner][1], next(iter(shapes.values()))
            heads |= _has_heads(axes, shape, sizes)
            if "unit" in factors(axes):
                sizes["unit"] = lengths(axes, shape, sizes)[factors(axes).index("unit")]
            if len(shape) > 1:
                names[inner] = {index: places[index] for index in shapes}
        if not heads:
            raise BadInput(f"{checkpoint.path}: its weights have none of the heads that its config tells of")
        return cls(checkpoint, names, depth, sizes, look)

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

    def read(self, key: str, common: dict[str, int]) -> np.ndarray:
        """A matrix of all layers, or a sample of its numbers that is the same at every checkpoint: (layers, numbers).

        Layers without it have zeros there.

        Args:
            key: its name within a layer.
            common: how much of each growing factor both checkpoints have; the rest is left out.
        """
        axes = self.axes(key)
        factor = growing(axes)
        cut = factor is not None and self.sizes.get(factor) != common.get(factor)
        found: dict[int, np.ndarray] = {}
        for index, name in self.names[key].items():
            tensor = self.look(name)
            if cut and factor is not None:
                kept = rows(np.asarray(tensor[:], dtype=np.float32), axes, factor, self.sizes)[: common[factor]]
                found[index] = kept.reshape(len(kept), -1)
            else:
                found[index] = _sampled(tensor)
        whole = np.zeros((self.depth, next(iter(found.values())).size))
        for index, numbers in found.items():
            whole[index] = numbers.ravel()
        return whole

    def parts(self, key: str, index: int) -> tuple[str, np.ndarray] | None:
        """What heads, or groups of them, have of a matrix of one layer: the factor, and (heads or groups, numbers)."""
        axes = self.axes(key)
        factor = growing(axes)
        if factor not in ("head", "group") or index not in self.names[key]:
            return None
        tensor = np.asarray(self.look(self.names[key][index])[:], dtype=np.float64)
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


def _sampled(tensor: Any) -> np.ndarray:
    """Some stretches of a matrix's rows, spread evenly; all of a small one."""
    shape = tensor.get_shape()
    rows_wanted = max(1, SAMPLE // max(int(np.prod(shape[1:])), 1))
    if shape[0] <= rows_wanted:
        return np.asarray(tensor[:], dtype=np.float32)
    size = max(1, rows_wanted // BLOCKS)
    starts = np.linspace(0, shape[0] - size, min(BLOCKS, rows_wanted)).astype(int).tolist()
    return np.concatenate([np.asarray(tensor[start : start + size], dtype=np.float32) for start in starts])


@dataclass(frozen=True)
class Nearness:
    """What weights say of who is who: (earlier layers, later layers) each.

    Attributes:
        distance: see above.
        onward: cosine between how the earlier layer moved up to its checkpoint, and how it would have moved from
            there to be the later one; 0 where nothing is known of the first. Mean over matrices.
    """

    distance: np.ndarray
    onward: np.ndarray


def nearness(old: Weights, new: Weights, before: Before | None = None) -> Nearness:
    """Compare all layers of one checkpoint with all of a later one.

    Args:
        before: the checkpoint ahead of the two, and where in it each layer of the earlier one was.

    Raises:
        BadInput: when they are not of one model.
    """
    distance, onward = _Mean(old.depth, new.depth), _Mean(old.depth, new.depth)
    along = before if before is not None and before.weights.sizes == old.sizes == new.sizes else None
    common = _common(old, new)
    for name, x, y in _matrices(old, new):
        here, there = old.has(name)[:, None], new.has(name)[None, :]
        distance.add(np.where(here & there, apart(x, y), 1.0), here | there)
        if along is not None and name in along.weights.names:
            onward.add(_onward(x, y, along.weights.read(name, common), along.places), here & there)
    return Nearness(distance.of(otherwise=1.0), onward.of(otherwise=0.0))


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
        distance.add(np.where(here & there, apart(x, y), 1.0), here | there)
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
    common = _common(old, new)
    for name in names:
        x = old.read(name, common)
        y = x if new is old else new.read(name, common)
        if x.shape[1] != y.shape[1]:
            raise BadInput(f"{new.checkpoint.path}: its {name} has another shape than in {old.checkpoint.path}")
        yield name, x, y


def _common(old: Weights, new: Weights) -> dict[str, int]:
    """How much of each growing factor both have."""
    return {factor: min(size, new.sizes.get(factor, size)) for factor, size in old.sizes.items()}


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
class Before:
    """A checkpoint, and where in it the layers of the next one were; None for those it had not."""

    weights: Weights
    places: tuple[int | None, ...]


def _onward(x: np.ndarray, y: np.ndarray, was: np.ndarray, places: Sequence[int | None]) -> np.ndarray:
    found = np.zeros((len(x), len(y)))
    for i, at in enumerate(places):
        if at is not None and was.shape[1] == x.shape[1]:
            way, steps = x[i] - was[at], y - x[i]
            with np.errstate(all="ignore"):
                cosine = steps @ way / (np.linalg.norm(steps, axis=1) * np.linalg.norm(way))
            found[i] = np.where(np.isfinite(cosine), cosine, 0.0)
    return found


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
            matched           where it was in the checkpoint before; empty for a newborn
            distance          to what it was matched with; of a newborn to the nearest
            runner_up         distance of the second nearest, of those that could be it
            confidence        in [0, 1], of the match, or of its being a newborn
            donor, donor_confidence  of a newborn that is near a layer that was there before
    """

    lineages: list[Lineage]
    confidence: pd.DataFrame


def infer(checkpoints: Sequence[Checkpoint], watch: Watch = lambda done, total: None) -> Inferred:
    """Follow layers through checkpoints by their weights. A part's birth is the first checkpoint that has it.

    Args:
        checkpoints: in order.
        watch: told (checkpoints done, checkpoints in all).

    Raises:
        BadInput: when they are not of one model that grows.
    """
    import pandas as pd

    old, before = weights_of(checkpoints[0]), None
    lineage, found = _begun(checkpoints[0].step, old), list[tuple[object, ...]]()
    lineages = [lineage.as_of(0)]
    for done, checkpoint in enumerate(checkpoints[1:], 1):
        watch(done, len(checkpoints))
        new = weights_of(checkpoint)
        _check(old, new)
        try:
            near = nearness(old, new, before)
            matched = match(near.distance, near.onward)
            found += _grown(lineage, old, new, near.distance, matched)
        except MISFITS as error:
            told = f"cannot be matched with {old.checkpoint.path} ({follow.in_a_line(error)})"
            raise BadInput(f"{checkpoint.path}: {told}") from None
        lineages.append(lineage.as_of(len(lineage.events)))
        old, before = new, Before(old, matched.places)
    watch(len(checkpoints), len(checkpoints))
    table = pd.DataFrame(found, columns=COLUMNS).astype({"index": "Int64", "matched": "Int64"})
    return Inferred(lineages, table)


MISFITS = (*follow.MISFITS, OSError)
"""What sizes that contradict each other come to light as, in safetensors too."""


def weights_of(checkpoint: Checkpoint) -> Weights:
    """The weight matrices of its layers. Raises BadInput when they do not fit its config, or cannot be read."""
    from safetensors import SafetensorError

    try:
        return Weights.of(checkpoint)
    except BadInput as error:
        told = str(error)
        raise error if told.startswith(str(checkpoint.path)) else BadInput(f"{checkpoint.path}: {told}") from None
    except (*MISFITS, SafetensorError) as error:
        told = f"its weights do not fit its config ({follow.in_a_line(error)})"
        raise BadInput(f"{checkpoint.path}: {told}") from None


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
    for what, told in (("head", "heads"), ("unit", "FFN units")):
        if new.sizes.get(what, 0) < old.sizes.get(what, 0):
            raise BadInput(f"{after.path}: has {new.sizes.get(what, 0)} {told} a layer, fewer than {before.path}")


def _grown(
    lineage: Lineage, old: Weights, new: Weights, distance: np.ndarray, found: Match
) -> list[tuple[object, ...]]:
    """Let happen in the lineage what leads from one checkpoint to the next; tell how sure it is."""
    step = new.checkpoint.step
    was = list(lineage.stack)
    _rearranged(lineage, [was[at] for at in found.places if at is not None], step)
    donors: dict[int, tuple[str | None, float | None]] = {}
    for index, at in enumerate(found.places):
        if at is None:
            donor, sure = _donor(distance[:, index])
            donors[index] = (None if donor is None else was[donor], sure)
            lineage.insert(index, step, CLONE if donor is not None else UNKNOWN, donors[index][0])
    told = []
    for index, at in enumerate(found.places):
        if at is None:
            mine, *others = sorted(distance[:, index])
        else:
            mine = distance[at, index]
            others = [*np.delete(distance[at], index), *np.delete(distance[:, index], at)]
        second = min(others, default=None)
        row = (lineage.stack[index], index, at, mine, second, found.confidence[index])
        told.append((str(new.checkpoint.name), step, *row, *donors.get(index, (None, None))))
    return told + _wider(lineage, old, new, found)


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
    step, told = new.checkpoint.step, list[tuple[object, ...]]()
    if new.sizes["head"] > old.sizes["head"]:
        for index, at in enumerate(found.places):
            if at is not None:
                told += _heads(lineage.stack[index], old, at, new, index)
    heads = {id: new.sizes["head"] for id in lineage.stack if len(lineage.layers[id].heads) < new.sizes["head"]}
    if heads:
        lineage.add_heads(heads, step, UNKNOWN, {}, to=new.sizes["head"])
    units = new.units or 0
    wider = {id: units for id in lineage.stack if (lineage.layers[id].units or units) < units}
    if wider:
        lineage.widen(wider, step, UNKNOWN, to=units)
    return told


def _heads(id: str, old: Weights, at: int, new: Weights, index: int) -> list[tuple[object, ...]]:
    """How sure it is that a layer's old heads are in their old places: a lineage knows of no other."""
    found = []
    for inner in old.names:
        before, after = old.parts(inner, at), new.parts(inner, index)
        if before and after and before[1].shape[1] == after[1].shape[1]:
            each = old.sizes["member"] if before[0] == "group" else 1
            found.append(np.repeat(np.repeat(apart(before[1], after[1]), each, axis=0), each, axis=1))
    if not found:
        raise BadInput(
            f"{new.checkpoint.path}: has {new.sizes['head']} heads a layer of another size than the "
            f"{old.sizes['head']} in {old.checkpoint.path}: that is no growth"
        )
    member, told = old.sizes["member"], list[tuple[object, ...]]()
    distance = np.mean(found, axis=0)
    for head in range(len(distance)):
        rivals = distance[head, head % member :: member]  # one of each group: heads of a group share their keys
        sure = float(chances(costs(rivals))[head // member])
        second = float(np.delete(rivals, head // member).min())
        row = (f"{id}.h{head}", head, head, float(distance[head, head]), second, sure)
        told.append((str(new.checkpoint.name), new.checkpoint.step, *row, None, None))
    return told
