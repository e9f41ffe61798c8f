"""The runs in a folder, and the state of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_analysis import columns as col
from pli_analysis.runs import paths
from pli_analysis.runs.paths import Kind
from pli_analysis.runs.run import Run
from pli_analysis.watch.frame import Frame
from pli_analysis.watch.watcher import RunWatcher
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = [col.RUN, col.STATE, col.STEP, col.STEPS, col.LOSS, col.STACK, col.PARENT]
TRAINING, FINISHED, STOPPED, DAMAGED = "training", "finished", "stopped", "damaged"


def runs(folder: Path) -> pd.DataFrame:
    """Return a table of the runs in a folder.

    Args:
        folder: a folder of runs, or of folders with runs; or one run.

    Returns:
        Columns `run` (its path below the folder), `state` (`training` on this machine, `finished`, `stopped`, or
        `damaged` if its run.json cannot be read; for what other programs wrote, its kind), `step`, `steps` (in total),
        `loss` (the last eval loss, in nats per token), `stack` (layer ids from bottom to top), and `parent` (name of
        the run that it was forked from).

    Raises:
        BadInput: if there is no such folder, or nothing in it.
    """
    import pandas as pd

    found = paths.find(folder)
    if not found:
        raise BadInput(f"{folder}: holds no runs; `pli-train run` makes runs, under runs/ by default")
    rows = [_row(source, source.path.relative_to(folder) if source.path != folder else folder) for source in found]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys((col.STEP, col.STEPS), "Int64"))


def _row(source: paths.Source, name: Path) -> tuple[Any, ...]:
    """Return the row of a run. No weights are read."""
    shown = f"{name}//{source.run}" if source.run else str(name)
    if source.kind != Kind.RUN:
        return (shown, str(source.kind), *(None,) * (len(COLUMNS) - 2))
    try:
        frame = _frame(source.path)
    except BadInput:
        return (shown, DAMAGED, *(None,) * (len(COLUMNS) - 2))
    loss = float(frame.evals[-1]) if len(frame.evals) else None
    parent = (Run(source.path).parent or {}).get("name")
    return (shown, _state(frame), frame.step, frame.total, loss, " ".join(frame.stack), parent)


def _frame(path: Path) -> Frame:
    """Return the state of a run, without its drift."""
    watcher = RunWatcher(path, measure=lambda path, on_progress: {})
    try:
        return watcher.poll()
    finally:
        watcher.close()


def _state(frame: Frame) -> str:
    """Return the state of a run in a word."""
    if frame.training:
        return TRAINING
    return FINISHED if frame.finished else STOPPED
