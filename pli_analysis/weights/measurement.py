"""Measure every tensor at every checkpoint, in threads, with a cache.

The measures of a checkpoint depend on its own weights, those of the previous checkpoint, and birth weights. So they are
cached under a hash of the hashes of these files: a second call reads no weights, a call during training reads only new
checkpoints and those that they are compared with, and twins share the results of common checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pli_analysis.weights import trajectory
from pli_analysis.weights.buffers import BufferPool
from pli_analysis.weights.content_hash import content
from pli_train.core import cache
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import ProgressCallback, Run

WINDOW = 64
"""Maximum number of checkpoints measured at once, which bounds the work that an interruption loses."""
OPEN = 128
"""Maximum number of open files over all threads: half of the smallest usual limit of a process."""


class Task(Protocol):
    """A unit of work for a thread: one tensor, or several that are measured together."""

    @property
    def tracks(self) -> Sequence[trajectory.TensorTrajectory]:
        """The tensors that it reads."""

    def run(self, pool: BufferPool) -> list[np.ndarray]:
        """Return one array (rows, columns) for each wanted visit, in order."""


@dataclass(frozen=True)
class Kind:
    """A kind of measure.

    Attributes:
        name: its name, and that of its folder in the cache.
        version: part of cache keys; increase it when the numbers change.
        columns: number of columns of a row.
        tasks: function that returns the tasks for some trajectories, in the order of rows of a checkpoint's table.
        donors: whether donors are read.
    """

    name: str
    version: int
    columns: int
    tasks: Callable[[list[trajectory.TensorTrajectory]], Sequence[Task]]
    donors: bool = False


def measure(
    run: Run, kind: Kind, threads: int = 1, on_progress: ProgressCallback = lambda done, total: None
) -> list[tuple[Checkpoint, np.ndarray]]:
    """Measure each checkpoint: (rows, columns), with rows in the order of its stack and of the kind's tasks.

    Args:
        threads: number of threads. Nearly all of their work releases Python's global lock.
        on_progress: called with (tasks done, tasks in total), for results that are not in the cache.

    Raises:
        BadInput: if weights cannot be read or do not match the lineage, or birth weights are in no checkpoint.
    """
    checkpoints = list(run.checkpoints)
    known: dict[str, np.ndarray] = {}
    while True:
        try:
            grown = trajectory.growths(checkpoints, run.path)
            keys = _keys(checkpoints, grown, kind)
            _fill(checkpoints, grown, keys, kind, known, threads, on_progress)
            for checkpoint in checkpoints:
                _ = (
                    checkpoint.files,
                    checkpoint.config,
                    checkpoint.tokens,
                )  # read now, as the checkpoint may be removed before tables need them
            return [(checkpoint, known[key]) for checkpoint, key in zip(checkpoints, keys, strict=True)]
        except (BadInput, FileNotFoundError) as error:
            # A run that is training may have removed checkpoints by its retention rules, but none with a birth.
            left = [checkpoint for checkpoint in checkpoints if checkpoint.is_there]
            if len(left) == len(checkpoints) or not left:
                if isinstance(error, BadInput):
                    raise
                raise BadInput(f"{error.filename}: {error.strerror}") from None
            checkpoints = left


def _fill(
    checkpoints: list[Checkpoint],
    grown: dict[str, list[int]],
    keys: list[str],
    kind: Kind,
    known: dict[str, np.ndarray],
    threads: int,
    on_progress: ProgressCallback,
) -> None:
    """Measure the checkpoints that are neither in `known` nor in the cache."""
    for key in keys:
        if key not in known and (kept := _cached(kind, key)) is not None:
            known[key] = kept
    missing = [number for number, key in enumerate(keys) if key not in known]
    for start in range(0, len(missing), WINDOW):
        wanted = missing[start : start + WINDOW]
        tasks = kind.tasks(trajectory.tracks(checkpoints, grown, wanted, kind.donors))
        rows: dict[int, list[tuple[str, str, np.ndarray]]] = {number: [] for number in wanted}
        for task, found in zip(tasks, _shared(tasks, threads, on_progress), strict=True):
            first = task.tracks[0]
            visits = [visit for visit in first.visits if visit.wanted]
            for visit, measured in zip(visits, found, strict=True):
                rows[visit.number].append((first.id, first.name, measured))
        for number in wanted:
            position = {id: index for index, id in enumerate(checkpoints[number].lineage.stack)}
            ordered = sorted((position[id], name, measured) for id, name, measured in rows[number])
            table = np.concatenate([np.empty((0, kind.columns)), *(measured for *_, measured in ordered)])
            known[keys[number]] = table
            _keep(kind, keys[number], table)


def _shared(tasks: Sequence[Task], threads: int, on_progress: ProgressCallback) -> Iterator[list[np.ndarray]]:
    """Run tasks in threads; yield their results in order."""
    own, pools = threading.local(), []

    def run(task: Task) -> list[np.ndarray]:
        if not hasattr(own, "pool"):
            own.pool = BufferPool(files=OPEN // threads)
            pools.append(own.pool)
        return task.run(own.pool)

    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    try:
        on_progress(0, len(tasks))
        for done, result in enumerate(pool.map(run, tasks) if pool else map(run, tasks), 1):
            yield result
            on_progress(done, len(tasks))
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        for pool in pools:
            pool.files.close()


def _keys(checkpoints: Sequence[Checkpoint], grown: dict[str, list[int]], kind: Kind) -> list[str]:
    """Return a cache key for each checkpoint: a hash of the contents that its measures depend on, or else names."""
    births = sorted({number for numbers in grown.values() for number in numbers})
    contents = [content(checkpoint) for checkpoint in checkpoints]
    keys = []
    for number, checkpoint in enumerate(checkpoints):
        used = [*(birth for birth in births if birth <= number), *([number - 1] if number else []), number]
        inputs = [contents[at] for at in used]
        if None in inputs:
            keys.append("/".join(["", str(checkpoint.name), *(str(checkpoints[at].name) for at in used)]))
            continue
        document = json.dumps([kind.name, kind.version, kind.columns, inputs])
        keys.append(hashlib.sha256(document.encode()).hexdigest())
    return keys


def _cached(kind: Kind, key: str) -> np.ndarray | None:
    return None if key.startswith("/") else cache.get_array(f"{kind.name}/{key}", (-1, kind.columns))


def _keep(kind: Kind, key: str, table: np.ndarray) -> None:
    if not key.startswith("/"):
        cache.put_array(f"{kind.name}/{key}", table)
