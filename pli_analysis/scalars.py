"""Scalars as TensorBoard keeps them: event files of one or several processes, told as one history."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pli_analysis import downloads
from pli_train import run_folder
from pli_train.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Scalars:
    """What a run logged.

    Attributes:
        values: tag → {step: (wall time in seconds since 1970, value)}, each step once.
    """

    values: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)

    def table(self, tag: str) -> pd.DataFrame:
        """One scalar as a table: `step`, `value`, `wall_time` (seconds since 1970); empty when it was not logged."""
        import pandas as pd

        rows = sorted((step, value, wall) for step, (wall, value) in self.values.get(tag, {}).items())
        types = {"step": "int64", "value": "float64", "wall_time": "float64"}
        return pd.DataFrame(rows, columns=list(types)).astype(types)

    def forget_from(self, step: int) -> None:
        """Drop what was logged at `step` or later: a resumed process does those steps again."""
        for tag, points in self.values.items():
            self.values[tag] = {at: point for at, point in points.items() if at < step}


def read(path: Path) -> Scalars:
    """Every scalar of a run folder, a folder with event files, one event file, or a download of one scalar.

    Files are read in the order that processes wrote them. One cut short (its process was killed) is read up to the cut.
    Where a later process resumed from an earlier step, its values stand. A download's tag is its file's stem.

    Raises:
        BadInput: when the path is not there, or a download is none.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    if path.suffix in downloads.ENDINGS and path.is_file():
        points = {int(step): (wall, value) for wall, step, value in downloads.read(path).tolist()}
        return Scalars({path.stem: points} if points else {})
    return _of_events([path] if path.is_file() else sorted(path.glob(run_folder.SCALARS), key=_begun))


def _of_events(files: list[Path]) -> Scalars:
    scalars = Scalars()
    if not files:
        return scalars
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.compat.proto.event_pb2 import SessionLog
    from tensorboard.util.tensor_util import make_ndarray

    for path in files:
        for event in EventFileLoader(str(path)).Load():
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                scalars.forget_from(event.step)
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars" or value.HasField("simple_value"):
                    number = value.simple_value if value.HasField("simple_value") else make_ndarray(value.tensor).item()
                    scalars.values.setdefault(value.tag, {})[event.step] = (event.wall_time, float(number))
    return scalars


def _begun(path: Path) -> tuple[int, float, str]:
    """What puts a file in its place: the number in its name, then when it was begun by its first record.

    Our own numbers grow whatever the clock does. Other writers' names tell the second alone: two processes of one
    second would swap places.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    first = next(iter(EventFileLoader(str(path)).Load()), None)
    return run_folder.order_of(path), first.wall_time if first else 0.0, path.name
