"""Drift: how far a part has moved from its birth weights, how fast, by which way, and how far from its donor.

θ(t) are a part's weights at step t and θ(b) those right after its creation, noise included. A part is followed by
its identity: what sits at its old index after an insertion does not matter. Sums over parts are in float64; see
`pli_analysis.moments` for what happens within a run of a thousand numbers.

Columns of the table, one row for each part and checkpoint:
    part        layer id (`c`), head id (`c.h3`), or layer id and kind (`c.ffn`, `c.norms`, `c.attention`); where heads
                share keys and values, those are parts of the level `attention` (`c.g0`) and not of any head; at the
                level `matrix` a tensor (`c.output.dense.weight`)
    layer       the layer it belongs to
    checkpoint  name of the checkpoint folder
    step        optimizer updates done
    age         steps since the part's birth
    tokens      tokens trained on so far
    index       where the layer sat then, 0 at the bottom
    relative_l2 ‖θ(t) − θ(b)‖ ÷ ‖θ(b)‖      (‖θ(t) − θ(b)‖ itself where θ(b) is zero: column `absolute`)
    cosine      1 − cos(θ(t), θ(b)), empty where one of them is zero
    absolute    whether `relative_l2` is absolute, its reference being zero
    level       layer, head, ffn, norms, attention or matrix
    rms         ‖θ(t) − θ(b)‖ ÷ √n, n numbers in the part
    path        Σ ‖θ(t_k) − θ(t_{k−1})‖ over the checkpoints since birth: a lower bound of the way gone
    efficiency  ‖θ(t) − θ(b)‖ ÷ path: 1 for a straight way; empty where nothing moved
    speed       ‖θ(t_k) − θ(t_{k−1})‖ ÷ (‖θ(t_k)‖ · Σ learning rates of the steps between), the layer's own rates as
                training logged them; empty at birth, between two checkpoints of one step, and where none were logged
    donor       the part it was copied from, if any
    donor_distance  ‖θ(t) − θ_donor(t)‖ ÷ ‖θ_donor(t)‖ at the same checkpoint; empty without a donor of its shape

On request, for heads (`gauge`), see `pli_analysis.metrics.products`; biases of Q, K and V are a further column of them:
    qk          ‖QᵀK − Q(b)ᵀK(b)‖ ÷ ‖Q(b)ᵀK(b)‖
    ov          ‖OᵀV − O(b)ᵀV(b)‖ ÷ ‖O(b)ᵀV(b)‖

On request, for matrices as the checkpoint stores them (`spectral`), with ΔW = W(t) − W(b):
    spectral    ‖ΔW‖₂ ÷ ‖W(b)‖₂
    stable_rank, effective_rank  of ΔW; empty where nothing moved
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import follow
from pli_analysis.follow import Track
from pli_analysis.kin import alive, birth, donor
from pli_analysis.measured import Kind, Watch, measure
from pli_analysis.metrics.heads import gauge_tasks
from pli_analysis.metrics.products import spectrum
from pli_analysis.moments import Squares
from pli_analysis.pieces import pieces
from pli_analysis.rooms import Rooms
from pli_train import run_folder
from pli_train.anatomy.parts import part_of
from pli_train.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.run import Checkpoint, Run
    from pli_analysis.scalars import Scalars
    from pli_train.lineage import Layer

COLUMNS = ["part", "layer", "checkpoint", "step", "age", "tokens", "index", "relative_l2", "cosine", "absolute"]
COLUMNS += ["level", "rms", "path", "efficiency", "speed", "donor", "donor_distance"]
LEVELS = ("layer", "head", "ffn", "norms", "attention")
GAUGE, SPECTRAL = ["qk", "ov"], ["spectral", "stable_rank", "effective_rank"]
NAN = float("nan")
NOTHING = (NAN,) * (len(GAUGE) + len(SPECTRAL))


@dataclass
class Moments:
    """The sums that measures are made of, for now θ and birth β, added up over a part's tensors.

    Attributes:
        now, birth, difference: Σ θ², Σ β², Σ (θ − β)².
        stepped: Σ (θ − θ at the checkpoint before)².
        apart: Σ (θ − donor)², NaN without a donor.
        count: numbers in the part.
    """

    now: float = 0.0
    birth: float = 0.0
    difference: float = 0.0
    stepped: float = 0.0
    apart: float = 0.0
    count: float = 0.0

    def add(self, now: np.ndarray, birth: np.ndarray) -> None:
        """Take in one more pair of arrays of equal shape, of any floating type."""
        a, b = now.astype(np.float64).ravel(), birth.astype(np.float64).ravel()
        squares = Squares(Rooms())
        (of_now, difference), of_birth = squares(a, [b], (1, 1, a.size))[:, 0], squares(b, [], (1, 1, b.size))[0, 0]
        self.now += float(of_now)
        self.birth += float(of_birth)
        self.difference += float(difference)
        self.count += a.size

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


# --- measuring ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sums:
    """The sums of `Moments` of each part of a tensor."""

    track: Track

    @property
    def tracks(self) -> Sequence[Track]:
        """The one."""
        return (self.track,)

    def run(self, rooms: Rooms) -> list[np.ndarray]:
        """(parts, 6) for each wanted visit."""
        found: dict[int, list[tuple[int, np.ndarray]]] = {}
        for first, piece in pieces(self.track):
            for number, rows in _sums(piece, rooms):
                found.setdefault(number, []).append((first, rows))
        return [_added(of_pieces) for _, of_pieces in sorted(found.items())]


def _sums(piece: Track, rooms: Rooms) -> Iterator[tuple[int, np.ndarray]]:
    """For each wanted visit the number of the checkpoint, and the sums of each part: (parts, 6)."""
    birth, of_birth, squares = None, np.zeros(0), Squares(rooms)
    for seen in piece.see(rooms):
        try:
            folds = piece.folds(seen.visit, seen.now.shape)
            if birth is not seen.birth:
                birth, of_birth = seen.birth, squares(seen.birth, [], folds)[0]
            donor = follow.counterpart(piece, seen)
            others = [seen.birth, seen.previous, *([donor[0]] if donor else [])]
            now, difference, stepped, *apart = squares(seen.now, others, folds)
        except follow.MISFITS as error:
            raise follow.misfit(seen.visit.place.path.parent, piece.id, error) from None
        rows = np.empty((folds[1], 6))
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] = now, of_birth, difference, stepped
        rows[:, 4] = np.where(donor[1], apart[0], np.nan) if donor else np.nan
        rows[:, 5] = folds[0] * folds[2]
        yield seen.visit.number, rows


def _added(pieces: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    """The sums of pieces, each from a first part on, added up."""
    total = np.zeros((max(first + len(rows) for first, rows in pieces), 6))
    for first, rows in pieces:
        total[first : first + len(rows)] += rows
    return total


@dataclass(frozen=True)
class Spectra:
    """What `spectrum` says of a tensor, NaN of one that is no matrix."""

    track: Track

    @property
    def tracks(self) -> Sequence[Track]:
        """The one."""
        return (self.track,)

    def run(self, rooms: Rooms) -> list[np.ndarray]:
        """(1, 3) for each wanted visit."""
        nothing = (NAN,) * len(SPECTRAL)
        return [
            np.array([spectrum(seen.now, seen.birth) if seen.now.ndim == 2 else nothing])
            for seen in self.track.see(rooms)
        ]


def _largest_first(tracks: list[Track]) -> list[Track]:
    # Then threads finish together.
    return sorted(tracks, key=lambda track: -track.bytes)


SUMS = Kind("drift", 2, 6, lambda tracks: [Sums(track) for track in _largest_first(tracks)], donors=True)
SPECTRA = Kind("drift-spectral", 1, 3, lambda tracks: [Spectra(track) for track in _largest_first(tracks)])
PRODUCTS = Kind("drift-gauge", 1, 2, gauge_tasks)


# --- the table ------------------------------------------------------------------------------------------------------


def drift(
    run: Run,
    of: str = "layer",
    watch: Watch = lambda done, total: None,
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
        watch: told (tasks done, tasks in all) of what is read; not called when all of it was kept.
        gauge: whether heads get `qk` and `ov`: some 100 products of d × d matrices a head and checkpoint.
        spectral: whether matrices get their spectral columns: a singular value decomposition each.
        threads: share the work over so many.

    Raises:
        BadInput: for another `of`, when weights cannot be read, or a part's birth weights are in no checkpoint.
    """
    import pandas as pd

    if of not in (*LEVELS, "matrix", "all"):
        near = did_you_mean(of, (*LEVELS, "matrix", "all"))
        raise BadInput(f"drift of '{of}' is not known{near}: use one of {', '.join(LEVELS)}, matrix, all")
    levels = {*LEVELS, *(["matrix"] if spectral else [])} if of == "all" else {of}
    sums = measure(run, SUMS, threads, watch)
    more: dict[str, dict[str, np.ndarray]] = {}
    for wanted, kind, level in ((gauge, PRODUCTS, "head"), (spectral, SPECTRA, "matrix")):
        if wanted and level in levels:
            more[level] = {str(c.name): table for c, table in measure(run, kind, threads, watch)}
    table = pd.DataFrame(_table(sums, Rates(run.scalars), levels, more), columns=[*COLUMNS, *GAUGE, *SPECTRAL])
    return table[[*COLUMNS, *(GAUGE if gauge else []), *(SPECTRAL if spectral else [])]]


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
        owners: (3, rows): the numbers of the part, the matrix and the layer that each row belongs to.
        copied: (rows,): whether the row's layer is as a whole the copy of its donor.
    """

    parts: tuple[Part, ...]
    owners: np.ndarray
    copied: np.ndarray

    def moments(self, rows: np.ndarray) -> list[Moments]:
        """The sums of each part."""
        sums, whole = np.zeros((len(self.parts), rows.shape[1])), rows.copy()
        whole[~self.copied, 4] = np.nan
        for owner, added in zip(self.owners, (rows, whole, whole), strict=True):
            np.add.at(sums, owner, added)
        return [Moments(*row) for row in sums.tolist()]


def _plan(checkpoint: Checkpoint) -> Plan:
    parts: dict[str, Part] = {}
    places: dict[str, int] = {}
    owners: list[tuple[int, int, int]] = []
    copied: list[bool] = []

    def place(part: Part) -> int:
        parts.setdefault(part.name, part)
        return places.setdefault(part.name, len(places))

    sizes = checkpoint.anatomy.sizes(checkpoint.config)
    for id in checkpoint.lineage.stack:
        layer, member = checkpoint.lineage.layers[id], sizes["member"]
        born, theirs = layer.birth.step, layer.birth.donor
        own = sizes | alive(sizes, *checkpoint.lineage.shape(id))
        whole = place(Part(id, "layer", id, theirs, born))
        for name in follow.names(checkpoint, id):
            matrix = place(Part(f"{id}.{name}", "matrix", id, theirs and f"{theirs}.{name}", born))
            for label in checkpoint.anatomy.labels(name, own):
                came = ".".join(donor(layer, label, member) or ()) or None
                level, since = part_of(id, label).level, birth(layer, label, member).step
                part = place(Part(f"{id}.{label}", level, id, came, since))
                owners.append((part, matrix, whole))
                copied.append(_is_copy(layer))
    return Plan(tuple(parts.values()), np.array(owners, dtype=int).reshape(-1, 3).T, np.array(copied, dtype=bool))


def _is_copy(layer: Layer) -> bool:
    """Whether every head of a layer is the copy of one of the layer's donor, in its place."""
    donor = layer.birth.donor
    return donor is not None and all(
        birth.donor == f"{donor}.{head.partition('.')[2]}" for head, birth in layer.heads.items()
    )


