"""What a path holds: runs, Trainer output, models, logs. One rule for every command.

In this order, a folder is
    a run               it holds run.json
    Trainer's output    it holds checkpoints named by steps, or a trainer_state.json, or event files in runs/ beside
                        Trainer's own files
    a model             it holds config.json and weights; a checkpoint is one
    logs of one run     it holds event files, a metrics.csv, or parts of one run (train/, validation/) with event files;
                        or Hydra wrote it (.hydra/), and then all logs below are of one run
    a folder of runs    whatever is found below it, each by this rule
and a file is an event file, a trainer_state.json, TensorBoard's download of a scalar, a table (`csv_logs`)
or JSON Lines (`json_logs`).
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
"""Folders of event files that are parts of one run: Keras and Estimators write one each."""
METRICS = "metrics.csv"
"""Lightning's table."""
TRAINER_ARGUMENTS = "training_args.bin"
"""Trainer's own file beside a model. It is pickled, and never read."""
TABLES = (".csv", ".tsv", ".log", ".txt")
"""Endings of tables: Keras's examples call theirs training.log."""
DEEPEST = 8
"""Folders below the one that is asked for, at most, that runs are looked for in."""


class Kind(StrEnum):
    """What a path is."""

    RUN = "a run"
    TRAINER = "output of Trainer"
    MODEL = "a model folder"
    LOGS = "logs"
    FILE = "a file of logs"


CHECKPOINTED = (Kind.RUN, Kind.TRAINER)
"""Kinds that hold checkpoints of a run of their own."""


@dataclass(frozen=True)
class Source:
    """One run, ours or another's, as it was found.

    Attributes:
        path: of its folder or file.
        kind: what it is.
        run: its name in a file of several runs; empty elsewhere.
        named: the path that it is called after: what was asked for, where that holds one run alone.
        logs: folders and files that its logs are in, where they are not in `path` itself.
    """

    path: Path
    kind: Kind
    run: str = ""
    named: Path = field(default=Path(), compare=False)
    logs: tuple[Source, ...] = ()

    @property
    def has_checkpoints(self) -> bool:
        """Whether there are weights to look at."""
        return self.kind in (*CHECKPOINTED, Kind.MODEL)

    @property
    def is_download(self) -> bool:
        """Whether it is TensorBoard's download of one scalar, whose tag is not in it."""
        return self.kind == Kind.FILE and _is_download(self.path)

    def read(self) -> Scalars:
        """What it logged; empty when it logged nothing. Raises BadInput when that cannot be read."""
        if self.logs:
            return _merged([log.read() for log in self.logs])
        if self.kind == Kind.RUN:
            return reading.read(self.path)
        if self.kind in (Kind.TRAINER, Kind.MODEL):
            return _of_trainer(self.path)
        return _of_logs(self.path) if self.kind == Kind.LOGS else _of_file(self.path)[self.run]


