"""Gradient norms by part as logged, and around each growth event.

The norm of a part is the L2 norm of its part of the gradient, before clipping: the squares over all parts sum to the
square of the total. A part is followed by its identity through growth.

Columns of `logged`, one row for each part and measurement:
    part        layer id (`c`), head id (`c.h3`), layer id and kind (`c.ffn`, `c.norms`, `c.attention`, `c.g0` where
                heads share keys and values, `c.other`); outside the layers `embeddings`, `outside.norms`,
                `outside.other`; and `total`
    part_type   layer, head, ffn, norms, attention, embeddings, other or total
    layer       id of the layer it belongs to; empty outside the layers
    step        optimizer updates done, including the one that used the gradient
    age         steps since the part's birth; empty outside the layers and without a lineage
    index       index of the layer at this step, 0 at the bottom; empty likewise
    grad_norm   L2 norm of the gradient
    update_ratio  norm of the update ÷ norm of the weights; empty if not logged

Columns of `around`, one row for each step with events and each part that existed before it:
    step        step of the event
    event       label of the event, in one or two words
    part, part_type, layer
    grad_norm_before    median norm of the last measurements up to that step, after the previous event
    grad_norm_after     median norm of the first measurements after it, before the next event
    grad_norm_ratio     after ÷ before
    measurements        number of measurements before or after the event, whichever is smaller
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics import lineage as lineage_metric
from pli_analysis.runs import paths
from pli_analysis.runs.ancestry import birth
from pli_analysis.runs.opening import open_run
from pli_train.core.anatomy.parts import GROUPS, OUTSIDE, Part
from pli_train.core.errors import BadInput, did_you_mean
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pli_analysis.scalars.reading import Scalars

COLUMNS = [col.PART, col.PART_TYPE, col.LAYER, col.STEP, col.AGE, col.INDEX, col.GRAD_NORM, col.UPDATE_RATIO]
AROUND = [col.STEP, col.EVENT, col.PART, col.PART_TYPE, col.LAYER, col.GRAD_NORM_BEFORE, col.GRAD_NORM_AFTER]
AROUND += [col.GRAD_NORM_RATIO, col.MEASUREMENTS]


def logged(scalars: Scalars, lineage: Lineage | None) -> pd.DataFrame:
    """Return the logged norms in order of steps; empty if none were logged.

    Args:
        lineage: lineage of the run; None if it has none.
    """
    import pandas as pd

    tags = [tag for tag in scalars.columns if tag.startswith(run_folder.GRAD_NORM)]
    parts = {tag: Part.of_tag(tag.removeprefix(run_folder.GRAD_NORM)) for tag in tags}
    groups = groups_of(parts.values())
    tables = [
        _of_part(scalars, tag, part, lineage, groups)
        for tag, part in parts.items()
        if part.level in GROUPS and len(scalars.of(tag).steps)
    ]
    return in_order(pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS))


def _of_part(
    scalars: Scalars, tag: str, part: Part, lineage: Lineage | None, groups: Mapping[str | None, int]
) -> pd.DataFrame:
    """Return the rows of one part."""
    import pandas as pd

    name, born = part_and_birth(part, lineage, groups)
    norms, ratios = scalars.of(tag), scalars.of(run_folder.UPDATE_RATIO + part.tag)
    columns = {
        col.PART: name,
        col.PART_TYPE: part.level,
        col.LAYER: part.layer,
        col.STEP: norms.steps,
        col.AGE: np.nan if born is None else norms.steps - float(born),
        col.INDEX: _indices(lineage, part.layer, norms.steps),
        col.GRAD_NORM: norms.values,
        col.UPDATE_RATIO: pd.Series(ratios.values, ratios.steps).reindex(norms.steps).to_numpy(),
    }
    return pd.DataFrame(columns, index=range(len(norms.steps)), columns=COLUMNS)


def _indices(lineage: Lineage | None, layer: str | None, steps: np.ndarray) -> np.ndarray:
    """Return the index of a layer when the gradient of each step was computed; NaN when it was not in the stack."""
    if lineage is None or layer is None:
        return np.full(len(steps), np.nan)
    changes = np.array(sorted({event.step for event in lineage.events}), dtype=int)
    stacks = [lineage.stack_at(step) for step in (-1, *changes.tolist())]
    locations = [stack.index(layer) if layer in stack else np.nan for stack in stacks]
    # The events of step s are applied before the gradient of step s + 1 is computed.
    return np.array(locations)[np.searchsorted(changes, steps - 1, side="right")]


def read(path: Path) -> tuple[Scalars, Lineage | None]:
    """Read the scalars and the lineage of a run, or of any folder or event file with gradient norms.

    Raises:
        BadInput: if there is no such path, or a file cannot be read.
    """
    logged, source = paths.read(path), paths.only(path)
    if source is None or source.kind == paths.Kind.FILE:
        return logged, None
    if source.kind == paths.Kind.RUN:
        return logged, open_run(source.path).lineage
    file = source.path / run_folder.LINEAGE  # Trainer's output folder has one if GrowthCallback was used
    return logged, Lineage.read(file) if file.is_file() else None


def require(table: pd.DataFrame, where: object) -> pd.DataFrame:
    """Return a table of `logged`. Raises BadInput, with what to do, if it is empty."""
    if not len(table):
        raise BadInput(
            f"{where}: no gradient norms were logged; set train.grad_norms_every and tracking.tensorboard in training "
            "(in Trainer: GradNormCallback), or compute them at its checkpoints with --recompute --text FILE"
        )
    return table


def of_level(table: pd.DataFrame, level: str) -> pd.DataFrame:
    """Return the rows of one level, or all of them for `all`. Raises BadInput for any other level."""
    if level not in ("all", *GROUPS):
        near = did_you_mean(level, GROUPS)
        raise BadInput(f"--of {level}: no such level of parts{near}; use one of all, {', '.join(GROUPS)}")
    return table if level == "all" else table[table[col.PART_TYPE] == level].reset_index(drop=True)


def around(table: pd.DataFrame, lineage: Lineage, window: int = 3) -> pd.DataFrame:
    """Return norms before and after each growth event, for parts with measurements on both sides.

    Args:
        table: result of `logged`.
        window: maximum number of measurements on each side; their median is used, as gradients are noisy.
    """
    import pandas as pd

    labels = lineage_metric.by_step(lineage)
    steps, rows = list(labels), []
    bounds = [-1, *steps, np.inf]
    for (part, level), of_part in table.groupby([col.PART, col.PART_TYPE], sort=False):
        measured, norms, layer = (
            of_part[col.STEP].to_numpy(),
            of_part[col.GRAD_NORM].to_numpy(),
            of_part[col.LAYER].iloc[0],
        )
        for number, step in enumerate(steps):
            start, here, end = np.searchsorted(measured, [bounds[number], step, bounds[number + 2]], side="right")
            before, after = norms[max(start, here - window) : here], norms[here : min(end, here + window)]
            if len(before) and len(after):
                old, new, count = float(np.median(before)), float(np.median(after)), min(len(before), len(after))
                ratio = new / old if old else np.nan
                row = (step, " ".join(labels[step]), part, level, layer, old, new, ratio, count)
                rows.append((number, of_part.index[start], row))
    return pd.DataFrame([row for *_, row in sorted(rows, key=lambda each: each[:2])], columns=AROUND)


def thinned(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the rows of at most `most` steps, evenly spaced among the measured ones, first and last included."""
    steps = np.unique(table[col.STEP])
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
    return table[table[col.STEP].isin(steps[chosen])].reset_index(drop=True)


