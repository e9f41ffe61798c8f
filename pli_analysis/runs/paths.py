"""Recognize what a path holds: runs, Trainer output, models, logs. All commands use this rule.

A folder is the first of these that applies:
    a run               it holds run.json
    Trainer output      it holds checkpoints named by steps, or a trainer_state.json, or event files in runs/ next to
                        Trainer's own files
    a model             it holds config.json and weights; a checkpoint is one
    logs of one run     it holds event files, a metrics.csv, or parts of one run (train/, validation/) with event files;
                        or Hydra wrote it (.hydra/), and then all logs below belong to one run
    a folder of runs    everything below it is recognized by this rule

A file is an event file, a trainer_state.json, a scalar downloaded from TensorBoard, a table (`csv_logs`) or JSON Lines
(`json_logs`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from pli_analysis.runs.model_folders import HYDRA, checkpoints_in, is_model, linked_steps_in, steps_in
from pli_analysis.runs.step_names import link_line, natural, numbered
from pli_analysis.scalars import csv_logs, downloads, json_logs, reading
from pli_analysis.scalars.events import Columns, sorted_by_step
from pli_analysis.scalars.reading import Scalars
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

PARTS = ("train", "training", "validation", "val", "valid", "eval", "evaluation", "test", "dev")
"""Subfolders with event files of parts of one run, as Keras and Estimators write them."""
METRICS = "metrics.csv"
"""The table that Lightning writes."""
TRAINER_ARGUMENTS = "training_args.bin"
"""File that Trainer writes next to a model. It is a pickle and never read."""
TABLES = (".csv", ".tsv", ".log", ".txt")
"""File extensions of tables. Keras's examples write training.log."""
DEEPEST = 8
"""Maximum depth of the search for runs below a folder."""


class Kind(StrEnum):
    """Kind of a path."""

    RUN = "a run"
    TRAINER = "output of Trainer"
    MODEL = "a model folder"
    LOGS = "logs"
    FILE = "a file of logs"


CHECKPOINTED = (Kind.RUN, Kind.TRAINER)
"""Kinds of folders that hold the checkpoints of a run."""


@dataclass(frozen=True)
class Source:
    """One run found at a path, of `pli-train` or another tool.

    Attributes:
        path: of its folder or file.
        kind: of the path.
        run: its name in a file of several runs; else empty.
        named: path that its name is taken from: the requested path if that holds only this run.
        logs: folders and files with its logs, if they are not in `path` itself.
    """

    path: Path
    kind: Kind
    run: str = ""
    named: Path = field(default=Path(), compare=False)
    logs: tuple[Source, ...] = ()

    @property
    def has_checkpoints(self) -> bool:
        """Whether it has weights."""
        return self.kind in (*CHECKPOINTED, Kind.MODEL)

    @property
    def is_download(self) -> bool:
        """Whether it is a download of one scalar from TensorBoard, which does not contain the tag."""
        return self.kind == Kind.FILE and _is_download(self.path)

    def read(self) -> Scalars:
        """Read its scalars, which may be empty. Raises BadInput if they cannot be read."""
        if self.logs:
            return _merged([log.read() for log in self.logs])
        if self.kind == Kind.RUN:
            return reading.read(self.path)
        if self.kind in (Kind.TRAINER, Kind.MODEL):
            return _of_trainer(self.path)
        return _of_logs(self.path) if self.kind == Kind.LOGS else _of_file(self.path)[self.run]


