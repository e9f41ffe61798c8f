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
    """Read a run's checkpoints to the last byte; yields a row for each, in order, as soon as it is known.

    Args:
        run: its folder.
        on_progress: told (checkpoints read, checkpoints in all).

    Yields:
        checkpoint; files and bytes, as they lie there; state: `whole`, `incomplete` (it was being written, or has
        lost files) or `damaged`; flaws: what is wrong, in words, None when nothing is.

    Raises:
        BadInput: when the folder is no run's, or holds no checkpoint.
    """
    run_folder.require_run(run)
    run_folder.read_json(run / run_folder.RUN)
    found = run_folder.checkpoints(run)
    if not found:
        raise BadInput(f"{run}: holds no checkpoint")
    last = Lineage()
    try:
        last = Lineage.read(run / run_folder.LINEAGE)
        whole = None
    except BadInput as error:
        whole = str(error)
    if whole:
        yield {"checkpoint": "", "files": 1, "bytes": None, "state": DAMAGED, "flaws": whole}
    for done, (name, path) in enumerate(found):
        on_progress(done, len(found))
        yield _row(str(name), path, None if whole else last)
    on_progress(len(found), len(found))
    for path in sorted(run.glob(f"{run_folder.PARTIAL}*")):
        if path.is_dir() and not path.is_symlink():
            yield {"checkpoint": path.name, **_size(path), "state": INCOMPLETE, "flaws": "was being written"}


def is_damage(row: dict[str, Any]) -> bool:
    """Whether a row tells of something lost. What was being written when a run was killed is not."""
    return row["state"] != WHOLE and not row["checkpoint"].startswith(run_folder.PARTIAL)


def _row(name: str, path: Path, run: Lineage | None) -> dict[str, Any]:
    row = {"checkpoint": name, **_size(path)}
    try:
        files = run_folder.listed(path)
    except BadInput as error:
        absent = not (path / run_folder.MANIFEST).exists()
        return row | {"state": INCOMPLETE if absent else DAMAGED, "flaws": str(error)}
    flaws = [
        flaw for file, message in files.items() if (flaw := run_folder.flaw_of_file(path / file, message, hashes=True))
    ]
    state = INCOMPLETE if any(flaw.startswith("lacks ") for flaw in flaws) else DAMAGED
    if run is not None and not flaws and (unlike := _unlike(path / run_folder.LINEAGE, run)):
        flaws.append(unlike)
    return row | ({"state": state, "flaws": "; ".join(flaws)} if flaws else {"state": WHOLE, "flaws": None})


def _unlike(path: Path, run: Lineage) -> str | None:
    """How a checkpoint's lineage contradicts the run's, or None: it is the run's as it was after fewer events."""
    try:
        lineage = Lineage.read(path)
    except BadInput as error:
        return str(error).removeprefix(f"{path.parent}/")
    then = run.as_of(len(lineage.events))
    return None if lineage.to_json() == then.to_json() else f"its {path.name} is not the run's as of then"


def _size(path: Path) -> dict[str, int]:
    files = [file for file in path.iterdir() if file.is_file() and not file.is_symlink()] if path.is_dir() else []
    return {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}
