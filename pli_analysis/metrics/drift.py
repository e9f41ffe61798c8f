"""Drift: how far a part has moved from its birth weights.

θ(t) are a part's weights at step t and θ(b) those right after its creation, noise included. A part is followed by
its identity: what sits at its old index after an insertion does not matter. Sums are in float64.

    relative L2   ‖θ(t) − θ(b)‖ ÷ ‖θ(b)‖      (‖θ(t) − θ(b)‖ itself where θ(b) is zero: column `absolute`)
    cosine        1 − cos(θ(t), θ(b))

Columns of the table, one row for each part and checkpoint:
    part        layer id (`c`), head id (`c.h3`), or layer id and kind (`c.ffn`, `c.norms`, `c.attention`); where heads
                share keys and values, those are parts of the level `attention` (`c.g0`) and not of any head
    layer       the layer it belongs to
    checkpoint  name of the checkpoint folder
    step        optimizer updates done
    age         steps since the part's birth
    tokens      tokens trained on so far
    index       where the layer sat then, 0 at the bottom
    relative_l2, cosine
    absolute    whether `relative_l2` is absolute, its reference being zero
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from einops import EinopsError

from pli_train.anatomy.axes import from_rows, growing, rows
from pli_train.errors import BadInput
from pli_train.run_folder import LINEAGE

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.run import Checkpoint, Run
    from pli_train.anatomy import Anatomy

COLUMNS = ["part", "layer", "checkpoint", "step", "age", "tokens", "index", "relative_l2", "cosine", "absolute"]
LEVELS = ("layer", "head", "ffn", "norms", "attention")
NUMBERED = {"head": "h", "attention": "g"}
"""Levels whose parts are numbered: heads, and the groups that share keys and values."""


@dataclass
class Moments:
    """The three sums that both measures are made of, for now θ and birth β, added up over a part's tensors."""

    now: float = 0.0
    birth: float = 0.0
    difference: float = 0.0

    def add(self, now: np.ndarray, birth: np.ndarray) -> None:
        """Take in one more pair of arrays of equal shape, of any floating type."""
        a, b = now.astype(np.float64).ravel(), birth.astype(np.float64).ravel()
        delta = a - b
        self.now += float(a @ a)
        self.birth += float(b @ b)
        self.difference += float(delta @ delta)

    def relative_l2(self) -> tuple[float, bool]:
        """‖θ − β‖ ÷ ‖β‖ and False; ‖θ − β‖ and True where β is zero."""
        moved = self.difference**0.5
        return (moved / self.birth**0.5, False) if self.birth > 0 else (moved, True)

    def cosine(self) -> float:
        """1 − cos(θ, β), NaN where one of them is zero.

        Computed as (‖θ − β‖² − (‖θ‖ − ‖β‖)²) ÷ (2 ‖θ‖ ‖β‖), which is the same and keeps its digits when the two are
        nearly equal.
        """
        if self.now == 0 or self.birth == 0:
            return float("nan")
        a, b = self.now**0.5, self.birth**0.5
        stretch = (self.now - self.birth) / (a + b)
        return max(self.difference - stretch**2, 0.0) / (2 * a * b)


def drift(run: Run, of: str = "layer", watch: Callable[[int, int], None] = lambda done, total: None) -> pd.DataFrame:
    """The drift of every part at every checkpoint since its birth.

    Args:
        run: a run whose checkpoints include one right after each birth.
        of: `layer`, `head`, `ffn`, `norms` or `attention` (what attention shares between heads: output biases, and
            the keys and values of each group where heads share them).
        watch: told (checkpoints read, checkpoints in all).

    Raises:
        BadInput: for another `of`, or when a part's birth weights are in no checkpoint.
    """
    import pandas as pd

    if of not in LEVELS:
        raise BadInput(f"drift of '{of}' is not known: use one of {', '.join(LEVELS)}")
    births: dict[str, dict[str, np.ndarray]] = {}
    table: list[tuple[object, ...]] = []
    for number, checkpoint in enumerate(run.checkpoints):
        watch(number, len(run.checkpoints))
        try:
            table += list(_rows_of_all(checkpoint, births, run, of))
        except (BadInput, OSError):
            if checkpoint.path.exists():
                raise
            # A run that is training and keeps only the newest has removed it meanwhile. No birth is lost with it.
    watch(len(run.checkpoints), len(run.checkpoints))
    return pd.DataFrame(table, columns=COLUMNS)


