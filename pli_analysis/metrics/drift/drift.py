"""Drift: distance of each part from its birth weights and its donor, path length and speed.

θ(t) are a part's weights at step t and θ(b) its birth weights, right after its creation, initialization noise
included. A part is followed by its identity, not by its index, which insertions change. Sums over parts are in float64;
see `pli_analysis.weights.moments` for the precision within blocks of about a thousand numbers. For checkpoints of other
libraries, θ(b) are the weights of the first checkpoint that has the part. If the lineage was recorded, that checkpoint
may be later than the part's birth, from which `age` counts; if the lineage is inferred, it is taken as the birth.

Columns of the table, one row for each part and checkpoint:
    part        layer id (`c`), head id (`c.h3`), or layer id and kind (`c.ffn`, `c.norms`, `c.attention`); where heads
                share keys and values, these belong to parts of type `attention` (`c.g0`) and not to a head; for type
                `matrix`, a tensor (`c.output.dense.weight`)
    layer       id of the layer it belongs to
    checkpoint  name of the checkpoint folder
    step        optimizer updates done
    age         steps since the part's birth
    tokens      tokens trained on so far; empty if training did not count them
    index       index of the layer at this checkpoint, 0 at the bottom
    relative_l2 ‖θ(t) − θ(b)‖ ÷ ‖θ(b)‖      (‖θ(t) − θ(b)‖ itself where θ(b) is zero: column `is_absolute`); empty, as
                all measures below, if θ(t) or θ(b) has a number that is not finite
    cosine_distance     1 − cos(θ(t), θ(b)); empty where one of them is zero
    is_absolute whether `relative_l2` is an absolute distance, because θ(b) is zero
    part_type   layer, head, ffn, norms, attention or matrix
    rms_change  ‖θ(t) − θ(b)‖ ÷ √n, for n weights in the part
    path_length Σ ‖θ(t_k) − θ(t_{k−1})‖ over the checkpoints since birth: a lower bound of the length of the training
                path. Changes made by a growth event, between the checkpoints before and after it, are not included
    growth_path_length  the same sum over growth events, which may change existing weights: an identity layer in post-LN
                takes over the norm of the layer below, and new heads may share the output weights of their donors
    path_efficiency     ‖θ(t) − θ(b)‖ ÷ path_length: 1 for a straight path; empty if the part did not move, and if
                `growth_path_length` is above 0, because the distance then includes changes made by growth
    relative_update_rate  ‖θ(t_k) − θ(t_{k−1})‖ ÷ (‖θ(t_k)‖ · Σ learning rates of the steps between), with the layer's
                own learning rates (`metrics.drift.rates`); empty at birth, between two checkpoints of one step, and
                where no learning rate is known
    donor       the part that it was copied from, if any
    donor_distance  ‖θ(t) − θ_donor(t)‖ ÷ ‖θ_donor(t)‖ at the same checkpoint, over the weights copied from the donor:
                heads and FFN units that were added later to either are left out; empty without a donor

With `gauge`, for heads (see `metrics.drift.products`; biases of Q, K and V are appended to them as a further column):
    qk_distance ‖QᵀK − Q(b)ᵀK(b)‖ ÷ ‖Q(b)ᵀK(b)‖, which does not change if Q becomes GQ and K becomes G⁻ᵀK for an
                invertible G. With rotary positions, root mean squares of ‖QᵀRK − Q(b)ᵀRK(b)‖ and ‖Q(b)ᵀRK(b)‖ over the
                rotations R of all relative positions, which do not change for a G that commutes with these. Empty if
                queries and keys are normalized (Qwen3): attention scores are then not a product of weights
    ov_distance ‖OᵀV − O(b)ᵀV(b)‖ ÷ ‖O(b)ᵀV(b)‖, which does not change if V becomes GV and O becomes G⁻ᵀO

With `spectral`, for matrices as stored in the checkpoint, with ΔW = W(t) − W(b):
    relative_spectral_norm      ‖ΔW‖₂ ÷ ‖W(b)‖₂
    stable_rank, effective_rank  of ΔW; empty where ΔW is zero
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.drift.displacement import GAUGE, NAN, SPECTRA, SPECTRAL, SUMS, Moments, ratio
from pli_analysis.metrics.drift.heads import gauge as gauge_of
from pli_analysis.metrics.drift.rates import Rates, rates_of
from pli_analysis.runs.ancestry import alive, birth, donor
from pli_analysis.runs.checkpoint import require_parts
from pli_analysis.weights import trajectory
from pli_analysis.weights.measurement import Kind, measure
from pli_train.core.anatomy.parts import part_of
from pli_train.core.errors import MISFITS, BadInput, did_you_mean, some

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import ProgressCallback, Run

COLUMNS = [col.PART, col.LAYER, col.CHECKPOINT, col.STEP, col.AGE, col.TOKENS, col.INDEX, col.RELATIVE_L2]
COLUMNS += [col.COSINE_DISTANCE, col.IS_ABSOLUTE, col.PART_TYPE, col.RMS_CHANGE, col.PATH_LENGTH]
COLUMNS += [col.GROWTH_PATH_LENGTH, col.PATH_EFFICIENCY, col.RELATIVE_UPDATE_RATE, col.DONOR, col.DONOR_DISTANCE]
LEVELS = ("layer", "head", "ffn", "norms", "attention")
NOTHING = (NAN,) * (len(GAUGE) + len(SPECTRAL))
TRAINING, GROWTH = 0, 1
"""Columns of path lengths: of changes made by training, and by growth events."""


def drift(
    run: Run,
    of: str = "layer",
    on_progress: ProgressCallback = lambda done, total: None,
    *,
    gauge: bool = False,
    spectral: bool = False,
    threads: int = 1,
) -> pd.DataFrame:
    """Measure the drift of each part at each checkpoint since its birth.

    Args:
        run: a run whose checkpoints include one right after each birth.
        of: `layer`, `head`, `ffn`, `norms`, `attention` (weights shared by heads: output biases, and keys and values
            of each group of heads that share them), `matrix` (each tensor), or `all`, which includes matrices only with
            `spectral`.
        on_progress: called with (tasks done, tasks in total); not called if all results are in the cache.
        gauge: add `qk_distance` and `ov_distance` for heads: about 100 products of d × d matrices for each head and
            checkpoint.
        spectral: add spectral columns for matrices: one singular value decomposition each.
        threads: number of threads.

    Raises:
        BadInput: if `of` is none of these, weights cannot be read, or a part's birth weights are in no checkpoint.
    """
    import pandas as pd

    if of not in (*LEVELS, "matrix", "all"):
        near = did_you_mean(of, (*LEVELS, "matrix", "all"))
        raise BadInput(f"--of {of}: no such level of parts{near}; use one of {', '.join(LEVELS)}, matrix, all")
    if of not in ("layer", "matrix", "all"):
        require_parts(run.checkpoints[-1], of)
    levels = {*LEVELS, *(["matrix"] if spectral else [])} if of == "all" else {of}
    sums = measure(run, SUMS, threads, on_progress)
    last, kinds = sums[-1][0], dict[str, Kind]()
    if gauge and "head" in levels and "heads" in last.anatomy.config:
        kinds["head"] = gauge_of(last.anatomy, last.config)
    if spectral and "matrix" in levels:
        kinds["matrix"] = SPECTRA
    more = {
        level: {str(checkpoint.name): table for checkpoint, table in measure(run, kind, threads, on_progress)}
        for level, kind in kinds.items()
    }
    table = pd.DataFrame(_table(sums, rates_of(run), levels, more))
    if table[col.TOKENS].isna().any():
        table[col.TOKENS] = table[col.TOKENS].astype("Int64")
    return table.reindex(columns=[*COLUMNS, *(GAUGE if gauge else []), *(SPECTRAL if spectral else [])])


@dataclass(frozen=True)
class Part:
    """A part: its name, level, layer, the part that it was copied from, and the step of its birth."""

    name: str
    level: str
    layer: str
    donor: str | None
    born: int


@dataclass(frozen=True)
class Plan:
    """Assignment of the rows of `Sums` at a checkpoint to parts.

    Attributes:
        parts: in the order of the table.
        members: row numbers of the first part, then those of the second, and so on.
        starts: (parts,): index in `members` at which each part begins.
        copied: (members,): whether the weights of the row were copied from the part's donor, and both still have them.
        rows: number of rows.
    """

    parts: tuple[Part, ...]
    members: np.ndarray
    starts: np.ndarray
    copied: np.ndarray
    rows: int

    def moments(self, rows: np.ndarray) -> Moments:
        """Return the sums of each part. Raises ValueError for another number of rows."""
        if len(rows) != self.rows:
            raise ValueError(f"{len(rows)} rows, expected {self.rows}")
        of_members = rows[self.members]
        of_members[~self.copied, 4:6] = 0
        sums = np.add.reduceat(of_members, self.starts)
        sums[~np.logical_or.reduceat(self.copied, self.starts), 4:6] = np.nan
        return Moments(*sums.T)


def _plan(checkpoint: Checkpoint, levels: set[str]) -> Plan:
    parts: dict[str, Part] = {}
    members: dict[str, list[int]] = {}
    copies: dict[str, list[bool]] = {}
    sizes, numbers = checkpoint.anatomy.sizes(checkpoint.config), itertools.count()

    def add(row: int, part: Part, copied: bool) -> None:
        if part.level in levels:
            parts.setdefault(part.name, part)
            members.setdefault(part.name, []).append(row)
            copies.setdefault(part.name, []).append(copied)

    for id in checkpoint.lineage.stack:
        layer, member = checkpoint.lineage.layers[id], sizes["member"]
        born, theirs = layer.birth.step, layer.birth.donor
        own = sizes | alive(sizes, *checkpoint.lineage.shape(id))
        whole = Part(id, "layer", id, theirs, born)
        for name in trajectory.names(checkpoint, id):
            matrix = Part(f"{id}.{name}", "matrix", id, theirs and f"{theirs}.{name}", born)
            for label in checkpoint.anatomy.labels(name, own):
                row, came = next(numbers), donor(layer, label, member)
                copied = came is not None and name in checkpoint.names_of_layers.get(came[0], {})
                with_layer = copied and came == (theirs, label)
                add(row, whole, with_layer)
                add(row, matrix, with_layer)
                level, since = part_of(id, label).level, birth(layer, label, member).step
                add(row, Part(f"{id}.{label}", level, id, came and ".".join(came), since), copied)
    counts = [len(rows) for rows in members.values()]
    return Plan(
        tuple(parts.values()),
        np.array([row for rows in members.values() for row in rows], dtype=int),
        np.cumsum([0, *counts], dtype=int)[:-1],
        np.array([copied for rows in copies.values() for copied in rows], dtype=bool),
        next(numbers),
    )


def _table(
    sums: Sequence[tuple[Checkpoint, np.ndarray]],
    rates: Rates,
    levels: set[str],
    more: dict[str, dict[str, np.ndarray]],
) -> dict[str, list[object]]:
    """Return the columns of the table, over all checkpoints in order."""
    optional = [*GAUGE, *SPECTRAL] if more else []
    columns: dict[str, list[object]] = {name: [] for name in (*COLUMNS, *optional)}
    plans: dict[object, Plan] = {}
    paths: dict[str, np.ndarray] = {}
    before: int | None = None
    for checkpoint, rows in sums:
        lineage = checkpoint.lineage
        shape = (tuple(lineage.stack), tuple(lineage.shapes()), tuple(checkpoint.files))
        try:
            if shape not in plans:
                plans = {shape: _plan(checkpoint, levels)}
            extra = _extra(checkpoint, {level: tables.get(str(checkpoint.name)) for level, tables in more.items()})
            plan, moments = plans[shape], plans[shape].moments(rows)
        except MISFITS as error:
            raise BadInput(f"{checkpoint.path}: its weights do not match its lineage ({error})") from None
        sums_of_rates = {
            id: NAN if before is None else rates.between(id, before, checkpoint.step) for id in lineage.stack
        }
        since = np.array([sums_of_rates[part.layer] if part.name in paths else 0 for part in plan.parts])
        lengths = np.array([paths.get(part.name, (0.0, 0.0)) for part in plan.parts]).reshape(-1, 2)
        # Two checkpoints of one step are before and after its events: there is no training between them.
        lengths[:, GROWTH if before == checkpoint.step else TRAINING] += np.sqrt(moments.stepped)
        paths.update(zip([part.name for part in plan.parts], lengths, strict=True))
        new = _of_parts(checkpoint, plan.parts) | _measures(moments, lengths, since)
        for number, name in enumerate(optional):
            new[name] = [extra.get(part.name, NOTHING)[number] for part in plan.parts]
        for name, values in new.items():
            columns[name] += values
        before = checkpoint.step
    return columns


def _of_parts(checkpoint: Checkpoint, parts: Sequence[Part]) -> dict[str, list[object]]:
    """Return the columns of a checkpoint that do not depend on weights."""
    index = {id: number for number, id in enumerate(checkpoint.lineage.stack)}
    whole = {col.CHECKPOINT: str(checkpoint.name), col.STEP: checkpoint.step, col.TOKENS: checkpoint.tokens}
    return {
        col.PART: [part.name for part in parts],
        col.LAYER: [part.layer for part in parts],
        col.AGE: [checkpoint.step - part.born for part in parts],
        col.INDEX: [index[part.layer] for part in parts],
        col.PART_TYPE: [part.level for part in parts],
        col.DONOR: [part.donor for part in parts],
        **{name: [value] * len(parts) for name, value in whole.items()},
    }


def _measures(moments: Moments, paths: np.ndarray, rates: np.ndarray) -> dict[str, list[object]]:
    """Return the measures of each part at a checkpoint, as columns.

    Args:
        paths: (parts, 2): path lengths so far, with columns TRAINING and GROWTH.
        rates: (parts,): sum of learning rates since the previous checkpoint.
    """
    relative, absolute = moments.relative_l2()
    path, growth = paths[:, TRAINING], paths[:, GROWTH]
    with np.errstate(invalid="ignore"):  # parts with numbers that are not finite
        moved, cosine = np.sqrt(moments.difference), moments.cosine_distance()
        scale = rates * np.sqrt(moments.now)
    columns = {
        col.RELATIVE_L2: relative,
        col.COSINE_DISTANCE: cosine,
        col.RMS_CHANGE: np.sqrt(moments.difference / np.maximum(moments.count, 1)),
        col.PATH_LENGTH: path,
        col.GROWTH_PATH_LENGTH: growth,
        col.PATH_EFFICIENCY: np.where(growth > 0, NAN, ratio(moved, path)),
        col.RELATIVE_UPDATE_RATE: ratio(np.sqrt(moments.stepped), scale),
        col.DONOR_DISTANCE: np.sqrt(ratio(moments.donor_difference, moments.donor)),
    }
    finite = {name: np.where(np.isfinite(values), values, NAN).tolist() for name, values in columns.items()}
    return finite | {col.IS_ABSOLUTE: (absolute & moments.are_finite).tolist()}


def unknown(run: Run, threads: int = 1) -> list[str]:
    """Return a line for each group of tensors with numbers that are not finite: their parts have no values.

    Args:
        threads: number of threads. Right after `drift` of the same run, all results are in the cache.

    Raises:
        BadInput: as `drift`.
    """
    checkpoints_of: dict[tuple[str, ...], list[str]] = {}
    for checkpoint, rows in measure(run, SUMS, threads):
        plan = _plan(checkpoint, {"matrix"})
        odd = [
            part.name for part, is_odd in zip(plan.parts, ~np.isfinite(plan.moments(rows).now), strict=True) if is_odd
        ]
        if odd:
            checkpoints_of.setdefault(tuple(odd), []).append(str(checkpoint.name))
    return [
        f"weights that are not finite are left out: {some(names)} at {some(where)}"
        for names, where in checkpoints_of.items()
    ]


def _extra(checkpoint: Checkpoint, tables: dict[str, np.ndarray | None]) -> dict[str, tuple[float, ...]]:
    """Return by part the values of the optional columns; NaN for those that its level does not have."""
    values: dict[str, tuple[float, ...]] = {}
    lineage = checkpoint.lineage
    if (table := tables.get("head")) is not None:
        heads = [head for id in lineage.stack for head in lineage.layers[id].heads]
        values |= {head: (*row, NAN, NAN, NAN) for head, row in zip(heads, table.tolist(), strict=True)}
    if (table := tables.get("matrix")) is not None:
        matrices = [f"{id}.{name}" for id in lineage.stack for name in trajectory.names(checkpoint, id)]
        values |= {matrix: (NAN, NAN, *row) for matrix, row in zip(matrices, table.tolist(), strict=True)}
    return values
