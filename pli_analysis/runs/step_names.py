"""Read step numbers from the names of folders.

>>> numbered("global_step100"), numbered("pythia-step-1000"), numbered("epoch_3"), numbered("best")
(('step', 100), ('step', 1000), ('epoch', 3), None)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pli_train.core.errors import BadInput

UNITS = {"checkpoint": "step", "global_step": "step", "globalstep": "step", "step": "step"}
UNITS |= {"iteration": "iteration", "iter": "iteration", "epoch": "epoch", "ckpt": "number", "": "number"}
"""Word before the number → what is counted."""

LINK = "is a link, which is not followed; pass its target instead"
"""Why a link to a folder is passed over, and what to do."""

_NAME = re.compile(
    r"^(?:.*[-_.])?(checkpoint|ckpt|global_?step|step|iteration|iter|epoch)[-_=]?([0-9]{1,15})$|^([0-9]{1,15})$",
    re.IGNORECASE,
)


def numbered(name: str) -> tuple[str, int] | None:
    """Return the unit and the number in a folder's name; None if it has none."""
    match = _NAME.match(name)
    return (UNITS[(match[1] or "").lower()], int(match[2] or match[3])) if match else None


def link_line(path: object) -> str:
    """Return the line for a link to a folder, which is not followed.

    >>> link_line("logs/b")
    'logs/b: is a link, which is not followed; pass its target instead'
    """
    return f"{path}: {LINK}"


def by_name(paths: Sequence[Path]) -> tuple[str, list[int]] | None:
    """Return the unit that folder names count and each one's number; None unless each name has a number of its own.

    Raises:
        BadInput: if names count different units, such as steps and epochs.
    """
    counts = [count for path in paths if (count := numbered(path.name)) is not None]
    if len({number for _, number in counts}) < len(paths):
        return None
    first = counts[0][0]
    for path, (unit, _) in zip(paths, counts, strict=True):
        if unit != first:
            other = f"'{paths[0].name}' counts {first}s"
            raise BadInput(f"{path}: folder name counts {unit}s, but {other}; give checkpoints of one kind")
    return first, [number for _, number in counts]


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key that orders names with the numbers in them by size.

    >>> sorted(["step_10", "step_100", "step_20", "b", "step"], key=natural)
    ['b', 'step', 'step_10', 'step_20', 'step_100']
    """
    parts = [part for part in re.split(r"([0-9]+)", name) if part]
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts], name
