"""What a path is: one rule for every command.

In this order, a folder is
    a run               it holds run.json
    Trainer's output    it holds checkpoints named by steps, or a trainer_state.json, or event files in runs/ beside
                        Trainer's own files
    a model             it holds config.json and weights; a checkpoint is one
    logs of one run     it holds event files, a metrics.csv, or parts of one run (train/, validation/) with event files;
                        or Hydra wrote it (.hydra/), and then all logs below are of one run
    a folder of runs    whatever is found below it, each by this rule
and a file is an event file, a trainer_state.json, TensorBoard's download of a scalar, or a table (`csv_logs`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from pli_analysis import csv_logs, downloads, scalars
from pli_analysis.events import Columns, settled
from pli_analysis.others.steps import natural, numbered
from pli_analysis.scalars import Scalars
from pli_train import run_folder
from pli_train.errors import BadInput

PARTS = ("train", "training", "validation", "val", "valid", "eval", "evaluation", "test", "dev")
"""Folders of event files that are parts of one run: Keras and Estimators write one each."""
HYDRA = ".hydra"
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
            return scalars.read(self.path)
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
        runs = list(_of_file(path)) if path.suffix.lower() in TABLES else [""]
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
    damaged = [line for _, of in found if not of.columns for line in of.damaged]
    if not there:
        more = f"; {len(damaged) - 2} more files" if len(damaged) > 2 else ""
        raise BadInput("; ".join([f"{path}: holds no scalars", *damaged[:2]]) + more)
    (first, of), *others = there  # told with the first: runs of which nothing could be read are in no list
    return [(first, replace(of, damaged=[*damaged, *of.damaged])), *others]


def read(path: Path) -> Scalars:
    """What the one run at a path logged; empty when there is none.

    Raises:
        BadInput: when there are several runs, or one that cannot be read.
    """
    found = find(path)
    if len(found) > 1:
        raise BadInput(_several(path, found))
    return found[0].read() if found else Scalars()


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
    told = [str(source.path) for source in found]
    more = f" and {len(told) - 4} more" if len(told) > 4 else ""
    return f"{path}: holds {len(found)} runs: name one of {', '.join(told[:4])}{more}"


# --- looking ---------------------------------------------------------------------------------------------------------


def kind_of(folder: Path) -> Kind | None:
    """What a folder is by what lies right in it; None for one that may hold runs further down."""
    if (folder / run_folder.RUN).is_file():
        return Kind.RUN
    if is_trainer_output(folder):
        return Kind.TRAINER
    if _is_model(folder):
        return Kind.MODEL
    return Kind.LOGS if _holds_logs(folder) or any(_holds_logs(part) for part in _parts_in(folder)) else None


def is_trainer_output(folder: Path) -> bool:
    """Whether Trainer wrote it, and it is not one of the checkpoints that it wrote."""
    if run_folder.checkpoints(folder) or _steps_in(folder):
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
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror})") from None
    shown = (path for path in found if not path.name.startswith("."))
    return sorted(shown, key=lambda path: natural(path.name))


def _steps_in(folder: Path) -> list[Path]:
    from pli_analysis.others.foreign import steps_in

    return steps_in(folder)


def _is_model(folder: Path) -> bool:
    from pli_analysis.others.foreign import is_model

    return is_model(folder)


# --- reading ---------------------------------------------------------------------------------------------------------


def _of_trainer(folder: Path) -> Scalars:
    """Event files, and the history in the newest state that there is."""
    from pli_analysis.others import trainer_log
    from pli_analysis.others.foreign import checkpoints_in

    inside = [path for _, path in sorted(checkpoints_in(folder)) if not path.is_symlink()] or _steps_in(folder)
    return trainer_log.read(folder, [trainer_log.state_of(path) for path in inside])


def _of_logs(folder: Path) -> Scalars:
    """Event files at any depth, those of subfolders under tags that begin with the subfolder; then metrics.csv."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(_is_event_file(Path(name)) for name in files):
            found.append(_prefixed(scalars.read(Path(place)), Path(place).relative_to(folder).as_posix()))
    if csv_logs.is_log(folder / METRICS):
        found += csv_logs.read(folder / METRICS).values()
    return _merged(found)


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
                columns[tag] = settled(Columns(*(np.concatenate(pair) for pair in pairs)))
    return Scalars(columns, [line for each in found for line in each.damaged], frozenset(epochs))


def _of_file(path: Path) -> dict[str, Scalars]:
    """The runs in a file: name → scalars, the name empty where there is one."""
    if path.suffix.lower() in TABLES and not _is_download(path):
        return csv_logs.read(path)
    if path.suffix == ".json" and (state := _state(path)) is not None:
        from pli_analysis.others import trainer_log

        return {"": trainer_log.told([state], [])}
    return {"": scalars.read(path)}


def _is_download(path: Path) -> bool:
    if path.suffix == ".csv":
        return downloads.is_download(path)
    return path.suffix == ".json" and _state(path) is None


def _is_table(path: Path) -> bool:
    """Whether a file of a folder without other logs is a log, by its first bytes."""
    if path.suffix == ".json":
        return downloads.is_json(path)
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
