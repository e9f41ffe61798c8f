"""The folder of a comparison of candidates: its settings, and the table of candidates.

studies/NAME-lag/
lag.json              settings, resolved base config, versions, command line
candidates.csv        a row for each event, candidate and data order
lag.lock              held by the process that runs the comparison
configs/main.toml     the config of the run, with the schedule that was chosen so far
runs/main/            the run
runs/event-1-00-0/    a candidate: number of the event, of the candidate and of the data order
logs/                 output of the workers
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.checkpointing.lock import Lock
from pli_train.core import output
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder, study_folder
from pli_train.sweep.settings_file import provenance, require_same

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pli_train.config.schema import RunConfig
    from pli_train.sweep.lag.candidates import Values

LAG, TABLE, MAIN = study_folder.COMPARISON, study_folder.CANDIDATES, study_folder.MAIN
LOCK = "lag.lock"
FORMAT = "pli-lag"
VERSION = 1
VERSIONS = ("pli", "torch", "transformers", "numpy")
OPTIONS = {"steps": "--lag", "orders": "--orders"}
"""Setting → the option that sets it."""


@dataclass(frozen=True)
class Settings:
    """The settings of a comparison.

    Attributes:
        base: config of the run; its schedule has the events, and the values that candidates do not change.
        values: key → value of each candidate.
        steps: number of steps after growth at which candidates are compared; at most up to the next event.
        orders: number of data orders.
    """

    base: RunConfig
    values: tuple[Values, ...]
    steps: int
    orders: int = 2

    def to_table(self) -> dict[str, Any]:
        """Return the form in lag.json, which identifies the comparison."""
        return {
            "base": self.base.model_dump(mode="json"),
            "candidates": [dict(values) for values in self.values],
            "steps": self.steps,
            "orders": self.orders,
        }


@dataclass
class Row:
    """A candidate with one data order.

    Attributes:
        event: number of the moment of growth.
        step: its step.
        candidate: index in the list of candidates.
        values: values of the candidate, as text.
        order: number of the data order.
        run: name of the run folder.
        steps: number of steps after growth at which candidates are compared.
        flops: FLOPs of these steps.
        loss_at_birth: eval loss right after growth.
        loss: eval loss `steps` after growth.
        rank: of the candidate's mean `loss` over data orders; 1 is the lowest. None if it failed.
        chosen: whether the run continues with the candidate.
        final_loss: eval loss at the end of training; None if it was not trained to the end.
        error: why it failed.
    """

    event: int
    step: int
    candidate: int
    values: str
    order: int
    run: str
    steps: int
    flops: int
    loss_at_birth: float | None = None
    loss: float | None = None
    rank: int | None = None
    chosen: bool = False
    final_loss: float | None = None
    error: str = ""


def candidate_name(event: int, candidate: int, order: int) -> str:
    """Return the name of a candidate's run folder.

    >>> candidate_name(1, 3, 0)
    'event-1-03-0'
    """
    return f"event-{event}-{candidate:02d}-{order}"


def open_folder(folder: Path, settings: dict[str, Any], threads: int) -> tuple[Lock, int]:
    """Create the folder of a comparison, or open it to resume. Return its lock and the number of threads per worker.

    Args:
        folder: the folder.
        settings: what identifies the comparison, in JSON form.
        threads: threads of each worker, for a new comparison. The results depend on it, so it never changes.

    Raises:
        BadInput: when the folder contains another comparison or something else, or another process uses it.
        PliError: when the folder cannot be written.
    """
    require(folder, settings)
    for name in ("", study_folder.CONFIGS, study_folder.RUNS, study_folder.LOGS):
        output.make_folder(folder / name)
    lock = Lock(folder, LOCK, "runs the comparison in it")
    if not (folder / LAG).exists():
        document = {
            "format": FORMAT,
            "version": VERSION,
            **provenance(VERSIONS),
            "threads": threads,
            "settings": settings,
        }
        output.write(folder / LAG, json.dumps(document, indent=1) + "\n")
    return lock, int(run_folder.read_json(folder / LAG).get("threads", threads))


def require(folder: Path, settings: dict[str, Any]) -> None:
    """Raise BadInput unless a folder is unused or contains a comparison with these settings, all or some."""
    settings = json.loads(json.dumps(settings))
    document = run_folder.read_json(folder / LAG) if (folder / LAG).is_file() else None
    if document is not None and (document.get("format") != FORMAT or document.get("version") != VERSION):
        raise BadInput(f"{folder / LAG}: not a file of `pli-train lag`, or of a newer release")
    require_same(folder, "comparison", settings, document, _is_early, lambda name, key: OPTIONS.get(name, key or name))


def _is_early(name: str) -> bool:
    """Whether `open_folder` creates a file with this name before lag.json."""
    ours = {study_folder.CONFIGS, study_folder.RUNS, study_folder.LOGS, LOCK}
    return name in ours or name.startswith(run_folder.PARTIAL)


def write_table(folder: Path, rows: Sequence[Row]) -> None:
    """Write the table of candidates. Raises PliError when it cannot be written."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([field.name for field in fields(Row)])
    table.writerows(astuple(row) for row in rows)
    output.write(folder / TABLE, text.getvalue())
