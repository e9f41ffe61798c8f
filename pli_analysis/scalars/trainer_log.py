"""Scalars logged by Hugging Face's Trainer.

Where the two disagree:

- A state's history is what the training of that checkpoint went through. The newest state's is the truth for all steps
  up to its own, of every tag it has. Of several entries of one step the last counts.
- Event files add what callbacks logged themselves, what came after the newest state, and wall times.
- A training that is resumed from an earlier checkpoint leaves behind what it had logged from there on, in the event
  files of before. So a point is dropped when a later process began, by wall time, at its step or before it. Where a
  process began is what the first record of our own callbacks' files says (`SessionLog.START`); else it is the first
  step in a file with Trainer's training losses, or 0 when the history has nothing before that step. A file without
  these, of an evaluation by itself say, begins nothing. Steps between a checkpoint and the first log after it are thus
  known to be left behind only where one of our callbacks was there.
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
"""Where Trainer puts event files: a folder a start."""
OURS = {"train/learning_rate": run_folder.LR, "train/num_input_tokens_seen": run_folder.TOKENS}
"""Trainer's tag → what we call it."""
HISTORY = "log_history"
_NONE: Mapping[str, Any] = {HISTORY: []}


def state_of(checkpoint: Path) -> dict[str, Any]:
    """The state that a checkpoint has; empty where it has none that can be read, or one of another step.

    A state of another step is of another training. `lines_of_states` tells of what is left out.
    """
    path, named = checkpoint / run_folder.TRAINER_STATE, CheckpointName.parse(checkpoint.name)
    try:
        found = run_folder.read_json(path) if path.exists() else {}
    except BadInput:
        return {}
    return {} if named is not None and found.get("global_step", named.step) != named.step else found


def damage_of(state: Path) -> str | None:
    """Why a state cannot be read, in one line that names it; None where it can, or there is none."""
    try:
        _ = run_folder.read_json(state) if state.exists() or state.is_symlink() else {}
    except BadInput as error:
        return str(error)
    return None


def lines_of_states(checkpoints: Sequence[Path]) -> list[str]:
    """A line for each damaged state, and one where the newest checkpoint has no history that others have.

    Args:
        checkpoints: folders, oldest first. Those that GrowthCallback keeps have no state, and do not count.
    """
    own = [path for path in checkpoints if path.parent.name != run_folder.GROWTH]
    lines = [line for path in own if (line := damage_of(path / run_folder.TRAINER_STATE))]
    newest = next((path for path in reversed(own) if isinstance(state_of(path).get(HISTORY), list)), None)
    if newest is not None and newest != own[-1]:
        lines.append(f"{own[-1]}: has no {run_folder.TRAINER_STATE} to use: the history is that of {newest.name}")
    return lines


def broken(states: Mapping[str, Mapping[str, Any]]) -> str | None:
    """A line where a state's history does not begin with that of a state before; None where all are of one training.

    Args:
        states: name of the checkpoint → its state, oldest first.
    """
    known: list[object] = []
    before = ""
    for name, state in states.items():
        if not isinstance(history := state.get(HISTORY), list):
            continue
        if not _begins_with(history, known):
            return f"{name} and {before} are of different trainings, or of branches of one: their {HISTORY} differs"
        before, known = name, history
    return None


def read(folder: Path, states: Sequence[Mapping[str, Any]]) -> Scalars:
    """All that was logged in a folder.

    Args:
        folder: Trainer's output.
        states: those of its checkpoints, oldest first.

    Raises:
        BadInput: when an event file cannot be read.
    """
    own = folder / run_folder.TRAINER_STATE
    line = damage_of(own)
    beside = [run_folder.read_json(own)] if own.is_file() and line is None else []
    found = message(_with_the_last(states, beside), _files(folder))
    return found if line is None else Scalars(found.columns, [line, *found.damaged])


def message(states: Sequence[Mapping[str, Any]], files: Sequence[File]) -> Scalars:
    """What states, oldest first, and event files say together: see this module."""
    state = next((state for state in reversed(states) if isinstance(state.get(HISTORY), list)), _NONE)
    history, lost = _history(state[HISTORY])
    until = state.get("global_step", -1)
    first = min((int(of.steps[0]) for of in history.values()), default=None)
    found = _alive(files, first)
    for tag, of in history.items():
        found[tag] = _joined(of, found.get(tag, NOTHING), until if _is_step(until) else int(of.steps[-1]))
    if (tokens := found.get(run_folder.TOKENS)) is not None:
        # Trainer counts them only when asked to, and else says 0.
        found[run_folder.TOKENS] = _some(tokens, tokens.values > 0)
    damaged = [line for file in files for line in file.damaged]
    if lost:
        damaged.append(f"{run_folder.TRAINER_STATE}: {lost} entries of its {HISTORY} that have no step")
    return Scalars({tag: of for tag, of in found.items() if len(of.steps)}, damaged)


