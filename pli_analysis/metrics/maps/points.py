"""The points of a map: each part at each checkpoint.

A point's *source* is the same part at the previous checkpoint; for the first point of a copied part, the donor at the
same checkpoint; randomly initialized parts have none. Distances are computed from differences between points and their
sources, so that they are precise for nearly equal checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pli_analysis.runs.checkpoint import require_parts
from pli_train.core.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_train.core.lineage import Birth, Layer

PARTS = ("layers", "heads", "ffn")


@dataclass(frozen=True)
class Point:
    """A part at a checkpoint.

    Attributes:
        part: layer id (`c`), head id (`c.h3`) or FFN (`c.ffn`).
        layer: the layer it belongs to.
        head: its number among the layer's heads; None if it is not a head.
        checkpoint: the checkpoint with its weights.
        age: steps since its birth.
        first: whether it is the first checkpoint that has the part.
        donor: the part that it was copied from at birth.
        source: number of its source.
    """

    part: str
    layer: str
    head: int | None
    checkpoint: Checkpoint
    age: int
    first: bool
    donor: str | None
    source: int | None


def points_of(run: Run, of: str = "layers") -> list[Point]:
    """Return each part at each checkpoint; at a step with checkpoints before and after growth, only after it.

    Raises:
        BadInput: if `of` is not layers, heads or ffn, or the model has no such parts.
    """
    if of not in PARTS:
        raise BadInput(f"--of {of}: is not a kind of part{did_you_mean(of, PARTS)}; use one of {', '.join(PARTS)}")
    if of != "layers":
        require_parts(run.checkpoints[-1], "head" if of == "heads" else of)
    found: list[Point] = []
    last: dict[str, int] = {}
    for checkpoint in run.states.values():
        try:
            lineage = checkpoint.lineage
        except (BadInput, OSError):
            if checkpoint.path.exists():
                raise
            continue  # a run that is training may have removed this checkpoint by its retention rules
        here = set(lineage.stack)
        for layer in lineage.layers.values():  # in order of birth, so that donors come first
            for part, head, birth in _parts(layer, of) if layer.id in here else ():
                donor = birth.donor if birth.donor is None or of != "ffn" else f"{birth.donor}.ffn"
                source = last.get(part, last.get(donor or ""))
                first = part not in last
                age = checkpoint.step - birth.step
                last[part] = len(found)
                found.append(Point(part, layer.id, head, checkpoint, age, first, donor, source))
    if not found:
        raise BadInput(f"{run.path}: has no {of} to map")
    return found


def _parts(layer: Layer, of: str) -> list[tuple[str, int | None, Birth]]:
    if of == "heads":
        return [(head, number, birth) for number, (head, birth) in enumerate(layer.heads.items())]
    return [(layer.id if of == "layers" else f"{layer.id}.ffn", None, layer.birth)]