def find(path: Path) -> list[Source]:
    """Return the runs at a path, ordered by name with numbers by size; empty if there are none.

    Raises:
        BadInput: if there is no such path, or a file cannot be read.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    if path.is_file():
        runs = list(_of_file(path)) if path.suffix.lower() in (*TABLES, *json_logs.ENDINGS) else [""]
        return [Source(path, Kind.FILE, run, path) for run in runs]
    sources = list(_below(path))
    if len(sources) == 1:
        [only] = sources
        return [Source(only.path, only.kind, only.run, path, only.logs)]
    return sources


def logged(path: Path) -> list[tuple[Source, Scalars]]:
    """Read each run at a path that logged scalars. Lines on damage in runs without scalars are added to the first.

    Raises:
        BadInput: if there is no such run, or one cannot be read.
    """
    runs = [(source, source.read()) for source in find(path)]
    with_scalars = [(source, scalars) for source, scalars in runs if scalars.columns]
    damaged = [*links(path), *(line for _, scalars in runs if not scalars.columns for line in scalars.damaged)]
    if not with_scalars:
        more = f"; {len(damaged) - 2} more files" if len(damaged) > 2 else ""
        raise BadInput("; ".join([f"{path}: holds no scalars", *damaged[:2]]) + more)
    (first, scalars), *others = with_scalars  # the first also reports runs that are not in the list
    return [(first, replace(scalars, damaged=[*damaged, *scalars.damaged])), *others]


def read(path: Path) -> Scalars:
    """Read the scalars of the only run at a path; empty if there is none. Its damaged lines include skipped links.

    Raises:
        BadInput: if there are several runs, or one that cannot be read.
    """
    source = only(path)
    scalars = Scalars() if source is None else source.read()
    return Scalars(scalars.columns, [*links(path), *scalars.damaged])


def only(path: Path) -> Source | None:
    """Return the only run at a path; None if there is none. Raises BadInput if there are several."""
    sources = find(path)
    if len(sources) > 1:
        raise BadInput(_several_runs(path, sources))
    return sources[0] if sources else None


def names(sources: Sequence[Source]) -> list[str]:
    """Return a name for each run: the shortest end of its path that no other run has.

    >>> names([Source(Path(p), Kind.LOGS, named=Path(p)) for p in ("/x/a/out", "/x/b/out", "/x/c")])
    ['a/out', 'b/out', 'c']

    Raises:
        BadInput: if a run is given twice.
    """
    every = [_path_parts(source) for source in sources]
    without_extension = [
        (*parts[:-1], Path(parts[-1]).stem) if source.kind == Kind.FILE and not source.run else parts
        for source, parts in zip(sources, every, strict=True)
    ]
    if len(set(without_extension)) == len(without_extension):
        every = without_extension  # extensions are only shown if names are not unique without them
    shortest = []
    for parts in every:
        if every.count(parts) > 1:
            raise BadInput(f"{Path(*parts)}: is given twice")
        length = next(n for n in range(1, len(parts) + 1) if sum(other[-n:] == parts[-n:] for other in every) == 1)
        shortest.append("/".join(parts[-length:]).replace("//", "/"))
    return shortest


def _path_parts(source: Source) -> tuple[str, ...]:
    """Return the parts of a run's path, with its name as the last part if the file has several runs."""
    path = source.named.resolve()
    if path.name == run_folder.TRAINER_STATE:
        path = path.parent  # all such files have the same name, only the folder identifies the run
    return (*path.with_suffix("").parts, source.run) if source.run else path.parts


def alone(path: Path, kinds: Sequence[Kind] = CHECKPOINTED) -> Path | None:
    """Return the path of the only run of some kinds at a path; None if there is none.

    Raises:
        BadInput: if there are several.
    """
    sources = [source for source in find(path) if source.kind in kinds]
    if len(sources) > 1:
        raise BadInput(_several_runs(path, sources))
    return sources[0].path if sources else None


def _several_runs(path: Path, sources: Sequence[Source]) -> str:
    """Return the error line for a path with several runs where only one is allowed."""
    runs = [str(source.path) for source in sources]
    more = f" and {len(runs) - 4} more" if len(runs) > 4 else ""
    return f"{path}: holds {len(runs)} runs; give one of {', '.join(runs[:4])}{more}"


def links(path: Path) -> list[str]:
    """Return a line for each link to a folder that `find` passes over in a folder of runs.

    Links among the checkpoints or the logs of one run are reported when that run is read.
    """
    return [link_line(link) for link in _links(path)] if path.is_dir() else []


