"""Infer the lineage of checkpoints from their weights: match layers, and record growth between checkpoints.

`weight_comparison` measures how alike layers are, `layer_matching` matches them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.runs.layer_matching import COPY, Match, chances, costs, match, relative_distances
from pli_analysis.runs.weight_comparison import UNREADABLE, Neighbor, Weights, distances, onward, weights_of
from pli_train.core.errors import BadInput, in_a_line
from pli_train.core.lineage import Lineage

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import ProgressCallback

COLUMNS = [col.CHECKPOINT, col.STEP, col.PART, col.INDEX, col.MATCHED_INDEX, col.DISTANCE, col.RUNNER_UP_DISTANCE]
COLUMNS += [col.CONFIDENCE, col.DONOR, col.DONOR_CONFIDENCE]
UNKNOWN, CLONE = "unknown", "clone"


@dataclass(frozen=True)
class Inferred:
    """A lineage inferred from weights.

    Attributes:
        lineages: one for each checkpoint, in order.
        confidence: one row for each match:
            checkpoint, step  the later one of the two
            part              layer or head id
            index             of the layer, or of the head in its layer
            matched_index     index in the checkpoint before; empty for a new layer
            distance          from the match; for a new layer, from the nearest layer
            runner_up_distance  distance from the second nearest candidate
            confidence        in [0, 1], of the match, or of being new
            donor, donor_confidence  for a new layer that is near an earlier layer
    """

    lineages: list[Lineage]
    confidence: pd.DataFrame


def infer(
    checkpoints: Sequence[Checkpoint],
    on_progress: ProgressCallback = lambda done, total: None,
    known: Lineage | None = None,
) -> Inferred:
    """Infer the lineage of checkpoints from weights. The birth of a part is the first checkpoint that has it.

    Args:
        checkpoints: in order.
        on_progress: called with (done, total) checkpoints.
        known: lineage of the first checkpoint, if recorded; else its layers are the founders.

    Raises:
        BadInput: if the checkpoints are not of one growing model, or the first does not match `known`.
    """
    import pandas as pd

    first = weights_of(checkpoints[0])
    if known is not None and len(known.stack) != first.depth:
        raise BadInput(f"{checkpoints[0].path}: weights have {first.depth} layers, its lineage has {len(known.stack)}")
    lineage = _lineage_from(checkpoints[0].step, first) if known is None else known.as_of(len(known.events))
    rows, before = list[tuple[object, ...]](), None
    lineages = [lineage.as_of(len(lineage.events))]
    pairs = _pairs(first, checkpoints[1:])
    following = next(pairs, None)
    while following is not None:
        on_progress(len(lineages), len(checkpoints))
        pair, following = following, next(pairs, None)
        after = None if following is None else Neighbor(following.new, following.distance.argmin(axis=1).tolist())
        try:
            matched = match(pair.distance, onward(pair.old, pair.new, before, after))
            rows += _record_growth(lineage, pair.old, pair.new, pair.distance, matched)
        except UNREADABLE as error:
            raise _not_matched(pair.old, pair.new, error) from None
        lineages.append(lineage.as_of(len(lineage.events)))
        before = Neighbor(pair.old, matched.locations)
    on_progress(len(checkpoints), len(checkpoints))
    table = pd.DataFrame(rows, columns=COLUMNS).astype({col.INDEX: "Int64", col.MATCHED_INDEX: "Int64"})
    return Inferred(lineages, table)


@dataclass(frozen=True)
class Pair:
    """Two successive checkpoints, and the distances of their layers: (earlier, later)."""

    old: Weights
    new: Weights
    distance: np.ndarray


def _pairs(old: Weights, checkpoints: Sequence[Checkpoint]) -> Iterator[Pair]:
    """Yield each checkpoint with the one before it. Raises BadInput if they are not of one growing model."""
    for checkpoint in checkpoints:
        new = weights_of(checkpoint)
        _require_growth(old, new)
        try:
            yield Pair(old, new, distances(old, new))
        except UNREADABLE as error:
            raise _not_matched(old, new, error) from None
        old = new


def _not_matched(old: Weights, new: Weights, error: Exception) -> BadInput:
    """Return the error for two checkpoints whose layers cannot be matched."""
    message = f"cannot be matched with {old.checkpoint.path} ({in_a_line(error)})"
    return BadInput(f"{new.checkpoint.path}: {message}")


def _lineage_from(step: int, weights: Weights) -> Lineage:
    """Return the lineage of a run whose first checkpoint is at a step."""
    lineage = Lineage.begin(weights.depth, weights.sizes["head"], UNKNOWN, weights.units)
    return seen_from(lineage, step)


def seen_from(lineage: Lineage, step: int) -> Lineage:
    """Set the births of the founders to the step of the first checkpoint; return the lineage."""
    for id, layer in lineage.layers.items():
        if layer.birth.event is None:
            heads = {h: replace(birth, step=step) if birth.event is None else birth for h, birth in layer.heads.items()}
            lineage.layers[id] = replace(layer, birth=replace(layer.birth, step=step), heads=heads)
    return lineage


def _require_growth(old: Weights, new: Weights) -> None:
    """Raise BadInput unless the second checkpoint may have grown from the first."""
    before, after = old.checkpoint, new.checkpoint
    if before.anatomy.model_type != after.anatomy.model_type:
        other = f"that of {before.path} is '{before.anatomy.model_type}'"
        raise BadInput(f"{after.path}: model_type is '{after.anatomy.model_type}', but {other}")
    if old.sizes["member"] != new.sizes["member"]:
        heads = f"{new.sizes['member']} heads share each key-value head, but {old.sizes['member']} in {before.path}"
        raise BadInput(f"{after.path}: {heads}")
    for factor, noun in (("head", "heads"), ("unit", "FFN units")):
        now, earlier = new.sizes.get(factor, 0), old.sizes.get(factor, 0)
        if now < earlier:
            fewer = f"{now} {noun} per layer, fewer than the {earlier} in {before.path}"
            raise BadInput(f"{after.path}: has {fewer}; give checkpoints in training order")


def _record_growth(
    lineage: Lineage, old: Weights, new: Weights, distance: np.ndarray, matched: Match
) -> list[tuple[object, ...]]:
    """Record in the lineage the events from one checkpoint to the next; return rows of `Inferred.confidence`."""
    step = new.checkpoint.step
    earlier = list(lineage.stack)
    _record_order(lineage, [earlier[at] for at in matched.locations if at is not None], step)
    donors: dict[int, tuple[str | None, float | None]] = {}
    for index, at in enumerate(matched.locations):
        if at is None:
            donor, sure = _donor(distance[:, index])
            donors[index] = (None if donor is None else earlier[donor], sure)
            lineage.insert(index, step, CLONE if donor is not None else UNKNOWN, donors[index][0])
    rows = []
    for index, at in enumerate(matched.locations):
        if at is None:
            nearest, *others = sorted(distance[:, index])
        else:
            nearest = distance[at, index]
            others = [*np.delete(distance[at], index), *np.delete(distance[:, index], at)]
        second = min(others, default=None)
        row = (lineage.stack[index], index, at, nearest, second, matched.confidence[index])
        rows.append((str(new.checkpoint.name), step, *row, *donors.get(index, (None, None))))
    return rows + _record_widening(lineage, old, new, matched)


def _record_order(lineage: Lineage, order: list[str], step: int) -> None:
    """Record the removal of layers that are not in `order`, and the swaps that bring the others into this order."""
    for id in [id for id in lineage.stack if id not in order]:
        lineage.stack.remove(id)
        lineage.note("remove", step, layer=id)
    for index, id in enumerate(order):
        if lineage.stack[index] != id:
            lineage.swap(index, lineage.stack.index(id), step)


def _donor(distance: np.ndarray) -> tuple[int | None, float | None]:
    """Return the index of the layer that a new layer was copied from, with its probability; None if it is no copy."""
    if not len(distance) or distance.min() > COPY:
        return None, None
    shares = chances(costs(np.array([*distance, COPY])))
    best = int(np.argmax(shares))
    return (best, float(shares[best])) if best < len(distance) else (None, None)


def _record_widening(lineage: Lineage, old: Weights, new: Weights, matched: Match) -> list[tuple[object, ...]]:
    """Record added heads and FFN units; return rows of `Inferred.confidence` for the old heads."""
    step, rows = new.checkpoint.step, list[tuple[object, ...]]()
    if new.sizes["head"] > old.sizes["head"]:
        for index, at in enumerate(matched.locations):
            if at is not None:
                rows += _head_rows(lineage.stack[index], old, at, new, index)
    heads = {id: new.sizes["head"] for id in lineage.stack if len(lineage.layers[id].heads) < new.sizes["head"]}
    if heads:
        lineage.add_heads(heads, step, UNKNOWN, {}, to=new.sizes["head"])
    units = new.units or 0
    wider = {id: units for id in lineage.stack if (lineage.layers[id].units or units) < units}
    if wider:
        lineage.widen(wider, step, UNKNOWN, to=units)
    return rows


def _head_rows(id: str, old: Weights, at: int, new: Weights, index: int) -> list[tuple[object, ...]]:
    """Return a row per old head of a layer: the confidence that it kept its index, as the lineage assumes."""
    by_matrix = []
    for inner in old.names:
        before, after = old.parts(inner, at), new.parts(inner, index)
        if before and after and before[1].shape[1] == after[1].shape[1]:
            each = old.sizes["member"] if before[0] == "group" else 1
            by_matrix.append(np.repeat(np.repeat(relative_distances(before[1], after[1]), each, axis=0), each, axis=1))
    if not by_matrix:
        raise BadInput(
            f"{new.checkpoint.path}: its {new.sizes['head']} heads per layer have another size than the "
            f"{old.sizes['head']} in {old.checkpoint.path}; growth keeps the size of heads"
        )
    member, rows = old.sizes["member"], list[tuple[object, ...]]()
    distance = np.mean(by_matrix, axis=0)
    for head in range(len(distance)):
        rivals = distance[head, head % member :: member]  # one head of each group, as heads of a group share keys
        sure = float(chances(costs(rivals))[head // member])
        second = float(np.delete(rivals, head // member).min())
        row = (f"{id}.h{head}", head, head, float(distance[head, head]), second, sure)
        rows.append((str(new.checkpoint.name), new.checkpoint.step, *row, None, None))
    return rows
