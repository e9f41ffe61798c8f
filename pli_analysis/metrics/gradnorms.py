"""Gradient norms by part: as training logged them, and around each growth event.

The norm of a part is the L2 norm of its share of the gradient before clipping: squares over all parts sum to the square
of the total. A part is followed by its identity through growth.

Columns of `logged`, one row for each part and measurement:
    part        layer id (`c`), head id (`c.h3`), layer id and kind (`c.ffn`, `c.norms`, `c.attention`, `c.g0` where
                heads share keys and values, `c.other`); outside the layers `embeddings`, `outside.norms`,
                `outside.other`; and `total`
    level       layer, head, ffn, norms, attention, embeddings, other or total
    layer       the layer it belongs to, empty outside the layers
    step        updates done once the gradient was used
    age         steps since the part's birth, empty outside the layers and where no lineage is known
    index       where the layer sat then, 0 at the bottom; empty likewise
    norm        L2 norm of the gradient
    update_ratio  norm of the update ÷ norm of the weights, empty where it was not logged

Columns of `around`, one row for each event's step and part that was there before it:
    step        of the event
    event       what happened, in a word or two
    part, level, layer
    before      median norm of the last measurements up to that step, back to the event before
    after       median norm of the first measurements after it, up to the next event
    change      after ÷ before
    measured    how many measurements there are on the scarcer side
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.metrics import lineage as lineage_metric
from pli_analysis.run import Run
from pli_analysis.scalars import read as scalars_of
from pli_train import run_folder
from pli_train.anatomy.parts import GROUPS, OUTSIDE, Part
from pli_train.errors import BadInput, did_you_mean
from pli_train.lineage import BadLineage, Lineage

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pli_analysis.scalars import Scalars

COLUMNS = ["part", "level", "layer", "step", "age", "index", "norm", "update_ratio"]
AROUND = ["step", "event", "part", "level", "layer", "before", "after", "change", "measured"]


def logged(scalars: Scalars, lineage: Lineage | None) -> pd.DataFrame:
    """The norms that training logged, in order of steps; empty when it logged none.

    Args:
        lineage: of the run; None for a folder that has none.
    """
    import pandas as pd

    rows = []
    tags = [tag for tag in scalars.values if tag.startswith(run_folder.GRAD_NORM)]
    parts = {tag: Part.of_tag(tag.removeprefix(run_folder.GRAD_NORM)) for tag in tags}
    groups = Counter(part.layer for part in parts.values() if part.level == "attention" and "." in part.name)
    for tag, part in parts.items():
        if part.level not in GROUPS:
            continue
        ratios = scalars.values.get(run_folder.UPDATE_RATIO + part.tag, {})
        for step, (_, norm) in scalars.values[tag].items():
            place = told(part, lineage, step, step - 1, groups.get(part.layer, 0))
            rows.append([*place, norm, ratios.get(step, (0, np.nan))[1]])
    return in_order(pd.DataFrame(rows, columns=COLUMNS))


def read(path: Path) -> tuple[Scalars, Lineage | None]:
    """The scalars and the lineage of a run, or of any folder or event file that holds gradient norms.

    Raises:
        BadInput: when there is no such path, or a file of it cannot be read.
    """
    if (path / run_folder.RUN).is_file():
        run = Run.open(path)
        return run.scalars, run.lineage
    file = path / run_folder.LINEAGE  # Trainer's output folder has one when GrowthCallback was there
    try:
        return scalars_of(path), Lineage.read(file) if file.is_file() else None
    except BadLineage as error:
        raise BadInput(str(error)) from None


def require(table: pd.DataFrame, where: object) -> pd.DataFrame:
    """Return a table of `logged` that holds something. Raises BadInput naming what to do when it is empty."""
    if not len(table):
        raise BadInput(
            f"{where}: no gradient norms were logged; train with train.grad_norms_every and tracking.tensorboard on "
            "(in Trainer: GradNormCallback), or compute them at its checkpoints with --recompute --text FILE"
        )
    return table


def of_level(table: pd.DataFrame, level: str) -> pd.DataFrame:
    """The rows of one level, or all of them for `all`. Raises BadInput for a level that there is not."""
    if level not in ("all", *GROUPS):
        near = did_you_mean(level, GROUPS)
        raise BadInput(f"--of {level}: no such level of parts{near}: use one of all, {', '.join(GROUPS)}")
    return table if level == "all" else table[table["level"] == level].reset_index(drop=True)


def around(table: pd.DataFrame, lineage: Lineage, window: int = 3) -> pd.DataFrame:
    """Norms before and after each growth event, of parts measured on both sides of it.

    Args:
        table: of `logged`.
        window: measurements on each side at most; their median is taken, as gradients are noisy.
    """
    import pandas as pd

    labels: dict[int, list[str]] = {}
    for event in lineage.events:
        labels.setdefault(event.step, []).append(lineage_metric.label(event))
    steps, rows = list(labels), []
    for number, step in enumerate(steps):
        earliest = steps[number - 1] if number else -1
        latest = steps[number + 1] if number + 1 < len(steps) else np.inf
        near = table[(table["step"] > earliest) & (table["step"] <= latest)]
        for (part, level), of_part in near.groupby(["part", "level"], sort=False):
            before = of_part[of_part["step"] <= step].tail(window)["norm"]
            after = of_part[of_part["step"] > step].head(window)["norm"]
            if len(before) and len(after):
                old, new = float(before.median()), float(after.median())
                layer, count = of_part["layer"].iloc[0], min(len(before), len(after))
                rows.append(
                    (step, " ".join(labels[step]), part, level, layer, old, new, new / old if old else np.nan, count)
                )
    return pd.DataFrame(rows, columns=AROUND)


def thinned(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """The rows of at most `most` steps, evenly chosen among those that were measured, the first and last among them."""
    steps = np.unique(table["step"])
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
    return table[table["step"].isin(steps[chosen])].reset_index(drop=True)


def told(part: Part, lineage: Lineage | None, step: int, past: int, groups: int) -> list[object]:
    """The first six columns of a row.

    Args:
        past: the layer's index is the one after the events up to this step.
        groups: how many groups share keys and values in the part's layer, for their ages; 0 where none do.
    """
    layer = part.layer
    if part.level in ("total", "embeddings"):
        name = part.level
    elif layer is None:
        name = f"{OUTSIDE}.{part.level}"
    else:
        name = part.name if part.level in ("layer", "head") or "." in part.name else f"{layer}.{part.level}"
    known = lineage.layers.get(layer) if lineage is not None and layer is not None else None
    if lineage is None or known is None or layer is None:
        return [name, part.level, layer, step, None, None]
    head = part.name
    if part.level == "attention" and "." in head and groups:
        # A group was born with the first of its heads.
        head = f"{layer}.h{int(head.rpartition('g')[2]) * (len(known.heads) // groups)}"
    birth, stack = known.heads.get(head, known.birth), lineage.stack_at(past)
    return [name, part.level, layer, step, step - birth.step, stack.index(layer) if layer in stack else None]


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by step; in a step the total, then what is outside the layers, then layers bottom to top."""
    rank = {level: number for number, level in enumerate(GROUPS)}
    keys = {"at": table["index"].astype("float64").fillna(-1), "rank": table["level"].map(rank)}
    ordered = table.assign(**keys).sort_values(["step", "at", "rank", "part"], kind="stable", key=_natural)
    types = {"step": "int64", "age": "Int64", "index": "Int64", "norm": "float64"}
    return ordered.drop(columns=list(keys)).reset_index(drop=True).astype(types)


def _natural(column: pd.Series) -> pd.Series:
    """Part names so that head 10 comes after head 9, and layer `aa` after `z`."""
    if column.name != "part":
        return column
    return column.map(lambda part: f"{len(part.partition('.')[0]):06}{part.partition('.')[0]}{len(part):06}{part}")
