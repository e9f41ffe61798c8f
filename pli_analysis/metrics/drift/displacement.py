"""Sums of squares behind drift, and spectra of weight changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.drift.products import spectrum
from pli_analysis.weights import numba_kernel, trajectory
from pli_analysis.weights.blocks import has_donor
from pli_analysis.weights.buffers import BufferPool
from pli_analysis.weights.chunks import segments
from pli_analysis.weights.measurement import Kind
from pli_analysis.weights.moments import Squares
from pli_analysis.weights.numba_kernel import Kernel
from pli_analysis.weights.trajectory import Pair, TensorTrajectory
from pli_train.core.errors import MISFITS

GAUGE = [col.QK_DISTANCE, col.OV_DISTANCE]
SPECTRAL = [col.RELATIVE_SPECTRAL_NORM, col.STABLE_RANK, col.EFFECTIVE_RANK]
NAN = float("nan")


@dataclass(frozen=True)
class Moments:
    """Sums of squares of several parts, over the current weights θ and birth weights β of all tensors of each part.

    Attributes:
        now, birth, difference: Σ θ², Σ β² and Σ (θ − β)², (parts,) each.
        stepped: Σ (θ − θ at the previous checkpoint)².
        donor_difference, donor: Σ (θ − donor)² and Σ donor² over the weights copied from the donor; NaN without one.
        count: number of weights in the part.
    """

    now: np.ndarray
    birth: np.ndarray
    difference: np.ndarray
    stepped: np.ndarray
    donor_difference: np.ndarray
    donor: np.ndarray
    count: np.ndarray

    @property
    def are_finite(self) -> np.ndarray:
        """Whether all weights of each part are finite, now and at birth."""
        return np.isfinite(self.now) & np.isfinite(self.birth)

    def relative_l2(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ‖θ − β‖ ÷ ‖β‖ and False, or ‖θ − β‖ and True where β is zero."""
        zero = ~(self.birth > 0)
        with np.errstate(invalid="ignore"):  # infinity ÷ infinity
            return np.sqrt(self.difference) / np.where(zero, 1, np.sqrt(self.birth)), zero

    def cosine_distance(self) -> np.ndarray:
        """Return 1 − cos(θ, β); NaN where one of them is zero.

        It is computed as (‖θ − β‖² − (‖θ‖ − ‖β‖)²) ÷ (2 ‖θ‖ ‖β‖), which does not lose precision when both are nearly
        equal.
        """
        a, b = np.sqrt(self.now), np.sqrt(self.birth)
        stretch = ratio(self.now - self.birth, a + b)
        return ratio(np.maximum(self.difference - stretch**2, 0), 2 * a * b)


def ratio(numbers: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return quotients, NaN where the divisor is not above zero."""
    with np.errstate(invalid="ignore"):  # infinity ÷ infinity
        return np.divide(numbers, by, out=np.full(np.shape(by), NAN), where=by > 0)


@dataclass(frozen=True)
class Sums:
    """Task that computes the sums of `Moments` for each part of a tensor."""

    track: TensorTrajectory
    kernel: Kernel | None = None

    @property
    def tracks(self) -> Sequence[TensorTrajectory]:
        """The tensor that is read."""
        return (self.track,)

    def run(self, pool: BufferPool) -> list[np.ndarray]:
        """Return an array (parts, 7) for each wanted visit."""
        sums = self.kernel and numba_kernel.sums(self.track, pool, self.kernel)
        if sums is not None:
            return _rows(self.track, sums)
        squares = Squares(pool)
        found: dict[int, list[tuple[int, np.ndarray]]] = {}
        for first, segment in segments(self.track):
            for number, rows in _sums(segment, pool, squares):
                found.setdefault(number, []).append((first, rows))
        return [_added(of_segments) for _, of_segments in sorted(found.items())]


def _rows(track: TensorTrajectory, sums: np.ndarray) -> list[np.ndarray]:
    """Return an array (parts, 7) for each wanted visit, from the result of `numba_kernel.sums`."""
    outer, _, inner = track.folds(track.visits[0], track.visits[0].position.shape)
    sums[3:, [not has_donor(visit) for visit in track.visits]] = np.nan
    columns = np.broadcast_arrays(sums[0], sums[0, 0], *sums[1:], outer * inner)
    rows = np.stack(columns, axis=-1)
    return [rows[number] for number, visit in enumerate(track.visits) if visit.wanted]


def _sums(segment: TensorTrajectory, pool: BufferPool, squares: Squares) -> Iterator[tuple[int, np.ndarray]]:
    """Yield for each wanted visit the number of the checkpoint and the sums of each part, (parts, 7)."""
    birth, of_birth = None, np.zeros(0)
    for seen in segment.see(pool):
        try:
            folds = segment.folds(seen.visit, seen.now.shape)
            if birth is not seen.birth:
                birth, of_birth = seen.birth, squares(seen.birth.reshape(1, -1), [], folds)[0, 0]
            others = [array.reshape(1, -1) for array in (seen.birth, seen.previous)]
            now, difference, stepped = squares(seen.now.reshape(1, -1), others, folds)[:, 0]
            donor_difference, donor = _donor_sums(trajectory.counterpart(segment, seen, pool), squares)
        except MISFITS as error:
            raise trajectory.misfit(seen.visit.position.path.parent, segment.id, error) from None
        columns = (now, of_birth, difference, stepped, donor_difference, donor, folds[0] * folds[2])
        yield seen.visit.number, np.stack(np.broadcast_arrays(*columns), axis=-1)


def _donor_sums(pair: Pair | None, squares: Squares) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ (θ − donor)² and Σ donor² of each part; NaN for parts without a donor."""
    if pair is None or not pair.has.any():
        return np.array(NAN), np.array(NAN)
    if not pair.mine.size:
        return np.zeros(1), np.zeros(1)
    donor, difference = squares(pair.theirs.reshape(1, -1), [pair.mine.reshape(1, -1)], pair.folds)[:, 0]
    return np.where(pair.has, difference, NAN), np.where(pair.has, donor, NAN)


def _added(segments: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    """Add the sums of segments, each given with the number of its first part."""
    total = np.zeros((max(first + len(rows) for first, rows in segments), 7))
    for first, rows in segments:
        total[first : first + len(rows)] += rows
    return total


@dataclass(frozen=True)
class Spectra:
    """Task that computes `spectrum` of a tensor; NaN if it is not a matrix."""

    track: TensorTrajectory

    @property
    def tracks(self) -> Sequence[TensorTrajectory]:
        """The tensor that is read."""
        return (self.track,)

    def run(self, pool: BufferPool) -> list[np.ndarray]:
        """Return an array (1, 3) for each wanted visit."""
        nothing = (NAN,) * len(SPECTRAL)
        return [
            np.array([spectrum(seen.now, seen.birth) if seen.now.ndim == 2 else nothing])
            for seen in self.track.see(pool)
        ]


def _all_sums(tracks: list[TensorTrajectory]) -> list[Sums]:
    compiled = numba_kernel.kernel(sum(track.bytes for track in tracks))
    return [Sums(track, compiled) for track in _largest_first(tracks)]


def _largest_first(tracks: list[TensorTrajectory]) -> list[TensorTrajectory]:
    # Largest first, so that all threads finish at about the same time.
    return sorted(tracks, key=lambda track: -track.bytes)


SUMS = Kind("drift", 3, 7, _all_sums, donors=True)
SPECTRA = Kind("drift-spectral", 1, 3, lambda tracks: [Spectra(track) for track in _largest_first(tracks)])