def _links(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the links to folders in a folder of runs and below."""
    if depth <= DEEPEST and kind_of(folder) is None:
        yield from _linked(folder)
        for child in _children(folder):
            yield from _links(child, depth + 1)


# --- finding ---------------------------------------------------------------------------------------------------------


def kind_of(folder: Path) -> Kind | None:
    """Return the kind of a folder by its direct content; None if it can only be a folder of runs."""
    if (folder / run_folder.RUN).is_file():
        return Kind.RUN
    if is_trainer_output(folder):
        return Kind.TRAINER
    if is_model(folder):
        return Kind.MODEL
    return Kind.LOGS if _holds_logs(folder) or any(_holds_logs(part) for part in _run_parts(folder)) else None


def is_trainer_output(folder: Path) -> bool:
    """Return whether a folder is output of Trainer, and not just one of its checkpoints."""
    if run_folder.checkpoints(folder) or steps_in(folder):
        return True
    if numbered(folder.name) is not None:
        return False
    if (folder / run_folder.TRAINER_STATE).is_file():
        return True
    own = (run_folder.CONFIG, TRAINER_ARGUMENTS)
    return any((folder / name).is_file() for name in own) and any(folder.glob(f"runs/*/{run_folder.SCALARS}"))


def _holds_logs(folder: Path) -> bool:
    """Return whether event files or Lightning's metrics.csv are directly in a folder."""
    return any(folder.glob(run_folder.SCALARS)) or csv_logs.is_log(folder / METRICS)


def _run_parts(folder: Path) -> list[Path]:
    """Return the subfolders that may hold logs of parts of one run."""
    return [path for path in _children(folder) if path.name.lower() in PARTS]


def _below(folder: Path, depth: int = 0) -> Iterator[Source]:
    """Yield the runs in a folder and below."""
    kind = kind_of(folder)
    if kind is not None:
        yield Source(folder, kind, named=folder)
        return
    found = [source for child in _children(folder) if depth < DEEPEST for source in _below(child, depth + 1)]
    if not found:
        tables = sorted(path for path in folder.iterdir() if path.is_file() and _is_table(path))
        found = [source for path in tables for source in find(path)]
    logs = [source for source in found if not source.has_checkpoints]
    if (folder / HYDRA).is_dir() and logs and len(logs) == len(found):
        yield Source(folder, Kind.LOGS, named=folder, logs=tuple(logs))
        return
    yield from found


def _children(folder: Path) -> list[Path]:
    """Return the subfolders that are neither links nor hidden, ordered by name with numbers by size."""
    return [path for path in _folders(folder) if not path.is_symlink()]


def _linked(folder: Path) -> list[Path]:
    """Return the links to folders in a folder, without hidden ones, in the same order."""
    return [path for path in _folders(folder) if path.is_symlink()]


def _folders(folder: Path) -> list[Path]:
    """Return the subfolders and links to folders that are not hidden. Raises BadInput if they cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            folders = [path for entry in entries if (path := Path(entry.path)).is_dir()]
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror})") from None
    visible = (path for path in folders if not path.name.startswith("."))
    return sorted(visible, key=lambda path: natural(path.name))


# --- reading ---------------------------------------------------------------------------------------------------------


def _of_trainer(folder: Path) -> Scalars:
    """Read event files and the log history of the newest readable trainer_state.json, with a line per skipped path."""
    from pli_analysis.scalars import trainer_log

    checkpoints = [path for _, path in sorted(checkpoints_in(folder))]
    inside = [path for path in checkpoints if not path.is_symlink()] if checkpoints else steps_in(folder)
    linked = [path for path in checkpoints if path.is_symlink()] if checkpoints else linked_steps_in(folder)
    linked += [path for path in sorted(folder.glob(trainer_log.FOLDERS)) if path.is_symlink() and path.is_dir()]
    logged = trainer_log.read(folder, [trainer_log.state_of(path) for path in inside])
    lines = [*map(link_line, linked), *trainer_log.lines_of_states(inside)]
    return Scalars(logged.columns, [*lines, *logged.damaged])


def _of_logs(folder: Path) -> Scalars:
    """Read event files at any depth, with the subfolder as a prefix of tags; then metrics.csv."""
    found, lines = [], list[str]()
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        lines += [link_line(link) for name in folders if (link := Path(parent) / name).is_symlink()]
        if any(_is_event_file(Path(name)) for name in files):
            found.append(_prefixed(reading.read(Path(parent)), Path(parent).relative_to(folder).as_posix()))
    if csv_logs.is_log(folder / METRICS):
        found += csv_logs.read(folder / METRICS).values()
    return _merged([Scalars(damaged=lines), *found])


def _prefixed(scalars: Scalars, folder: str) -> Scalars:
    """Prefix each tag with the folder unless it already begins with it."""
    if folder == ".":
        return scalars
    names = {tag: tag if tag.startswith(f"{folder}/") else f"{folder}/{tag}" for tag in scalars.columns}
    epochs = frozenset(names[tag] for tag in scalars.epochs)
    return Scalars({names[tag]: columns for tag, columns in scalars.columns.items()}, scalars.damaged, epochs)


def _merged(logs: Sequence[Scalars]) -> Scalars:
    """Merge logs of one run. If two logs have a tag, the last point of each step counts.

    A table, whose points have no wall times, does not add to a tag of an event file.
    """
    merged: dict[str, Columns] = {}
    epochs = set[str]()
    for log in logs:
        epochs |= {tag for tag in log.epochs if tag not in merged}
        for tag, columns in log.columns.items():
            if tag not in merged:
                merged[tag] = columns
            elif np.isfinite(columns.wall_times).any():
                pairs = zip(merged[tag], columns, strict=True)
                merged[tag] = sorted_by_step(Columns(*(np.concatenate(pair) for pair in pairs)))
    return Scalars(merged, [line for log in logs for line in log.damaged], frozenset(epochs))


def _of_file(path: Path) -> dict[str, Scalars]:
    """Read the runs in a file: name → scalars. The name of a single run is empty."""
    if path.suffix.lower() in TABLES and not _is_download(path):
        return csv_logs.read(path)
    if path.suffix.lower() in json_logs.ENDINGS:
        return json_logs.read(path)
    if path.suffix == ".json" and (state := _state(path)) is not None:
        from pli_analysis.scalars import trainer_log

        return {"": trainer_log.merged([state], [])}
    return {"": reading.read(path)}


def _is_download(path: Path) -> bool:
    """Return whether a file is a scalar downloaded from TensorBoard."""
    if path.suffix == ".csv":
        return downloads.is_download(path)
    return path.suffix == ".json" and _state(path) is None


def _is_table(path: Path) -> bool:
    """Return whether a file in a folder without other logs is a log, by its first bytes."""
    if path.suffix == ".json":
        return downloads.is_json(path)
    if path.suffix.lower() in json_logs.ENDINGS:
        return json_logs.is_log(path)
    return path.suffix.lower() == ".csv" and csv_logs.is_log(path)


def _state(path: Path) -> dict[str, object] | None:
    """Read a trainer_state.json; None if the file is something else."""
    try:
        document = run_folder.read_json(path)
    except BadInput:
        return None
    return document if "log_history" in document else None


def _is_event_file(path: Path) -> bool:
    return "tfevents" in path.name
