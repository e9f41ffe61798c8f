"""Scalars logged by Hugging Face's Trainer.

Trainer logs to `trainer_state.json` in each checkpoint and to event files. Where the two disagree:

- The history in the newest `trainer_state.json` counts, for all its tags and all steps up to its own. If a step has
  several entries, the last one counts.
- Event files add what callbacks logged, what was logged after the newest state, and wall times.
- When a training resumes from an earlier checkpoint, older event files still have points of later steps, which the new
  process repeats. A point is dropped if a process that began later, by wall time, began at its step or before it. The
  step at which a process began is that in the first record of files by pli-train's callbacks (`SessionLog.START`);
  else the first step in a file with Trainer's training losses, or 0 if the history has nothing before that step. A file
  without these, for example of an evaluation, begins no process. So points between a checkpoint and the first log after
  it are recognized as outdated only if one of pli-train's callbacks was used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from pli_analysis.scalars import reading
from pli_analysis.scalars.events import NOTHING, Columns, sorted_by_step
from pli_analysis.scalars.reading import Scalars
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName

FOLDERS = "runs/*"
"""Folders of Trainer's event files, one per start."""
OURS = {"train/learning_rate": run_folder.LR, "train/num_input_tokens_seen": run_folder.TOKENS}
"""Trainer's tag → tag of pli-train."""
HISTORY = "log_history"
_NONE: Mapping[str, Any] = {HISTORY: []}


def state_of(checkpoint: Path) -> dict[str, Any]:
    """Return the state of a checkpoint; empty if it is missing, cannot be read, or is of another step.

    A state of another step is from another training. `lines_of_states` reports what is left out.
    """
    path, named = checkpoint / run_folder.TRAINER_STATE, CheckpointName.parse(checkpoint.name)
    try:
        state = run_folder.read_json(path) if path.exists() else {}
    except BadInput:
        return {}
    return {} if named is not None and state.get("global_step", named.step) != named.step else state


def damage_of(state: Path) -> str | None:
    """Return the error of a state that cannot be read, in one line; None if it can, or does not exist."""
    try:
        _ = run_folder.read_json(state) if state.exists() or state.is_symlink() else {}
    except BadInput as error:
        return str(error)
    return None


def lines_of_states(checkpoints: Sequence[Path]) -> list[str]:
    """Return a line for each damaged state, and one if the newest checkpoint has no history but others have.

    Args:
        checkpoints: folders, oldest first. Those of GrowthCallback have no state and are ignored.
    """
    own = [path for path in checkpoints if path.parent.name != run_folder.GROWTH]
    lines = [line for path in own if (line := damage_of(path / run_folder.TRAINER_STATE))]
    newest = next((path for path in reversed(own) if isinstance(state_of(path).get(HISTORY), list)), None)
    if newest is not None and newest != own[-1]:
        lines.append(f"{own[-1]}: has no usable {run_folder.TRAINER_STATE}: the history is read from {newest.name}")
    return lines


