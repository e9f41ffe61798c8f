"""Read the scalars of a run, also while it is written."""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pli_analysis import columns as col
from pli_analysis.scalars import downloads, events, record_layouts, records
from pli_analysis.scalars.events import NOTHING, Columns, Segment
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
LFS = b"version https://git-lfs"
"""How a file begins that Git LFS left in place of the one it stands for."""
CHUNK = 2**26
"""Bytes of a file that are read at once: what reading takes in memory is a few times that."""


@dataclass(frozen=True)
class Scalars:
    """What a run logged.

    Attributes:
        columns: tag → its points, each step once, by step.
        damaged: a line for each file with records that could not be read.
        epochs: tags whose steps are epochs.
    """

    columns: Mapping[str, Columns] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    epochs: frozenset[str] = frozenset()

    @cached_property
    def values(self) -> dict[str, dict[int, tuple[float, float]]]:
        """The same as tag → {step: (wall time in seconds since 1970, value)}: handy, and many times the memory."""
        found = {}
        for tag, (steps, wall_times, values) in self.columns.items():
            found[tag] = dict(zip(steps.tolist(), zip(wall_times.tolist(), values.tolist(), strict=True), strict=True))
        return found

    def of(self, tag: str) -> Columns:
        """The points of one scalar; none when it was not logged."""
        return self.columns.get(tag, NOTHING)

    def at(self, tag: str, step: int) -> float | None:
        """One scalar at one step; None when it was not logged there."""
        steps, _, values = self.of(tag)
        position = int(np.searchsorted(steps, step))
        return float(values[position]) if position < len(steps) and steps[position] == step else None

    def table(self, tag: str) -> pd.DataFrame:
        """One scalar as a table: `step`, `value`, `wall_time` (seconds since 1970); empty when it was not logged."""
        import pandas as pd

        steps, wall_times, values = self.of(tag)
        return pd.DataFrame({col.STEP: steps, col.VALUE: values, col.WALL_TIME: wall_times})

    def tidy(self, run: str) -> pd.DataFrame:
        """All points as one table, by tag and step: `run`, `tag`, `step`, `wall_time` (seconds since 1970), `value`.

        The first two are categorical: a name a row would take most of the time and the memory.
        """
        import pandas as pd

        tags = sorted(self.columns)
        sizes = [len(self.columns[tag].steps) for tag in tags]
        columns = [np.concatenate(parts) for parts in zip(NOTHING, *(self.columns[tag] for tag in tags), strict=True)]
        of_rows = np.repeat(np.arange(len(tags)), sizes)
        names = {
            col.RUN: pd.Categorical.from_codes(of_rows * 0, [run]),
            col.TAG: pd.Categorical.from_codes(of_rows, tags),
        }
        return pd.DataFrame(names | dict(zip([col.STEP, col.WALL_TIME, col.VALUE], columns, strict=True)))

    def only(self, patterns: Sequence[str]) -> Scalars:
        """Those whose tags are one of the patterns, or match one (`grad_norm/*`).

        Raises:
            BadInput: when a pattern matches none.
        """
        chosen = set()
        for pattern in patterns:
            matched = {tag for tag in self.columns if tag == pattern or fnmatchcase(tag, pattern)}
            if not matched:
                raise BadInput(f"no scalar matches {pattern!r}; {list_tags(self.columns)}")
            chosen |= matched
        kept = {tag: columns for tag, columns in self.columns.items() if tag in chosen}
        return Scalars(kept, self.damaged, self.epochs & chosen)


def only(runs: Mapping[str, Scalars], patterns: Sequence[str]) -> dict[str, Scalars]:
    """Those scalars of several runs whose tags match: see `Scalars.only`. A run without any is left out.

    Raises:
        BadInput: when a pattern matches in no run.
    """
    every = Scalars({tag: NOTHING for logged in runs.values() for tag in logged.columns})
    chosen = every.only(patterns).columns
    kept = {
        run: Scalars({tag: of for tag, of in logged.columns.items() if tag in chosen}, logged.damaged, logged.epochs)
        for run, logged in runs.items()
    }
    return {run: logged for run, logged in kept.items() if logged.columns}


def tidy(runs: Mapping[str, Scalars]) -> pd.DataFrame:
    """All points of several runs as one table, run by run: see `Scalars.tidy`."""
    import pandas as pd

    parts = [logged.tidy(run) for run, logged in runs.items()]
    if len(parts) == 1:
        return parts[0]
    table = pd.concat([part.astype({col.RUN: str, col.TAG: str}) for part in parts], ignore_index=True)
    return table.astype({col.RUN: "category", col.TAG: "category"})


def epochs_of(tags: Iterable[str]) -> frozenset[str]:
    """Tags of event files whose steps are epochs, by the names that Keras gives them: `epoch_loss`.

    >>> sorted(epochs_of(["epoch_loss", "train/epoch_loss", "train_loss_epoch", "run-train-tag-epoch_loss"]))
    ['epoch_loss', 'run-train-tag-epoch_loss', 'train/epoch_loss']
    """
    return frozenset(tag for tag in tags if re.split(r"/|tag-", tag)[-1].startswith("epoch_"))


def list_tags(tags: Iterable[str]) -> str:
    """The tags there are, in a few words for an error."""
    known = sorted(tags)
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return f"there are: {', '.join(known[:12]) or 'none'}{more}"


