"""The points of a map: each part at each checkpoint.

A point's *source* is the same part at the checkpoint before; for a newborn's first point it is the donor at the same
checkpoint; what was drawn at random has none. Differences between a point and its source are what is measured: two
checkpoints that are nearly equal keep every digit of their difference.
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
        head: its number among the layer's heads; None for what is no head.
        checkpoint: where its weights are.
        age: steps since its birth.
        first: whether no checkpoint before has it.
        donor: the part that it was copied from at birth.
        source: number of the point that it came from.
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
    """Every part at every checkpoint; where a step has a checkpoint before and one after growth, the latter alone.

    Raises:
        BadInput: for another `of` than layers, heads or ffn, or when a model has no such parts.
    """
    if of not in PARTS:
        raise BadInput(f"--of {of}: is none of {', '.join(PARTS)}{did_you_mean(of, PARTS)}")
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
            continue  # a run that is training and keeps only the newest has removed it meanwhile
        here = set(lineage.stack)
        for layer in lineage.layers.values():  # in order of birth: donors come first
            for part, head, birth in _parts(layer, of) if layer.id in here else ():
                donor = birth.donor if birth.donor is None or of != "ffn" else f"{birth.donor}.ffn"
                source = last.get(part, last.get(donor or ""))
                first = part not in last
                age = checkpoint.step - birth.step
                last[part] = len(found)
                found.append(Point(part, layer.id, head, checkpoint, age, first, donor, source))
    if not found:
        raise BadInput(f"{run.path}: its layers have no {of}")
    return found


def _parts(layer: Layer, of: str) -> list[tuple[str, int | None, Birth]]:
    if of == "heads":
        return [(head, number, birth) for number, (head, birth) in enumerate(layer.heads.items())]
    return [(layer.id if of == "layers" else f"{layer.id}.ffn", None, layer.birth)]
