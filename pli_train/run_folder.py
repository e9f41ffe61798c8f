"""The run format: what a run folder and a checkpoint folder hold, and what they are called.

    runs/exp1/
      run.json               resolved config, versions, seed, command line, parent run if forked
      lineage.json           every layer and head ever born, every event
      tokenizer/             Hugging Face's own files
      events.out.tfevents.*  all scalars
      run.lock               held by the process that trains
      checkpoint-500/        the state after 500 updates and after the growth events of that step
      checkpoint-500-before/ the same step just before those events

Writers and readers of runs both come here for names, so that neither needs the other. No torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pli_train.errors import BadInput

RUN = "run.json"
LINEAGE = "lineage.json"
TOKENIZER = "tokenizer"
CONFIG = "config.json"
TRAINER_STATE = "trainer_state.json"
OPTIMIZER = "optimizer.safetensors"
MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
LOCK = "run.lock"
SCALARS = "events.out.tfevents.*"
PARTIAL = ".partial-"
"""What the name of a checkpoint starts with until it is whole."""

# Hugging Face's tools look for exactly `checkpoint-<step>`, so that name goes to the state training goes on from.
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)(-before)?$")

_EVENT_FILE = re.compile(r"tfevents\.(\d+)\.")

# The tags of the scalars, one place for those who write them and those who read them.
LOSS = "train/loss"
EVAL_LOSS = "eval/loss"
EVAL_LOSS_AFTER_EVENT = "eval/loss_after_event"
EVAL_LOSS_SWAPPED = "eval/loss_swapped"
LR = "train/lr"
LR_OF_LAYER = "lr/"
LAYERS = "growth/layers"
PARAMETERS = "growth/parameters"
HEADS = "growth/heads"
CONTEXT = "growth/context"
EVENT = "growth/event"
SWAPPED = "swap/happened"
SWAP_PROBABILITY = "swap/probability"
TOKENS = "progress/tokens"
FLOPS = "progress/flops"
SECONDS = "progress/seconds"
TOKENS_PER_SECOND = "progress/tokens_per_second"


@dataclass(frozen=True, order=True)
class CheckpointName:
    """A checkpoint's place in the run. Sorting puts the state before an event ahead of the one after it."""

    step: int
    after: bool = True

    def __str__(self) -> str:
        return f"checkpoint-{self.step}" + ("" if self.after else "-before")

    @classmethod
    def parse(cls, name: str) -> CheckpointName | None:
        """Read a folder's name; None when it is no checkpoint's.

        >>> CheckpointName.parse("checkpoint-500-before")
        CheckpointName(step=500, after=False)
        >>> CheckpointName.parse("checkpoint-best") is None
        True
        """
        found = _CHECKPOINT.match(name)
        return cls(int(found[1]), found[2] is None) if found else None


def checkpoints(run: Path) -> list[tuple[CheckpointName, Path]]:
    """Every checkpoint folder of a run in order, whole or not."""
    named = ((CheckpointName.parse(path.name), path) for path in run.iterdir() if path.is_dir())
    return sorted((name, path) for name, path in named if name is not None)


def newest_checkpoint(run: Path, say: Callable[[str], None], before: bool = True, full: bool = False) -> Path | None:
    """The last whole checkpoint of a run, None when there is none.

    Args:
        run: its folder.
        say: told in one line of each damaged one that is passed over.
        before: whether one taken right before a growth event counts.
        full: whether only those count that training can go on from; others are passed over in silence.
    """
    for name, path in reversed(checkpoints(run)):
        if not (before or name.after):
            continue
        found = flaw(path)
        if found is not None:
            say(f"{path}: {found}; using an earlier checkpoint")
        elif not full or is_full(path):
            return path
    return None


def is_full(checkpoint: Path) -> bool:
    """Whether a checkpoint holds the optimizer's state, so that training can go on from it. False for a broken one."""
    try:
        return OPTIMIZER in read_json(checkpoint / MANIFEST).get("files", {})
    except BadInput:
        return False


def flaw(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being used, in a few words; None when its manifest and sizes agree."""
    try:
        manifest = read_json(checkpoint / MANIFEST)
    except BadInput:
        return f"has no readable {MANIFEST}"
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        return f"its {MANIFEST} lists no files"
    for name, told in files.items():
        if Path(name).name != name or not isinstance(told, dict):
            return f"its {MANIFEST} names '{name}', which is not a file of it"
        path = checkpoint / name
        if not path.is_file():
            return f"lacks {name}"
        if path.stat().st_size != told.get("bytes"):
            return f"its {name} has {path.stat().st_size} bytes instead of {told.get('bytes')}"
    return None


def order_of(event_file: Path) -> int:
    """The number in the name of a file of scalars: grows from process to process of a run. 0 when there is none.

    TensorBoard puts the second there in which a file was begun, and reads a folder's files in the order of names. A
    clock may be set back between two processes, so ours puts at least one more than the last process did.

    >>> order_of(Path("events.out.tfevents.1700000000.host.7.0"))
    1700000000
    """
    found = _EVENT_FILE.search(event_file.name)
    return int(found[1]) if found else 0


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises BadInput naming the file when it is missing, broken or something else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(document, dict):
        raise BadInput(f"{path}: holds a {type(document).__name__} where a JSON object belongs")
    return document


def require_run(folder: Path) -> Path:
    """Return `folder` when it is a run's. Raises BadInput saying what it is instead."""
    if not folder.exists():
        raise BadInput(f"{folder}: no such folder; `pli-train run` makes runs, under runs/ by default")
    if not (folder / RUN).is_file():
        parent = " (its parent is: use that)" if (folder.parent / RUN).is_file() else ""
        raise BadInput(f"{folder}: not a run, it holds no {RUN}{parent}")
    return folder


def newest_run(root: Path) -> Path:
    """The run under `root` that was begun last. Raises BadInput when there is none."""
    runs = [path.parent for path in root.glob(f"*/{RUN}")]
    if not runs:
        raise BadInput(f"no run under {root}/: train one with `pli-train run`, or name a run's folder")
    return max(runs, key=lambda run: (read_json(run / RUN).get("created", ""), run.name))


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables to dotted keys; lists as JSON.

    >>> flatten({"optim": {"lr": 0.1}, "seed": 0})
    {'optim.lr': 0.1, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list | tuple) else value
    return flat