def _table(
    sums: Sequence[tuple[Checkpoint, np.ndarray]],
    rates: Rates,
    levels: set[str],
    more: dict[str, dict[str, np.ndarray]],
) -> Iterator[tuple[object, ...]]:
    """The rows of all checkpoints in order."""
    plans: dict[object, Plan] = {}
    paths: dict[str, float] = {}
    before: int | None = None
    for checkpoint, rows in sums:
        lineage = checkpoint.lineage
        shape = (tuple(lineage.stack), tuple(lineage.shapes()), tuple(checkpoint.files))
        try:
            if shape not in plans:
                plans = {shape: _plan(checkpoint)}
            extra = _extra(checkpoint, {level: tables.get(str(checkpoint.name)) for level, tables in more.items()})
            parts, moments = plans[shape].parts, plans[shape].moments(rows)
        except follow.MISFITS as error:
            raise BadInput(f"{checkpoint.path}: its weights do not fit its lineage ({error})") from None
        norms = {part.name: sums.now**0.5 for part, sums in zip(parts, moments, strict=True)}
        for part, sums_of_part in zip(parts, moments, strict=True):
            stepped, newborn = sums_of_part.stepped**0.5, part.name not in paths
            paths[part.name] = paths.get(part.name, 0.0) + stepped
            if part.level in levels:
                of_steps = 0.0 if newborn or before is None else rates.between(part.layer, before, checkpoint.step)
                row = _row(checkpoint, part, sums_of_part, paths[part.name], of_steps, norms.get(part.donor or "", 0.0))
                yield (*row, *extra.get(part.name, NOTHING))
        before = checkpoint.step