def read(path: Path, check: bool = True) -> Scalars:
    """Every scalar of a run folder, a folder with event files, one event file, or a download of one scalar.

    Files are read in the order that processes wrote them. One cut short (its process was killed) is read up to the cut.
    Where a later process resumed from an earlier step, its values stand. A download's tag is its file's stem.

    Args:
        path: of any of them.
        check: whether each record of an event file is held against its checksum.

    Raises:
        BadInput: when the path is not there, or a download is none.
    """
    found = Reader(path, check).update()
    points = sum(len(of.steps) for of in found.columns.values())
    _log.debug("%s: %d scalars, %d points", path, len(found.columns), points)
    return found


@dataclass
class _Tail:
    """How far one file was read, and what it said up to there.

    Attributes:
        offset: where the first record begins that is not whole, or whose length is wrong and none lies behind it.
        segment: what was read.
        skipped: bytes from records with a wrong length up to the next one.
        lost: bytes from `offset` on where the length there is wrong.
    """

    offset: int = 0
    segment: Segment = field(default_factory=lambda: Segment({}))
    skipped: int = 0
    lost: int = 0

    @property
    def damage(self) -> str:
        """How many records are damaged, and how many bytes lie behind wrong lengths; empty for none."""
        count = self.segment.damaged + bool(self.lost)
        skipped = self.skipped + self.lost
        bytes_ = f", and {skipped:,} bytes passed over behind a wrong length" if skipped else ""
        return f"{count} damaged record{'s' * (count > 1)}{bytes_}" if count else ""


class Reader:
    """Scalars of something that may still be written to: each update reads what was appended since the last one.

    >>> reader = Reader(Path("runs/tiny"))  # doctest: +SKIP
    >>> reader.update().of("train/loss").values[-1]  # doctest: +SKIP
    3.97

    Args:
        path: as for `read`.
        check: as for `read`.
    """

    def __init__(self, path: Path, check: bool = True) -> None:
        self.path, self.check = path, check
        self._tails: dict[Path, _Tail] = {}

    def update(self) -> Scalars:
        """All scalars up to now: the same as a fresh `read` gives, and with its errors.

        A record cut short is waited for. New files are picked up, and one that became shorter is read anew.
        """
        if not self.path.exists():
            raise BadInput(f"{self.path}: no such file or folder")
        if self.path.suffix in downloads.ENDINGS and self.path.is_file():
            return _of_download(self.path)
        is_file = self.path.is_file()
        files = [self.path] if is_file else sorted(self.path.glob(run_folder.SCALARS), key=_begun)
        self._tails = {file: _read_on(file, self._tails.get(file, _Tail()), self.check) for file in files}
        whole = reduce(Segment.then, (tail.segment for tail in self._tails.values()), Segment({}))
        lines = [f"{path}: {_pointer(path) or tail.damage}" for path, tail in self._tails.items() if tail.damage]
        return Scalars(whole.columns, lines, epochs_of(whole.columns))

    def segments(self) -> dict[Path, Segment]:
        """What each file says by itself up to the last update, in the order that processes wrote them."""
        return {path: tail.segment for path, tail in self._tails.items()}


def _read_on(path: Path, tail: _Tail, check: bool) -> _Tail:
    """What a file says up to its end, when `tail` is known already."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            offset, segments, skipped, limit = tail.offset, [tail.segment], tail.skipped, CHUNK
            if size < offset:
                offset, segments, skipped = 0, [Segment({})], 0
            while offset + records.HEAD <= size:
                file.seek(offset)
                data = file.read(limit)
                found = records.find(data, check)
                if found.end == 0 and not found.lost:  # the first record is longer than what was read
                    needed = records.FRAME + records.LENGTH.unpack_from(data)[0]
                    if len(data) < limit or offset + needed > size:
                        break  # it is cut short
                    limit = needed
                    continue
                segment = events.decode(data, found)
                segments.append(Segment(segment.columns, segment.forgets, segment.damaged + found.damaged))
                offset, limit = offset + found.end, CHUNK
                if found.lost:
                    after = _next_record(file, offset + 1)
                    if after is None:
                        return _Tail(offset, reduce(Segment.then, segments), skipped, size - offset)
                    segments.append(Segment({}, damaged=1))
                    offset, skipped = after, skipped + after - offset
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    return _Tail(offset, reduce(Segment.then, segments), skipped)


def _next_record(file: BinaryIO, begin: int) -> int | None:
    """Where the next record begins, from a place of a file on; None when there is none."""
    while True:
        file.seek(begin)
        data = file.read(CHUNK)
        found = records.next_head(data, 0)
        if found is not None:
            return begin + found
        if len(data) < CHUNK:
            return None
        begin += len(data) - records.HEAD + 1


def _pointer(path: Path) -> str:
    """That Git LFS left a pointer in place of the file, if it did."""
    with path.open("rb") as file:
        is_one = file.read(len(LFS)) == LFS
    return "is a pointer of Git LFS, not the file itself: `git lfs pull` gets it" if is_one else ""


def _of_download(path: Path) -> Scalars:
    wall_times, steps, values = downloads.read(path).T
    columns = events.sorted_by_step(Columns(steps.astype(np.int64), wall_times, values))
    found = {path.stem: columns} if len(steps) else {}
    return Scalars(found, epochs=epochs_of(found))


def _begun(path: Path) -> tuple[int, float, str]:
    """What puts a file in its place: the number in its name, then when it was begun by its first record.

    Our own numbers grow whatever the clock does. Other writers' names tell the second alone: two processes of one
    second would swap places.
    """
    return run_folder.order_of(path), begun(path), path.name


def begun(path: Path) -> float:
    """When an event file was begun by its first record, in seconds since 1970; 0 where it does not say."""
    try:
        with path.open("rb") as file:
            first = file.read(21)[12:]
    except OSError:
        first = b""
    whole = len(first) == 9 and first[0] == record_layouts.WALL_TIME
    return float(struct.unpack("<d", first[1:])[0]) if whole else 0.0
