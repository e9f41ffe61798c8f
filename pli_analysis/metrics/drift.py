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

from pli_train.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.run import Checkpoint, Run

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
    rows: list[tuple[object, ...]] = []
    for number, checkpoint in enumerate(run.checkpoints):
        watch(number, len(run.checkpoints))
        for id in checkpoint.lineage.stack:
            weights = dict(sorted(checkpoint.layer(id)))  # sums come out alike however the file orders its tensors
            if id not in births:
                _require_birth(run, checkpoint, id)
                births[id] = weights
            rows += _rows(checkpoint, id, weights, births[id], of)
    watch(len(run.checkpoints), len(run.checkpoints))
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(
    checkpoint: Checkpoint, id: str, weights: dict[str, np.ndarray], birth: dict[str, np.ndarray], of: str
) -> Iterator[tuple[object, ...]]:
    layer, sizes = checkpoint.lineage.layers[id], checkpoint.anatomy.sizes(checkpoint.config)
    sums: dict[str, Moments] = {}
    for name, now in weights.items():
        if of == "layer":
            sums.setdefault(id, Moments()).add(now, birth[name])
            continue
        pairs = zip(
            checkpoint.anatomy.split(name, now, sizes),
            checkpoint.anatomy.split(name, birth[name], sizes),
            strict=True,
        )
        for (part, now_part), (_, birth_part) in pairs:
            if part == of or part[0] == NUMBERED.get(of):
                sums.setdefault(f"{id}.{part}", Moments()).add(now_part, birth_part)
    for part, moments in sums.items():
        relative, absolute = moments.relative_l2()
        yield (
            part,
            id,
            str(checkpoint.name),
            checkpoint.step,
            checkpoint.step - layer.birth.step,
            checkpoint.tokens,
            checkpoint.lineage.index(id),
            relative,
            moments.cosine(),
            absolute,
        )


def _require_birth(run: Run, checkpoint: Checkpoint, id: str) -> None:
    born = checkpoint.lineage.layers[id].birth.step
    if checkpoint.step != born:
        raise BadInput(
            f"{run.path}: the birth weights of layer {id} are gone: it was born at step {born}, and the first whole "
            f"checkpoint that has it is {checkpoint.name}"
        )