def broken(states: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return a line if the history of a state does not begin with that of an earlier one; None if all agree.

    Args:
        states: checkpoint name → state, oldest first.
    """
    known: list[object] = []
    before = ""
    for name, state in states.items():
        if not isinstance(history := state.get(HISTORY), list):
            continue
        if not _begins_with(history, known):
            return f"{name} and {before} are from different trainings or branches: their {HISTORY} differs"
        before, known = name, history
    return None


def read(folder: Path, states: Sequence[Mapping[str, Any]]) -> Scalars:
    """Read all scalars of a Trainer's output folder.

    Args:
        folder: Trainer's output folder.
        states: states of its checkpoints, oldest first.

    Raises:
        BadInput: when an event file cannot be read.
    """
    own = folder / run_folder.TRAINER_STATE
    line = damage_of(own)
    final = [run_folder.read_json(own)] if own.is_file() and line is None else []
    found = merged(_with_final(states, final), _files(folder))
    return found if line is None else Scalars(found.columns, [line, *found.damaged])


def merged(states: Sequence[Mapping[str, Any]], files: Sequence[File]) -> Scalars:
    """Merge states, oldest first, and event files, by the rules of this module."""
    state = next((state for state in reversed(states) if isinstance(state.get(HISTORY), list)), _NONE)
    history, lost = _history(state[HISTORY])
    until = state.get("global_step", -1)
    first = min((int(columns.steps[0]) for columns in history.values()), default=None)
    found = _alive(files, first)
    for tag, columns in history.items():
        end = until if _is_step(until) else int(columns.steps[-1])
        found[tag] = _joined(columns, found.get(tag, NOTHING), end)
    if (tokens := found.get(run_folder.TOKENS)) is not None:
        # Trainer counts tokens only on request, and otherwise logs 0.
        found[run_folder.TOKENS] = _some(tokens, tokens.values > 0)
    damaged = [line for file in files for line in file.damaged]
    if lost:
        damaged.append(f"{run_folder.TRAINER_STATE}: {lost} entries of its {HISTORY} that have no step")
    return Scalars({tag: columns for tag, columns in found.items() if len(columns.steps)}, damaged)


# --- states ----------------------------------------------------------------------------------------------------------


def _with_final(states: Sequence[Mapping[str, Any]], final: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Add the state that `save_state` writes beside the checkpoints, if it continues that of the last one."""
    last = next((state for state in reversed(states) if isinstance(state.get(HISTORY), list)), _NONE)
    return [*states, *(state for state in final if _begins_with(state.get(HISTORY), last[HISTORY]))]


def _begins_with(history: object, known: Sequence[object]) -> bool:
    if not isinstance(history, list) or history[: len(known)] == known:
        return isinstance(history, list)
    return json.dumps(history[: len(known)]) == json.dumps(known)  # compared as text, because NaN != NaN


def _history(entries: Sequence[object]) -> tuple[dict[str, Columns], int]:
    """Return a history as scalars, with NaN as wall times, and the number of entries without a step."""
    points, lost = dict[str, dict[int, float]](), 0
    for entry in entries:
        step = entry.get("step") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not _is_step(step):
            lost += 1
            continue
        for name, value in entry.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
                points.setdefault(_tag(name), {})[step] = _number(value)
    found = {}
    for tag, values in points.items():
        steps = np.array(list(values), dtype=np.int64)
        found[tag] = sorted_by_step(Columns(steps, np.full(len(steps), np.nan), np.array(list(values.values()))))
    return found, lost


def _is_step(step: object) -> TypeGuard[int]:
    return type(step) is int and 0 <= step < 2**53


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


# --- event files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """An event file.

    Attributes:
        began: wall time of its first record.
        start: step at which its process began, from its first record; None if the record has none.
        columns: tag of pli-train → points.
        damaged: a line if records could not be read.
    """

    began: float
    start: int | None
    columns: Mapping[str, Columns]
    damaged: list[str]


def _files(folder: Path) -> list[File]:
    """Read the event files of a Trainer's output folder, sorted by the time of their first record."""
    found = []
    for source in (folder, folder / run_folder.GROWTH, *sorted(folder.glob(FOLDERS))):
        if not source.is_symlink() and source.is_dir():
            reader = reading.Reader(source)
            reader.update()
            for path, segment in reader.segments().items():
                columns = {OURS.get(tag, tag): points for tag, points in segment.columns.items()}
                damaged = [f"{path}: {segment.damaged} damaged records"] if segment.damaged else []
                found.append(File(reading.begun(path), segment.forgets, columns, damaged))
    return sorted(found, key=lambda file: file.began)


def _alive(files: Sequence[File], first: int | None) -> dict[str, Columns]:
    """Return the points of event files that no later process repeats.

    Args:
        files: event files, sorted by `began`.
        first: first step of the history.
    """
    starts = [(file.began, start) for file in files if (start := _start(file, first)) is not None]
    parts: dict[str, list[Columns]] = {}
    for file in files:
        for tag, points in file.columns.items():
            kept = np.ones(len(points.steps), dtype=bool)
            for began, start in starts:
                kept &= ~((points.wall_times < began) & (points.steps >= start))
            parts.setdefault(tag, []).append(_some(points, kept))
    return {
        tag: sorted_by_step(Columns(*(np.concatenate(each) for each in zip(*columns, strict=True))))
        for tag, columns in parts.items()
    }


def _start(file: File, first: int | None) -> int | None:
    """Return the first step of the process that began with a file; None if the file begins none."""
    if file.start is not None or not len(steps := file.columns.get(run_folder.LOSS, NOTHING).steps):
        return file.start
    start = min(int(columns.steps[0]) for columns in file.columns.values() if len(columns.steps))
    return 0 if first is not None and first >= steps[0] else start


def _joined(history: Columns, logged: Columns, until: int) -> Columns:
    """Return a history up to step `until`, with wall times of equal logged points, and what was logged after it."""
    wall_times, positions = history.wall_times.copy(), np.searchsorted(logged.steps, history.steps)
    inside = np.flatnonzero(positions < len(logged.steps))
    at = positions[inside]
    # Event files store float32.
    with np.errstate(over="ignore"):
        mine, theirs = (values.astype(np.float32) for values in (history.values[inside], logged.values[at]))
    same = (logged.steps[at] == history.steps[inside]) & ((mine == theirs) | (np.isnan(mine) & np.isnan(theirs)))
    wall_times[inside[same]] = logged.wall_times[at[same]]
    parts = (Columns(history.steps, wall_times, history.values), _some(logged, logged.steps > until))
    return sorted_by_step(Columns(*(np.concatenate(pair) for pair in zip(*parts, strict=True))))


def _some(columns: Columns, kept: np.ndarray) -> Columns:
    return Columns(*(column[kept] for column in columns))