# --- states ----------------------------------------------------------------------------------------------------------


def _with_the_last(
    states: Sequence[Mapping[str, Any]], beside: Sequence[Mapping[str, Any]]
) -> Sequence[Mapping[str, Any]]:
    """States of checkpoints, and the one that `save_state` puts beside them, if it goes on where the last one ends."""
    last = next((state for state in reversed(states) if isinstance(state.get(HISTORY), list)), _NONE)
    return [*states, *(state for state in beside if _begins_with(state.get(HISTORY), last[HISTORY]))]


def _begins_with(history: object, known: Sequence[object]) -> bool:
    if not isinstance(history, list) or history[: len(known)] == known:
        return isinstance(history, list)
    return json.dumps(history[: len(known)]) == json.dumps(known)  # as text, in which NaN is NaN


def _history(entries: Sequence[object]) -> tuple[dict[str, Columns], int]:
    """A history as scalars, wall times NaN; and how many entries have no step."""
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
        start: the step that its process began at, as its first record says; None where it does not.
        columns: tag → points, tags under our names.
        damaged: a line where records could not be read.
    """

    began: float
    start: int | None
    columns: Mapping[str, Columns]
    damaged: list[str]


def _files(folder: Path) -> list[File]:
    """The event files of a folder of Trainer's, in the order in which they were begun."""
    found = []
    for position in (folder, folder / run_folder.GROWTH, *sorted(folder.glob(FOLDERS))):
        if not position.is_symlink() and position.is_dir():
            reader = reading.Reader(position)
            reader.update()
            for path, segment in reader.segments().items():
                columns = {OURS.get(tag, tag): of for tag, of in segment.columns.items()}
                damaged = [f"{path}: {segment.damaged} damaged records"] if segment.damaged else []
                found.append(File(reading.begun(path), segment.forgets, columns, damaged))
    return sorted(found, key=lambda file: file.began)


def _alive(files: Sequence[File], first: int | None) -> dict[str, Columns]:
    """The points of event files that no later process left behind.

    Args:
        files: in the order in which they were begun.
        first: the first step of the history.
    """
    starts = [(file.began, start) for file in files if (start := _start(file, first)) is not None]
    parts: dict[str, list[Columns]] = {}
    for file in files:
        for tag, of in file.columns.items():
            kept = np.ones(len(of.steps), dtype=bool)
            for began, start in starts:
                kept &= ~((of.wall_times < began) & (of.steps >= start))
            parts.setdefault(tag, []).append(_some(of, kept))
    return {
        tag: sorted_by_step(Columns(*(np.concatenate(each) for each in zip(*columns, strict=True))))
        for tag, columns in parts.items()
    }


def _start(file: File, first: int | None) -> int | None:
    """The first step of the process that began with a file; None where the file begins none."""
    if file.start is not None or not len(steps := file.columns.get(run_folder.LOSS, NOTHING).steps):
        return file.start
    start = min(int(of.steps[0]) for of in file.columns.values() if len(of.steps))
    return 0 if first is not None and first >= steps[0] else start


def _joined(history: Columns, logged: Columns, until: int) -> Columns:
    """A history up to its own step, with the wall times of points that agree with it, and what was logged after it."""
    wall_times, locations = history.wall_times.copy(), np.searchsorted(logged.steps, history.steps)
    inside = np.flatnonzero(locations < len(logged.steps))
    at = locations[inside]
    # Event files hold numbers in 32 bits.
    with np.errstate(over="ignore"):
        mine, theirs = (values.astype(np.float32) for values in (history.values[inside], logged.values[at]))
    same = (logged.steps[at] == history.steps[inside]) & ((mine == theirs) | (np.isnan(mine) & np.isnan(theirs)))
    wall_times[inside[same]] = logged.wall_times[at[same]]
    parts = (Columns(history.steps, wall_times, history.values), _some(logged, logged.steps > until))
    return sorted_by_step(Columns(*(np.concatenate(pair) for pair in zip(*parts, strict=True))))


def _some(columns: Columns, kept: np.ndarray) -> Columns:
    return Columns(*(column[kept] for column in columns))