def _rows_of_all(
    checkpoint: Checkpoint, births: dict[str, dict[str, np.ndarray]], run: Run, of: str
) -> Iterator[tuple[object, ...]]:
    """The rows of every layer of a checkpoint."""
    for id in checkpoint.lineage.stack:
        try:
            yield from _rows(checkpoint, id, _live(checkpoint, id), births, run, of)
        except (ValueError, LookupError, TypeError, ArithmeticError, StopIteration, EinopsError) as error:
            # Sizes that contradict each other come to light in many places, and all say the same.
            raise BadInput(f"{checkpoint.path}: layer {id}'s weights do not fit its lineage ({error})") from None


def _live(checkpoint: Checkpoint, id: str) -> dict[str, np.ndarray]:
    """A layer's tensors with heads (K/V groups, FFN units) in front, as far as they are alive: the rest is padding."""
    heads, units = checkpoint.lineage.shape(id)
    sizes = checkpoint.anatomy.sizes(checkpoint.config)
    alive = {"head": heads, "group": heads // sizes["member"], "unit": units}
    found = {}
    for name, array in sorted(checkpoint.layer(id)):  # sums come out alike however the file orders its tensors
        _, axes = checkpoint.anatomy.tensors.get(name, ("other", ""))
        factor = growing(axes)
        found[name] = rows(array, axes, factor, sizes)[: alive[factor]] if factor else array[None]
    return found


def _with_newborns(
    birth: np.ndarray | None, now: np.ndarray, checkpoint: Checkpoint, id: str, name: str, run: Run
) -> np.ndarray:
    """Birth weights, to which those of rows that are new in this checkpoint are added."""
    known = 0 if birth is None else len(birth)
    if known == len(now):
        return birth if birth is not None else now
    born = _born(checkpoint, id, name, known)
    if checkpoint.step != born:
        raise BadInput(
            f"{run.path}: birth weights of layer {id} are gone: they are of step {born}, and the first whole "
            f"checkpoint that has these parts is {checkpoint.name}"
        )
    return now if birth is None else np.concatenate([birth, now[known:]])


def _born(checkpoint: Checkpoint, id: str, name: str, row: int) -> int:
    """The step at which row `row` of a tensor was born."""
    layer, lineage = checkpoint.lineage.layers[id], checkpoint.lineage
    factor = growing(checkpoint.anatomy.tensors.get(name, ("other", ""))[1])
    if row == 0 or factor is None:
        return layer.birth.step
    if factor == "unit":
        event = next((number for number, units in layer.widths.items() if units > row), None)
        if event is None or event > len(lineage.events):
            raise BadInput(f"{checkpoint.path}: its {LINEAGE} does not say when unit {row} of layer {id} was born")
        return lineage.events[event - 1].step if event else layer.birth.step
    member = checkpoint.anatomy.sizes(checkpoint.config)["member"] if factor == "group" else 1
    return list(layer.heads.values())[row * member].step


def _rows(
    checkpoint: Checkpoint,
    id: str,
    weights: dict[str, np.ndarray],
    births: dict[str, dict[str, np.ndarray]],
    run: Run,
    of: str,
) -> Iterator[tuple[object, ...]]:
    """The layer's rows of the table. What it sees for the first time it keeps in `births`."""
    anatomy, layer = checkpoint.anatomy, checkpoint.lineage.layers[id]
    known = births.setdefault(id, {})
    sizes = anatomy.sizes(checkpoint.config)
    sizes = sizes | {"head": len(layer.heads), "group": len(layer.heads) // sizes["member"]}
    sums: dict[str, Moments] = {}
    for name, now in weights.items():
        birth = known[name] = _with_newborns(known.get(name), now, checkpoint, id, name, run)
        if of == "layer":
            sums.setdefault(id, Moments()).add(now, birth)
            continue
        whole = (_whole(anatomy, name, turned) for turned in (now, birth))
        for (part, now_part), (_, birth_part) in zip(
            *(anatomy.split(name, tensor, sizes) for tensor in whole), strict=True
        ):
            if part == of or (part[0] == NUMBERED.get(of) and part[1:].isdigit()):
                sums.setdefault(f"{id}.{part}", Moments()).add(now_part, birth_part)
    for part, moments in sums.items():
        relative, absolute = moments.relative_l2()
        born = layer.heads[part].step if part in layer.heads else layer.birth.step
        yield (
            part,
            id,
            str(checkpoint.name),
            checkpoint.step,
            checkpoint.step - born,
            checkpoint.tokens,
            checkpoint.lineage.index(id),
            relative,
            moments.cosine(),
            absolute,
        )


def _whole(anatomy: Anatomy, name: str, tensor: np.ndarray) -> np.ndarray:
    """Undo the turning of `_live`."""
    axes = anatomy.tensors.get(name, ("other", ""))[1]
    factor = growing(axes)
    return from_rows(tensor, axes, factor) if factor else tensor[0]