def _row(
    checkpoint: Checkpoint, part: Part, moments: Moments, path: float, rates: float, donor: float
) -> tuple[object, ...]:
    """A part at a checkpoint: what stands in `COLUMNS`.

    Args:
        path: its way so far.
        rates: the sum of learning rates since the checkpoint before.
        donor: the norm of its donor, 0 where it has none.
    """
    relative, absolute = moments.relative_l2()
    moved, scale = moments.difference**0.5, rates * moments.now**0.5
    return (
        part.name,
        part.layer,
        str(checkpoint.name),
        checkpoint.step,
        checkpoint.step - part.born,
        checkpoint.tokens,
        checkpoint.lineage.index(part.layer),
        relative,
        moments.cosine(),
        absolute,
        part.level,
        (moments.difference / moments.count) ** 0.5 if moments.count else 0.0,
        path,
        moved / path if path > 0 else NAN,
        moments.stepped**0.5 / scale if scale > 0 else NAN,
        part.donor,
        moments.apart**0.5 / donor if donor > 0 else NAN,
    )


def _extra(checkpoint: Checkpoint, tables: dict[str, np.ndarray | None]) -> dict[str, tuple[float, ...]]:
    """Part → the columns that were asked for, as far as its level has them."""
    found: dict[str, tuple[float, ...]] = {}
    lineage = checkpoint.lineage
    if (table := tables.get("head")) is not None:
        heads = [head for id in lineage.stack for head in lineage.layers[id].heads]
        found |= {head: (*row, NAN, NAN, NAN) for head, row in zip(heads, table.tolist(), strict=True)}
    if (table := tables.get("matrix")) is not None:
        matrices = [f"{id}.{name}" for id in lineage.stack for name in follow.names(checkpoint, id)]
        found |= {matrix: (NAN, NAN, *row) for matrix, row in zip(matrices, table.tolist(), strict=True)}
    return found


