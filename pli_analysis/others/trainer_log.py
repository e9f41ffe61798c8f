"""What Hugging Face's Trainer logged: its event files, and the `log_history` of its state, under the names of our own.

The state's history is complete and in one file; event files have what callbacks added, and wall times.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pli_analysis import scalars
from pli_analysis.events import Columns, settled
from pli_analysis.scalars import Scalars
from pli_train import run_folder

FOLDERS = "runs/*"
"""Where Trainer puts event files: a folder a start."""
OURS = {"train/learning_rate": run_folder.LR}
"""Trainer's tag → what we call it."""


def read(folder: Path, state: dict[str, Any]) -> Scalars:
    """All that is there.

    Args:
        folder: Trainer's output.
        state: what is in the last checkpoint's `trainer_state.json`.

    Raises:
        BadInput: when an event file cannot be read.
    """
    found, damaged = dict[str, Columns](), list[str]()
    for place in [folder, *sorted(folder.glob(FOLDERS))]:
        if place.is_symlink() or not place.is_dir():
            continue
        there = scalars.read(place)
        damaged += there.damaged
        for tag, columns in there.columns.items():
            ours = OURS.get(tag, tag)
            both = [found[ours], columns] if ours in found else [columns]
            found[ours] = settled(Columns(*(np.concatenate(parts) for parts in zip(*both, strict=True))))
    return Scalars(_history(state) | found, damaged)


def _history(state: dict[str, Any]) -> dict[str, Columns]:
    """`log_history` as scalars; wall times are not in it."""
    logs, points = state.get("log_history"), dict[str, dict[int, float]]()
    for log in logs if isinstance(logs, list) else []:
        step = log.get("step") if isinstance(log, dict) else None
        if type(step) is not int or not 0 <= step < 2**53:
            continue
        for name, value in log.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
                points.setdefault(_tag(name), {})[step] = _number(value)
    found = {}
    for tag, values in points.items():
        steps = np.array(list(values), dtype=np.int64)
        found[tag] = settled(Columns(steps, np.full(len(steps), np.nan), np.array(list(values.values()))))
    return found


def _tag(name: str) -> str:
    for kind in ("eval", "test"):
        if name.startswith(f"{kind}_"):
            return f"{kind}/{name.removeprefix(f'{kind}_')}"
    return OURS.get(f"train/{name}", f"train/{name}")


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
