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
    named: Callable[[str, str], str],
) -> None:
    """Raise BadInput unless a folder is unused or has these settings.

    Args:
        folder: the folder.
        kind: what it is: `study` or `comparison`.
        settings: settings in JSON form, all or some.
        document: contents of its settings file; None if it has none.
        is_ours: whether a name is that of a file that is created before the settings file.
        named: returns the name under which a user knows a setting and the dotted key in it, which may be empty.
    """
    if document is not None:
        theirs = document.get("settings")
        theirs = theirs if isinstance(theirs, dict) else {}
        different = [named(name, key) for name in settings for key in _differences(settings[name], theirs.get(name))]
        if different:
            raise BadInput(
                f"{folder}: contains another {kind}: it differs in {some([*dict.fromkeys(different)])}; "
                "choose another folder with --out"
            )
    elif folder.exists() and not (folder.is_dir() and all(is_ours(path.name) for path in folder.iterdir())):
        raise BadInput(f"{folder}: already exists and is not a {kind}; choose another folder with --out")


def _differences(ours: Any, theirs: Any, within: str = "") -> list[str]:
    """Return the dotted keys of the values that differ; the domain of a parameter is one value.

    Args:
        ours: a setting, or a part of one.
        theirs: the same in the other folder.
        within: dotted key of the part.
    """
    if ours == theirs:
        return []
    if not isinstance(ours, dict) or not isinstance(theirs, dict) or {"choices", "low"} & ours.keys():
        return [within]
    return [
        found
        for key in dict.fromkeys([*ours, *theirs])
        for found in _differences(ours.get(key), theirs.get(key), f"{within}.{key}" if within else key)
    ]
