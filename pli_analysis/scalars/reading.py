"""Read the scalars of a run, also while it is being written."""

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
"""First bytes of a Git LFS pointer file."""
CHUNK = 2**26
"""Number of bytes read at once; reading needs a few times as much memory."""


@dataclass(frozen=True)
class Scalars:
    """The scalars of a run.

    Attributes:
        columns: tag → points, sorted by step, each step once.
        damaged: a line for each file with records that could not be read.
        epochs: tags whose steps are epochs.
    """

    columns: Mapping[str, Columns] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    epochs: frozenset[str] = frozenset()

    @cached_property
    def values(self) -> dict[str, dict[int, tuple[float, float]]]:
        """The points as tag → {step: (wall time in seconds since 1970, value)}; needs much more memory."""
        found = {}
        for tag, (steps, wall_times, values) in self.columns.items():
            found[tag] = dict(zip(steps.tolist(), zip(wall_times.tolist(), values.tolist(), strict=True), strict=True))
        return found

    def of(self, tag: str) -> Columns:
        """Return the points of a scalar; empty if it was not logged."""
        return self.columns.get(tag, NOTHING)

    def at(self, tag: str, step: int) -> float | None:
        """Return the value of a scalar at a step; None if it was not logged there."""
        steps, _, values = self.of(tag)
        position = int(np.searchsorted(steps, step))
        return float(values[position]) if position < len(steps) and steps[position] == step else None

    def table(self, tag: str) -> pd.DataFrame:
        """Return a scalar as a table: `step`, `value`, `wall_time` (seconds since 1970); empty if it was not logged."""
        import pandas as pd

        steps, wall_times, values = self.of(tag)
        return pd.DataFrame({col.STEP: steps, col.VALUE: values, col.WALL_TIME: wall_times})

    def tidy(self, run: str) -> pd.DataFrame:
        """Return all points as one table: `run`, `tag`, `step`, `wall_time` (seconds since 1970), `value`.

        Rows are sorted by tag and step. `run` and `tag` are categorical, because one string per row would take most of
        the time and memory.
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
        """Return the scalars whose tags equal or match a pattern (`grad_norm/*`).

        Raises:
            BadInput: when a pattern matches no tag.
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
    """Return the scalars of several runs whose tags match, without runs that have none; see `Scalars.only`.

    Raises:
        BadInput: when a pattern matches in no run.
    """
    all_tags = Scalars({tag: NOTHING for logged in runs.values() for tag in logged.columns})
    chosen = all_tags.only(patterns).columns
    kept = {
        run: Scalars({tag: of for tag, of in logged.columns.items() if tag in chosen}, logged.damaged, logged.epochs)
        for run, logged in runs.items()
    }
    return {run: logged for run, logged in kept.items() if logged.columns}


def tidy(runs: Mapping[str, Scalars]) -> pd.DataFrame:
    """Return all points of several runs as one table, run by run; see `Scalars.tidy`."""
    import pandas as pd

    parts = [logged.tidy(run) for run, logged in runs.items()]
    if len(parts) == 1:
        return parts[0]
    table = pd.concat([part.astype({col.RUN: str, col.TAG: str}) for part in parts], ignore_index=True)
    return table.astype({col.RUN: "category", col.TAG: "category"})


def epochs_of(tags: Iterable[str]) -> frozenset[str]:
    """Return the tags whose steps are epochs, by Keras' naming: `epoch_loss`.

    >>> sorted(epochs_of(["epoch_loss", "train/epoch_loss", "train_loss_epoch", "run-train-tag-epoch_loss"]))
    ['epoch_loss', 'run-train-tag-epoch_loss', 'train/epoch_loss']
    """
    return frozenset(tag for tag in tags if re.split(r"/|tag-", tag)[-1].startswith("epoch_"))


def list_tags(tags: Iterable[str]) -> str:
    """List the known tags for an error message, at most twelve."""
    known = sorted(tags)
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return f"there are: {', '.join(known[:12]) or 'none'}{more}"


def read(path: Path, check: bool = True) -> Scalars:
    """Read all scalars of a run folder, a folder with event files, one event file, or a download of one scalar.

    Files are read in the order in which processes wrote them. A truncated file (its process was killed) is read up to
    the cut. If a later process resumed from an earlier step, its values count. The tag of a download is its file name
    without suffix.

    Args:
        path: the file or folder.
        check: whether to verify the checksum of each record of an event file.

    Raises:
        BadInput: when the path does not exist, or a download is not valid.
    """
    found = Reader(path, check).update()
    points = sum(len(of.steps) for of in found.columns.values())
    _log.debug("%s: %d scalars, %d points", path, len(found.columns), points)
    return found


@dataclass
class _Tail:
    """The position up to which a file was read, and the scalars up to there.

    Attributes:
        offset: position of the first record that is incomplete, or that has a wrong length and no record after it.
        segment: the scalars read.
        skipped: number of bytes skipped after wrong lengths, up to the next record.
        lost: number of bytes from `offset` on, if the length there is wrong.
    """

    offset: int = 0
    segment: Segment = field(default_factory=lambda: Segment({}))
    skipped: int = 0
    lost: int = 0

    @property
    def damage(self) -> str:
        """Describe the number of damaged records and of bytes after wrong lengths; empty if there are none."""
        count = self.segment.damaged + bool(self.lost)
        skipped = self.skipped + self.lost
        bytes_ = f", and {skipped:,} bytes skipped after a wrong length" if skipped else ""
        return f"{count} damaged record{'s' * (count > 1)}{bytes_}" if count else ""


class Reader:
    """Read scalars of a run that may still be written: each update reads what was appended since the last one.

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
        """Return all scalars up to now, with the same result and errors as `read`.

        An incomplete record at the end is read once it is complete. New files are included, and a file that became
        shorter is read from its start.
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
        """Return the scalars of each file at the last update, in the order in which processes wrote them."""
        return {path: tail.segment for path, tail in self._tails.items()}


def _read_on(path: Path, tail: _Tail, check: bool) -> _Tail:
    """Read a file from `tail` to its end."""
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
                if found.end == 0 and not found.lost:  # the first record is longer than the bytes read
                    needed = records.FRAME + records.LENGTH.unpack_from(data)[0]
                    if len(data) < limit or offset + needed > size:
                        break  # the record is incomplete
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
    """Return the position of the next record at or after `begin`; None if there is none."""
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
    """Return an error line if the file is a Git LFS pointer; else an empty string."""
    with path.open("rb") as file:
        is_one = file.read(len(LFS)) == LFS
    return "is a pointer of Git LFS, not the file itself: `git lfs pull` gets it" if is_one else ""


def _of_download(path: Path) -> Scalars:
    wall_times, steps, values = downloads.read(path).T
    columns = events.sorted_by_step(Columns(steps.astype(np.int64), wall_times, values))
    found = {path.stem: columns} if len(steps) else {}
    return Scalars(found, epochs=epochs_of(found))


def _begun(path: Path) -> tuple[int, float, str]:
    """Return the sort key of an event file: the number in its name, then the time of its first record.

    Numbers of pli-train increase whatever the clock does. Names by other writers have a resolution of one second, which
    does not order two processes of the same second.
    """
    return run_folder.order_of(path), begun(path), path.name


def begun(path: Path) -> float:
    """Return the time of the first record of an event file, in seconds since 1970; 0 if it has none."""
    try:
        with path.open("rb") as file:
            first = file.read(21)[12:]
    except OSError:
        first = b""
    whole = len(first) == 9 and first[0] == record_layouts.WALL_TIME
    return float(struct.unpack("<d", first[1:])[0]) if whole else 0.0
