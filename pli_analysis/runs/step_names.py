"""Steps told by the names of folders.

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
"""Words before the number → what is counted."""

LINK = "is a link, which may lead out of the folder: name its target"
"""Why a link to a folder is passed over, and what to do."""

_NAME = re.compile(
    r"^(?:.*[-_.])?(checkpoint|ckpt|global_?step|step|iteration|iter|epoch)[-_=]?([0-9]{1,15})$|^([0-9]{1,15})$",
    re.IGNORECASE,
)


def numbered(name: str) -> tuple[str, int] | None:
    """What a folder's name counts, and how many; None where it tells no number."""
    found = _NAME.match(name)
    return (UNITS[(found[1] or "").lower()], int(found[2] or found[3])) if found else None


def link_line(path: object) -> str:
    """What is said of a link to a folder, which is not followed.

    >>> link_line("logs/b")
    'logs/b is a link, which may lead out of the folder: name its target'
    """
    return f"{path} {LINK}"


def by_name(paths: Sequence[Path]) -> tuple[str, list[int]] | None:
    """What the names of some folders count, and each one's number; None where not each name tells one of its own.

    Raises:
        BadInput: when one counts steps and another epochs.
    """
    found = [numbered(path.name) for path in paths]
    message = [each for each in found if each is not None]
    if len({number for _, number in message}) < len(paths):
        return None
    first = message[0][0]
    for path, (unit, _) in zip(paths, message, strict=True):
        if unit != first:
            raise BadInput(
                f"{path}: its name counts {unit}s and that of {paths[0].name} {first}s: give checkpoints of one kind"
            )
    return first, [number for _, number in message]


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """What puts names in order, numbers in them by size.

    >>> sorted(["step_10", "step_100", "step_20", "b", "step"], key=natural)
    ['b', 'step', 'step_10', 'step_20', 'step_100']
    """
    parts = [part for part in re.split(r"([0-9]+)", name) if part]
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts], name
