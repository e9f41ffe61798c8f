"""Drift: distance of each part from its birth weights and its donor, path length and speed.

θ(t) are a part's weights at step t and θ(b) those right after its creation, noise included. A part is followed by
its identity: what sits at its old index after an insertion does not matter. Sums over parts are in float64; see
`pli_analysis.weights.moments` for what happens within a run of a thousand numbers. In checkpoints that no run of ours
wrote, θ(b) are the weights of the first checkpoint that has a part. Where a lineage is written that checkpoint may lie
later than the part's birth, from which `age` counts; where the lineage is inferred, it is taken to be the birth.

Columns of the table, one row for each part and checkpoint:
    part        layer id (`c`), head id (`c.h3`), or layer id and kind (`c.ffn`, `c.norms`, `c.attention`); where heads
                share keys and values, those are parts of the type `attention` (`c.g0`) and not of any head; of the
                type `matrix` a tensor (`c.output.dense.weight`)
    layer       the layer it belongs to
    checkpoint  name of the checkpoint folder
    step        optimizer updates done
    age         steps since the part's birth
    tokens      tokens trained on so far; empty where training did not count them
    index       where the layer sat then, 0 at the bottom
    relative_l2 ‖θ(t) − θ(b)‖ ÷ ‖θ(b)‖      (‖θ(t) − θ(b)‖ itself where θ(b) is zero: column `is_absolute`); empty, as
                all measures below, where a number of θ(t) or θ(b) is not finite
    cosine_distance     1 − cos(θ(t), θ(b)), empty where one of them is zero
    is_absolute whether `relative_l2` is absolute, its reference being zero
    part_type   layer, head, ffn, norms, attention or matrix
    rms_change  ‖θ(t) − θ(b)‖ ÷ √n, n numbers in the part
    path_length Σ ‖θ(t_k) − θ(t_{k−1})‖ over the checkpoints since birth: a lower bound of the length of the path that
                training took. What a growth event changed between the checkpoints before and after it is not in it
    growth_path_length  the same sum over growth events: an event may change weights that are there, as an identity
                layer in post-LN does (it takes over the norm below) and heads whose output is split with their donors
    path_efficiency     ‖θ(t) − θ(b)‖ ÷ path_length: 1 for a straight path; empty where nothing moved, and where
                `growth_path_length` is above 0, since the distance then includes what growth changed
    relative_update_rate  ‖θ(t_k) − θ(t_{k−1})‖ ÷ (‖θ(t_k)‖ · Σ learning rates of the steps between), the layer's own
                rates by `metrics.drift.rates`; empty at birth, between two checkpoints of one step, and where no rate
                is known
    donor       the part it was copied from, if any
    donor_distance  ‖θ(t) − θ_donor(t)‖ ÷ ‖θ_donor(t)‖ at the same checkpoint, over what was copied from the donor:
                heads and FFN units that either of them got later are left out; empty without a donor

On request, for heads (`gauge`), see `metrics.drift.products`; biases of Q, K and V are a further column of them:
    qk_distance ‖QᵀK − Q(b)ᵀK(b)‖ ÷ ‖Q(b)ᵀK(b)‖, the same whatever invertible G turns Q into GQ and K into G⁻ᵀK. With
                rotary positions the root mean square of ‖QᵀRK − Q(b)ᵀRK(b)‖ over relative positions, R being their
                rotation, in the same ratio: the same for any G that commutes with these. Empty where queries and keys
                are normalized (Qwen3), as scores are no product of weights then
    ov_distance ‖OᵀV − O(b)ᵀV(b)‖ ÷ ‖O(b)ᵀV(b)‖, the same whatever invertible G turns V into GV and O into G⁻ᵀO

On request, for matrices as the checkpoint stores them (`spectral`), with ΔW = W(t) − W(b):
    relative_spectral_norm      ‖ΔW‖₂ ÷ ‖W(b)‖₂
    stable_rank, effective_rank  of ΔW; empty where nothing moved
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
"""Columns of lengths of paths: of what training moved, and of what growth events changed."""


def drift(
    run: Run,
    of: str = "layer",
    on_progress: ProgressCallback = lambda done, total: None,
    *,
    gauge: bool = False,
    spectral: bool = False,
    threads: int = 1,
) -> pd.DataFrame:
    """The drift of every part at every checkpoint since its birth.

    Args:
        run: a run whose checkpoints include one right after each birth.
        of: `layer`, `head`, `ffn`, `norms`, `attention` (what attention shares between heads: output biases, and the
            keys and values of each group where heads share them), `matrix` (each tensor by itself), or `all` of these,
            where matrices are among them only with `spectral`.
        on_progress: told (tasks done, tasks in all) of what is read; not called when all of it was kept.
        gauge: whether heads get `qk_distance` and `ov_distance`: some 100 products of d × d matrices a head and
            checkpoint.
        spectral: whether matrices get their spectral columns: a singular value decomposition each.
        threads: share the work over so many.

    Raises:
        BadInput: for another `of`, when weights cannot be read, or a part's birth weights are in no checkpoint.
    """
    import pandas as pd

    if of not in (*LEVELS, "matrix", "all"):
        near = did_you_mean(of, (*LEVELS, "matrix", "all"))
        raise BadInput(f"drift of '{of}' is not known{near}: use one of {', '.join(LEVELS)}, matrix, all")
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
    """A part: its name, its level, its layer, the part it was copied from, and the step of its birth."""

    name: str
    level: str
    layer: str
    donor: str | None
    born: int


@dataclass(frozen=True)
class Plan:
    """How the rows of `Sums` at a checkpoint add up to parts.

    Attributes:
        parts: in the order of the table.
        members: the numbers of the rows that the first part consists of, then those of the second, and so on.
        starts: (parts,): where in `members` each begins.
        copied: (members,): whether what the row is of was copied from the donor of the part, and both still have it.
        rows: how many there are.
    """

    parts: tuple[Part, ...]
    members: np.ndarray
    starts: np.ndarray
    copied: np.ndarray
    rows: int

    def moments(self, rows: np.ndarray) -> Moments:
        """The sums of each part. Raises ValueError when there are more rows, or less."""
        if len(rows) != self.rows:
            raise ValueError(f"{len(rows)} rows of {self.rows}")
        found = rows[self.members]
        found[~self.copied, 4:6] = 0
        sums = np.add.reduceat(found, self.starts)
        sums[~np.logical_or.reduceat(self.copied, self.starts), 4:6] = np.nan
        return Moments(*sums.T)


def _plan(checkpoint: Checkpoint, levels: set[str]) -> Plan:
    parts: dict[str, Part] = {}
    members: dict[str, list[int]] = {}
    copies: dict[str, list[bool]] = {}
    sizes, numbers = checkpoint.anatomy.sizes(checkpoint.config), itertools.count()

    def position(row: int, part: Part, copied: bool) -> None:
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
                position(row, whole, with_layer)
                position(row, matrix, with_layer)
                level, since = part_of(id, label).level, birth(layer, label, member).step
                position(row, Part(f"{id}.{label}", level, id, came and ".".join(came), since), copied)
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
    """The columns of all checkpoints in order."""
    asked = [*GAUGE, *SPECTRAL] if more else []
    columns: dict[str, list[object]] = {name: [] for name in (*COLUMNS, *asked)}
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
            raise BadInput(f"{checkpoint.path}: its weights do not fit its lineage ({error})") from None
        walked = {id: NAN if before is None else rates.between(id, before, checkpoint.step) for id in lineage.stack}
        steps = np.array([walked[part.layer] if part.name in paths else 0 for part in plan.parts])
        lengths = np.array([paths.get(part.name, (0.0, 0.0)) for part in plan.parts]).reshape(-1, 2)
        # Two checkpoints of one step are the states before and after its events: nothing was trained between them.
        lengths[:, GROWTH if before == checkpoint.step else TRAINING] += np.sqrt(moments.stepped)
        paths.update(zip([part.name for part in plan.parts], lengths, strict=True))
        message = _of_parts(checkpoint, plan.parts) | _measures(moments, lengths, steps)
        for number, name in enumerate(asked):
            message[name] = [extra.get(part.name, NOTHING)[number] for part in plan.parts]
        for name, values in message.items():
            columns[name] += values
        before = checkpoint.step
    return columns


def _of_parts(checkpoint: Checkpoint, parts: Sequence[Part]) -> dict[str, list[object]]:
    """What is known of parts without their weights: columns."""
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
    """What is measured of each part of a plan at a checkpoint: columns.

    Args:
        paths: (parts, 2): lengths of its path so far, columns TRAINING and GROWTH.
        rates: (parts,): the sum of learning rates since the checkpoint before.
    """
    relative, absolute = moments.relative_l2()
    path, growth = paths[:, TRAINING], paths[:, GROWTH]
    with np.errstate(invalid="ignore"):  # of a part that has numbers that are not finite
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
    message = {name: np.where(np.isfinite(values), values, NAN).tolist() for name, values in columns.items()}
    return message | {col.IS_ABSOLUTE: (absolute & moments.are_finite).tolist()}


def unknown(run: Run, threads: int = 1) -> list[str]:
    """A line for tensors whose numbers are not finite, which leave what they are part of without a value.

    Args:
        threads: share the work over so many; there is none right after `drift` of the same run.

    Raises:
        BadInput: as `drift` does.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for checkpoint, rows in measure(run, SUMS, threads):
        plan = _plan(checkpoint, {"matrix"})
        odd = [
            part.name for part, is_odd in zip(plan.parts, ~np.isfinite(plan.moments(rows).now), strict=True) if is_odd
        ]
        if odd:
            found.setdefault(tuple(odd), []).append(str(checkpoint.name))
    return [f"not finite, and left out: {some(names)} at {some(where)}" for names, where in found.items()]


def _extra(checkpoint: Checkpoint, tables: dict[str, np.ndarray | None]) -> dict[str, tuple[float, ...]]:
    """Part → the columns that were asked for, as far as its level has them."""
    found: dict[str, tuple[float, ...]] = {}
    lineage = checkpoint.lineage
    if (table := tables.get("head")) is not None:
        heads = [head for id in lineage.stack for head in lineage.layers[id].heads]
        found |= {head: (*row, NAN, NAN, NAN) for head, row in zip(heads, table.tolist(), strict=True)}
    if (table := tables.get("matrix")) is not None:
        matrices = [f"{id}.{name}" for id in lineage.stack for name in trajectory.names(checkpoint, id)]
        found |= {matrix: (NAN, NAN, *row) for matrix, row in zip(matrices, table.tolist(), strict=True)}
    return found
