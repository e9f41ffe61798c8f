"""Check every checkpoint of a run against its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder

WHOLE = "whole"
DAMAGED = "damaged"
INCOMPLETE = "incomplete"


def verify(run: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Iterator[dict[str, Any]]:
    """Read every byte of a run's checkpoints; yield a row for each, in order.

    Args:
        run: folder of the run.
        on_progress: function that is called with (checkpoints read, total number of checkpoints).

    Yields:
        checkpoint; files and bytes found on disk; state: `whole`, `incomplete` (it was being written, or files are
        missing) or `damaged`; flaws: the problems in words, or None.

    Raises:
        BadInput: if the folder is not a run's, or has no checkpoint.
    """
    run_folder.require_run(run)
    run_folder.read_json(run / run_folder.RUN)
    checkpoints = run_folder.checkpoints(run)
    if not checkpoints:
        raise BadInput(f"{run}: holds no checkpoint")
    last = Lineage()
    try:
        last = Lineage.read(run / run_folder.LINEAGE)
        problem = None
    except BadInput as error:
        problem = str(error)
    if problem:
        yield {"checkpoint": "", "files": 1, "bytes": None, "state": DAMAGED, "flaws": problem}
    for done, (name, path) in enumerate(checkpoints):
        on_progress(done, len(checkpoints))
        yield _row(str(name), path, None if problem else last)
    on_progress(len(checkpoints), len(checkpoints))
    for path in sorted(run.glob(f"{run_folder.PARTIAL}*")):
        if path.is_dir() and not path.is_symlink():
            yield {"checkpoint": path.name, **_size(path), "state": INCOMPLETE, "flaws": "was being written"}


def is_damage(row: dict[str, Any]) -> bool:
    """Return whether a row reports damage. Files being written when a run was killed are not counted as damage."""
    return row["state"] != WHOLE and not row["checkpoint"].startswith(run_folder.PARTIAL)


def _row(name: str, path: Path, run: Lineage | None) -> dict[str, Any]:
    row = {"checkpoint": name, **_size(path)}
    try:
        files = run_folder.listed(path)
    except BadInput as error:
        absent = not (path / run_folder.MANIFEST).exists()
        return row | {"state": INCOMPLETE if absent else DAMAGED, "flaws": str(error)}
    flaws = [
        flaw for file, entry in files.items() if (flaw := run_folder.flaw_of_file(path / file, entry, hashes=True))
    ]
    state = INCOMPLETE if any(flaw.startswith("lacks ") for flaw in flaws) else DAMAGED
    if run is not None and not flaws and (unlike := _lineage_problem(path / run_folder.LINEAGE, run)):
        flaws.append(unlike)
    return row | ({"state": state, "flaws": "; ".join(flaws)} if flaws else {"state": WHOLE, "flaws": None})


def _lineage_problem(path: Path, run: Lineage) -> str | None:
    """Return how a checkpoint's lineage differs from the run's after as many events, or None."""
    try:
        lineage = Lineage.read(path)
    except BadInput as error:
        return str(error).removeprefix(f"{path.parent}/")
    expected = run.as_of(len(lineage.events))
    return None if lineage.to_json() == expected.to_json() else f"its {path.name} differs from the run's at that event"


def _size(path: Path) -> dict[str, int]:
    files = [file for file in path.iterdir() if file.is_file() and not file.is_symlink()] if path.is_dir() else []
    return {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}