class Rates:
    """The learning rates of a run as training logged them: in a straight line between logs, level outside them."""

    def __init__(self, scalars: Scalars) -> None:
        self._scalars = scalars
        self._known: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray] | None] = {}

    def between(self, layer: str, start: int, end: int) -> float:
        """The sum over the updates after `start` up to and with `end`; NaN when none were logged."""
        if layer not in self._known:
            self._known[layer] = self._of(layer)
        logged = self._known[layer]
        if logged is None:
            return NAN
        return self._until(end, *logged) - self._until(start, *logged)

    def _of(self, layer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        own = self._scalars.of(run_folder.LR_OF_LAYER + layer)
        logged = own if len(own.steps) else self._scalars.of(run_folder.LR)
        if not len(logged.steps):
            return None
        steps = np.concatenate([[0.0], logged.steps.astype(np.float64)])
        values = np.concatenate([logged.values[:1], logged.values]).astype(np.float64)
        widths = np.diff(steps)
        pieces = widths * (values[:-1] + values[1:]) / 2 + (values[1:] - values[:-1]) / 2
        return steps, values, np.concatenate([[0.0], np.cumsum(np.where(widths > 0, pieces, 0.0))])

    def _until(self, step: int, steps: np.ndarray, values: np.ndarray, sums: np.ndarray) -> float:
        """Σ of the rates of updates 1 to `step`: an arithmetic series from one log to the next."""
        at = int(np.searchsorted(steps, step, side="right")) - 1
        value = float(np.interp(step, steps, values))
        width = step - steps[at]
        return float(sums[at] + (width * (values[at] + value) / 2 + (value - values[at]) / 2 if width > 0 else 0.0))