def part_and_birth(part: Part, lineage: Lineage | None, groups: Mapping[str | None, int]) -> tuple[str, int | None]:
    """Return a part's name in tables and the step of its birth; None outside the layers and if not known.

    Args:
        groups: result of `groups_of`.
    """
    layer = part.layer
    if layer is None:
        return (part.level if part.level in ("total", "embeddings") else f"{OUTSIDE}.{part.level}"), None
    name = part.name if part.level in ("layer", "head") or "." in part.name else f"{layer}.{part.level}"
    known = lineage.layers.get(layer) if lineage is not None else None
    if known is None:
        return name, None
    # The number of heads in each group follows from the number of groups that were logged.
    label, member = name.partition(".")[2], len(known.heads) // groups[layer] if groups.get(layer) else 1
    try:
        return name, birth(known, label or part.level, member).step
    except KeyError:
        return name, known.birth.step


def groups_of(parts: Iterable[Part]) -> Counter[str | None]:
    """Count the groups of heads that share keys and values in each layer."""
    return Counter(part.layer for part in parts if part.level == "attention" and "." in part.name)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by step; within a step the total, parts outside the layers, then layers from bottom to top."""
    import pandas as pd

    rank = {level: number for number, level in enumerate(GROUPS)}
    (part, parts), (level, levels) = pd.factorize(table[col.PART]), pd.factorize(table[col.PART_TYPE])
    names = np.argsort(np.argsort(np.array([_natural(name) for name in parts], dtype=object), kind="stable"))
    ranks, at = np.array([rank[name] for name in levels], dtype=int), table[col.INDEX].astype("float64").fillna(-1)
    order = np.lexsort((names[part], ranks[level], at, table[col.STEP]))
    types = {col.STEP: "int64", col.AGE: "Int64", col.INDEX: "Int64", col.GRAD_NORM: "float64"}
    return table.iloc[order].reset_index(drop=True).astype(types)


def _natural(part: str) -> str:
    """Return a sort key that puts head 10 after head 9, and layer `aa` after `z`."""
    owner = part.partition(".")[0]
    return f"{len(owner):06}{owner}{len(part):06}{part}"
