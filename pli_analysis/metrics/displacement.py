"""How far the parts of each tensor have moved: sums of squares, and the spectrum of what changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pli_analysis.metrics.heads import gauge_tasks
from pli_analysis.metrics.products import spectrum
from pli_analysis.weights import follow
from pli_analysis.weights.follow import Track
from pli_analysis.weights.fused import Kernel, kernel
from pli_analysis.weights.measured import Kind
from pli_analysis.weights.moments import Squares
from pli_analysis.weights.pieces import pieces
from pli_analysis.weights.rooms import Rooms

GAUGE, SPECTRAL = ["qk", "ov"], ["spectral", "stable_rank", "effective_rank"]
NAN = float("nan")


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


@dataclass(frozen=True)
class Sums:
    """The sums of `Moments` of each part of a tensor."""

    track: Track
    kernel: Kernel | None = None

    @property
    def tracks(self) -> Sequence[Track]:
        """The one."""
        return (self.track,)

    def run(self, rooms: Rooms) -> list[np.ndarray]:
        """(parts, 6) for each wanted visit."""
        found: dict[int, list[tuple[int, np.ndarray]]] = {}
        for first, piece in pieces(self.track):
            for number, rows in _sums(piece, rooms, self.kernel):
                found.setdefault(number, []).append((first, rows))
        return [_added(of_pieces) for _, of_pieces in sorted(found.items())]


def _sums(piece: Track, rooms: Rooms, kernel: Kernel | None) -> Iterator[tuple[int, np.ndarray]]:
    """For each wanted visit the number of the checkpoint, and the sums of each part: (parts, 6)."""
    birth, of_birth, squares = None, np.zeros(0), Squares(rooms, kernel)
    for seen in piece.see(rooms):
        try:
            folds = piece.folds(seen.visit, seen.now.shape)
            if birth is not seen.birth:
                birth, of_birth = seen.birth, squares(seen.birth, [], folds)[0]
            donor = follow.counterpart(piece, seen, rooms)
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


def _all_sums(tracks: list[Track]) -> list[Sums]:
    compiled = kernel(sum(track.bytes for track in tracks))
    return [Sums(track, compiled) for track in _largest_first(tracks)]


def _largest_first(tracks: list[Track]) -> list[Track]:
    # Then threads finish together.
    return sorted(tracks, key=lambda track: -track.bytes)


SUMS = Kind("drift", 2, 6, _all_sums, donors=True)
SPECTRA = Kind("drift-spectral", 1, 3, lambda tracks: [Spectra(track) for track in _largest_first(tracks)])
PRODUCTS = Kind("drift-gauge", 1, 2, gauge_tasks)
