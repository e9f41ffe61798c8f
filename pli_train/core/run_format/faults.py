"""Named points in file writing where tests inject crashes and disk errors.

A point has no effect unless the environment variable PLI_FAULT is set when the process starts, to `name:kind` or
`name:kind:nth` (the nth time the point is reached; the first by default). A fault that fires appends one line to the
file named by PLI_FAULT_LOG, so that tests can check that it fired.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

KINDS = ("sigkill", "sigterm", "enospc", "eio", "short")
"""SIGKILL, SIGTERM, a full disk, a disk error, and a disk error with half of the file written."""

BOUNDARIES = (
    "scalars-synced",
    "partial-made",
    *(
        f"{part}-{when}"
        for part in ("config", "weights", "lineage", "state", "optimizer", "manifest")
        for when in ("begin", "written", "synced")
    ),
    "partial-synced",
    "renamed",
    "run-synced",
    "run-lineage-begin",
    "run-lineage-written",
    "run-lineage-replaced",
    "light-manifest-begin",
    "light-manifest-written",
    "light-manifest-replaced",
    "optimizer-removed",
    "removal-begin",
    "removal-renamed",
    "removal-done",
)
"""All points in the order of a save; `written` is before the file's fsync, `synced` after it."""

_name, _kind, _nth, _passed = "", "", 1, 0


def inject(fault: str) -> None:
    """Make this process fail at a point: `name:kind` or `name:kind:nth`; nowhere if empty. Raises ValueError."""
    global _name, _kind, _nth, _passed
    name, kind, nth = (*fault.split(":"), "1", "1")[:3]
    if name and (name not in BOUNDARIES or kind not in KINDS):
        raise ValueError(f"PLI_FAULT={fault}: no such point or kind")
    _name, _kind, _nth, _passed = name, kind, int(nth), 0


def boundary(name: str, file: Path | None = None) -> None:
    """Mark a point of BOUNDARIES. `file` was just written there: `short` truncates it to half.

    Raises:
        OSError: if PLI_FAULT injects a disk error here.
    """
    global _passed
    if name != _name:
        return
    _passed += 1
    if _passed == int(_nth):
        _fire(name, file)


def _fire(name: str, file: Path | None) -> None:
    if log := os.environ.get("PLI_FAULT_LOG"):
        with Path(log).open("a", encoding="utf-8") as lines:
            lines.write(f"{name}:{_kind}:{_nth}\n")
            lines.flush()
            os.fsync(lines.fileno())
    if _kind == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif _kind == "sigterm":
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        if _kind == "short" and file is not None:
            os.truncate(file, file.stat().st_size // 2)
        number = errno.ENOSPC if _kind == "enospc" else errno.EIO
        raise OSError(number, os.strerror(number), str(file or name))


inject(os.environ.get("PLI_FAULT", ""))