def find(path: Path) -> list[Source]:
    """The runs at a path, in the order of their names, numbers by size; empty when there is none.

    Raises:
        BadInput: when there is no such path, or a file of it cannot be read.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    if path.is_file():
        runs = list(_of_file(path)) if path.suffix.lower() in (*TABLES, *json_logs.ENDINGS) else [""]
        return [Source(path, Kind.FILE, run, path) for run in runs]
    found = list(_below(path))
    if len(found) == 1:
        [only] = found
        return [Source(only.path, only.kind, only.run, path, only.logs)]
    return found


def logged(path: Path) -> list[tuple[Source, Scalars]]:
    """Each run at a path that logged anything, and its scalars. What of others was damaged is told with the first.

    Raises:
        BadInput: when there is none, or one cannot be read.
    """
    found = [(source, source.read()) for source in find(path)]
    there = [(source, of) for source, of in found if of.columns]
    damaged = [*links(path), *(line for _, of in found if not of.columns for line in of.damaged)]
    if not there:
        more = f"; {len(damaged) - 2} more files" if len(damaged) > 2 else ""
        raise BadInput("; ".join([f"{path}: holds no scalars", *damaged[:2]]) + more)
    (first, of), *others = there  # told with the first: runs of which nothing could be read are in no list
    return [(first, replace(of, damaged=[*damaged, *of.damaged])), *others]


def read(path: Path) -> Scalars:
    """What the one run at a path logged; empty when there is none. Links passed over are among its damaged lines.

    Raises:
        BadInput: when there are several runs, or one that cannot be read.
    """
    source = only(path)
    found = Scalars() if source is None else source.read()
    return Scalars(found.columns, [*links(path), *found.damaged])


def only(path: Path) -> Source | None:
    """The one run at a path; None when there is none. Raises BadInput when there are several."""
    found = find(path)
    if len(found) > 1:
        raise BadInput(_several(path, found))
    return found[0] if found else None


def names(sources: Sequence[Source]) -> list[str]:
    """What to call each run: the shortest end of its path that tells it from all others.

    >>> names([Source(Path(p), Kind.LOGS, named=Path(p)) for p in ("/x/a/out", "/x/b/out", "/x/c")])
    ['a/out', 'b/out', 'c']

    Raises:
        BadInput: when two are one and the same.
    """
    every = [_parts(source) for source in sources]
    bare = [
        (*parts[:-1], Path(parts[-1]).stem) if source.kind == Kind.FILE and not source.run else parts
        for source, parts in zip(sources, every, strict=True)
    ]
    if len(set(bare)) == len(bare):
        every = bare  # files go without their endings where these are not what tells them apart
    found = []
    for mine in every:
        if every.count(mine) > 1:
            raise BadInput(f"{Path(*mine)}: is given twice")
        length = next(n for n in range(1, len(mine) + 1) if sum(other[-n:] == mine[-n:] for other in every) == 1)
        found.append("/".join(mine[-length:]).replace("//", "/"))
    return found


def _parts(source: Source) -> tuple[str, ...]:
    """The parts of a run's path; of one in a file of several, its name behind the file's without an ending."""
    path = source.named.resolve()
    if path.name == run_folder.TRAINER_STATE:
        path = path.parent  # all are called that, and the folder says whose it is
    return (*path.with_suffix("").parts, source.run) if source.run else path.parts


def alone(path: Path, kinds: Sequence[Kind] = CHECKPOINTED) -> Path | None:
    """The one run of some kinds at a path; None when there is none.

    Raises:
        BadInput: when there are several.
    """
    found = [source for source in find(path) if source.kind in kinds]
    if len(found) > 1:
        raise BadInput(_several(path, found))
    return found[0].path if found else None


def _several(path: Path, found: Sequence[Source]) -> str:
    message = [str(source.path) for source in found]
    more = f" and {len(message) - 4} more" if len(message) > 4 else ""
    return f"{path}: holds {len(found)} runs: name one of {', '.join(message[:4])}{more}"


def links(path: Path) -> list[str]:
    """A line for each link to a folder that `find` passes over in a folder of runs.

    Links among the checkpoints or the logs of one run are told by whoever reads that run.
    """
    return [link_line(link) for link in _links(path)] if path.is_dir() else []


def _links(folder: Path, depth: int = 0) -> Iterator[Path]:
    if depth <= DEEPEST and kind_of(folder) is None:
        yield from _linked(folder)
        for child in _children(folder):
            yield from _links(child, depth + 1)


# --- looking ---------------------------------------------------------------------------------------------------------


def kind_of(folder: Path) -> Kind | None:
    """What a folder is by what lies right in it; None for one that may hold runs further down."""
    if (folder / run_folder.RUN).is_file():
        return Kind.RUN
    if is_trainer_output(folder):
        return Kind.TRAINER
    if is_model(folder):
        return Kind.MODEL
    return Kind.LOGS if _holds_logs(folder) or any(_holds_logs(part) for part in _parts_in(folder)) else None


def is_trainer_output(folder: Path) -> bool:
    """Whether Trainer wrote it, and it is not one of the checkpoints that it wrote."""
    if run_folder.checkpoints(folder) or steps_in(folder):
        return True
    if numbered(folder.name) is not None:
        return False
    if (folder / run_folder.TRAINER_STATE).is_file():
        return True
    own = (run_folder.CONFIG, TRAINER_ARGUMENTS)
    return any((folder / name).is_file() for name in own) and any(folder.glob(f"runs/*/{run_folder.SCALARS}"))


def _holds_logs(folder: Path) -> bool:
    return any(folder.glob(run_folder.SCALARS)) or csv_logs.is_log(folder / METRICS)


def _parts_in(folder: Path) -> list[Path]:
    return [path for path in _children(folder) if path.name.lower() in PARTS]


def _below(folder: Path, depth: int = 0) -> Iterator[Source]:
    """The runs in a folder."""
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
    """The folders in a folder, without links and hidden ones, in the order of their names, numbers by size."""
    return [path for path in _folders(folder) if not path.is_symlink()]


def _linked(folder: Path) -> list[Path]:
    """The links to folders in a folder, without hidden ones, in the same order."""
    return [path for path in _folders(folder) if path.is_symlink()]


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            found = [path for entry in entries if (path := Path(entry.path)).is_dir()]
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror})") from None
    shown = (path for path in found if not path.name.startswith("."))
    return sorted(shown, key=lambda path: natural(path.name))


# --- reading ---------------------------------------------------------------------------------------------------------


def _of_trainer(folder: Path) -> Scalars:
    """Event files, and the history in the newest whole state that there is; a line for what is passed over."""
    from pli_analysis.scalars import trainer_log

    found = [path for _, path in sorted(checkpoints_in(folder))]
    inside = [path for path in found if not path.is_symlink()] if found else steps_in(folder)
    linked = [path for path in found if path.is_symlink()] if found else linked_steps_in(folder)
    linked += [path for path in sorted(folder.glob(trainer_log.FOLDERS)) if path.is_symlink() and path.is_dir()]
    logged = trainer_log.read(folder, [trainer_log.state_of(path) for path in inside])
    lines = [*map(link_line, linked), *trainer_log.lines_of_states(inside)]
    return Scalars(logged.columns, [*lines, *logged.damaged])


def _of_logs(folder: Path) -> Scalars:
    """Event files at any depth, those of subfolders under tags that begin with the subfolder; then metrics.csv."""
    found, lines = [], list[str]()
    for position, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        lines += [link_line(link) for name in folders if (link := Path(position) / name).is_symlink()]
        if any(_is_event_file(Path(name)) for name in files):
            found.append(_prefixed(reading.read(Path(position)), Path(position).relative_to(folder).as_posix()))
    if csv_logs.is_log(folder / METRICS):
        found += csv_logs.read(folder / METRICS).values()
    return _merged([Scalars(damaged=lines), *found])


def _prefixed(found: Scalars, folder: str) -> Scalars:
    """With the folder ahead of each tag that does not begin with it."""
    if folder == ".":
        return found
    names = {tag: tag if tag.startswith(f"{folder}/") else f"{folder}/{tag}" for tag in found.columns}
    epochs = frozenset(names[tag] for tag in found.epochs)
    return Scalars({names[tag]: of for tag, of in found.columns.items()}, found.damaged, epochs)


def _merged(found: Sequence[Scalars]) -> Scalars:
    """Logs of one run as one; where two have a tag, the later points of a step stand, but event files go before tables.

    Tables have no wall times.
    """
    columns: dict[str, Columns] = {}
    epochs = set[str]()
    for each in found:
        epochs |= {tag for tag in each.epochs if tag not in columns}
        for tag, of in each.columns.items():
            if tag not in columns:
                columns[tag] = of
            elif np.isfinite(of.wall_times).any():
                pairs = zip(columns[tag], of, strict=True)
                columns[tag] = sorted_by_step(Columns(*(np.concatenate(pair) for pair in pairs)))
    return Scalars(columns, [line for each in found for line in each.damaged], frozenset(epochs))


def _of_file(path: Path) -> dict[str, Scalars]:
    """The runs in a file: name → scalars, the name empty where there is one."""
    if path.suffix.lower() in TABLES and not _is_download(path):
        return csv_logs.read(path)
    if path.suffix.lower() in json_logs.ENDINGS:
        return json_logs.read(path)
    if path.suffix == ".json" and (state := _state(path)) is not None:
        from pli_analysis.scalars import trainer_log

        return {"": trainer_log.message([state], [])}
    return {"": reading.read(path)}


def _is_download(path: Path) -> bool:
    if path.suffix == ".csv":
        return downloads.is_download(path)
    return path.suffix == ".json" and _state(path) is None


def _is_table(path: Path) -> bool:
    """Whether a file of a folder without other logs is a log, by its first bytes."""
    if path.suffix == ".json":
        return downloads.is_json(path)
    if path.suffix.lower() in json_logs.ENDINGS:
        return json_logs.is_log(path)
    return path.suffix.lower() == ".csv" and csv_logs.is_log(path)


def _state(path: Path) -> dict[str, object] | None:
    """What Trainer logged in a trainer_state.json; None when the file is none."""
    try:
        document = run_folder.read_json(path)
    except BadInput:
        return None
    return document if "log_history" in document else None


def _is_event_file(path: Path) -> bool:
    return "tfevents" in path.name
