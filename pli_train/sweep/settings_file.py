"""What the folders of a study and of a comparison have in common: a file with settings that identifies them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pli_train.core.errors import BadInput, some


def provenance(libraries: Sequence[str]) -> dict[str, Any]:
    """Return time, command line, and versions of Python and of these libraries."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions(libraries),
    }


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Return name → version of Python and of these libraries."""
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}


def require_same(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    document: Mapping[str, Any] | None,
    is_ours: Callable[[str], bool],
) -> None:
    """Raise BadInput unless a folder is unused or has these settings.

    Args:
        folder: the folder.
        kind: what it is: `study` or `comparison`.
        settings: settings in JSON form.
        document: contents of its settings file; None if it has none.
        is_ours: whether a name is that of a file that is created before the settings file.
    """
    if document is not None:
        theirs = document.get("settings")
        theirs = theirs if isinstance(theirs, dict) else {}
        if different := [key for key in settings if settings[key] != theirs.get(key)]:
            raise BadInput(
                f"{folder}: contains another {kind} (its {some(different)} differ{'s' * (len(different) == 1)}); "
                "choose another folder with --out"
            )
    elif folder.exists() and not (folder.is_dir() and all(is_ours(path.name) for path in folder.iterdir())):
        raise BadInput(f"{folder}: already exists and is not a {kind}; choose another folder with --out")
