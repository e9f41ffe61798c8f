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
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.metrics import lineage as lineage_metric
from pli_analysis.run import Run
from pli_analysis.scalars import read as scalars_of
from pli_analysis.weights.kin import birth
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

    tags = [tag for tag in scalars.columns if tag.startswith(run_folder.GRAD_NORM)]
    parts = {tag: Part.of_tag(tag.removeprefix(run_folder.GRAD_NORM)) for tag in tags}
    groups = groups_of(parts.values())
    steps = {step for tag in tags for step in scalars.of(tag).steps.tolist()}
    places = {step: places_of(lineage.stack_at(step - 1)) if lineage else {} for step in steps}
    rows = []
    for tag, part in parts.items():
        if part.level not in GROUPS:
            continue
        name, born = who(part, lineage, groups)
        layer = part.layer
        norms, ratios = scalars.of(tag), scalars.of(run_folder.UPDATE_RATIO + part.tag)
        ratio_at = dict(zip(ratios.steps.tolist(), ratios.values.tolist(), strict=True))
        for step, norm in zip(norms.steps.tolist(), norms.values.tolist(), strict=True):
            age = None if born is None else step - born
            place, ratio = places[step].get(layer), ratio_at.get(step, np.nan)
            rows.append((name, part.level, layer, step, age, place, norm, ratio))
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

    labels = lineage_metric.by_step(lineage)
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


def who(part: Part, lineage: Lineage | None, groups: Mapping[str | None, int]) -> tuple[str, int | None]:
    """A part's name in a table, and the step of its birth; None outside the layers and where it is not known.

    Args:
        groups: of `groups_of`.
    """
    layer = part.layer
    if layer is None:
        return (part.level if part.level in ("total", "embeddings") else f"{OUTSIDE}.{part.level}"), None
    name = part.name if part.level in ("layer", "head") or "." in part.name else f"{layer}.{part.level}"
    known = lineage.layers.get(layer) if lineage is not None else None
    if known is None:
        return name, None
    # A layer has as many heads in each group as there were groups told of.
    label, member = name.partition(".")[2], len(known.heads) // groups[layer] if groups.get(layer) else 1
    try:
        return name, birth(known, label or part.level, member).step
    except KeyError:
        return name, known.birth.step


def groups_of(parts: Iterable[Part]) -> Counter[str | None]:
    """How many groups share keys and values in each layer."""
    return Counter(part.layer for part in parts if part.level == "attention" and "." in part.name)


def places_of(stack: Sequence[str]) -> dict[str | None, int]:
    """Where each layer sits."""
    return {id: index for index, id in enumerate(stack)}


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
    owners = {part: part.partition(".")[0] for part in column.unique()}
    return column.map({part: f"{len(owner):06}{owner}{len(part):06}{part}" for part, owner in owners.items()})
