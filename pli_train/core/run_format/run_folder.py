"""The run format: names of files, folders and scalars, and how to read them.

    runs/exp1/
      run.json               resolved config, versions, seed, command line, parent run if forked
      lineage.json           every layer and head ever born, every event
      tokenizer/             Hugging Face's own files
      probe.safetensors      the held-out blocks that evaluations read, all int32: `inputs` and `labels`,
                             (blocks, block_size), the latter −100 where nothing is predicted; `block`, `document` and
                             `stratum`, (blocks,), where each was drawn; `strata`, (strata,), the blocks of each
      events.out.tfevents.*  all scalars
      run.lock               held by the process that trains
      checkpoint-500/        the state after 500 updates and after the growth events of that step
      checkpoint-500-before/ the same step just before those events

Writers and readers of runs both come here for names, so that neither needs the other. No torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pli_train.core.errors import BadInput

VERSION = 2
"""Version of `run.json`. Version 1 spelled some keys of the config otherwise: `RENAMED`."""
RENAMED = {"initialiser": "initializer", "part_initialiser": "part_initializer"}
"""Keys of a config as they were spelled before, and as they are now."""
RUN = "run.json"
LINEAGE = "lineage.json"
TOKENIZER = "tokenizer"
PROBE = "probe.safetensors"
GROWTH = "_growth"
"""Folder that GrowthCallback adds to the output of Hugging Face's Trainer: states around events, named as in a run of
ours, held-out tokens and scalars. Trainer neither rotates nor resumes from what is inside, and does not push to the hub
what starts with an underscore."""
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

# What is read whole into memory stays below a gigabyte there, whatever it says: an empty list takes 30 times its text.
LARGEST_TEXT = 64 * 2**20
MOST_BRACKETS = 4 * 10**6

# Hugging Face's tools look for exactly `checkpoint-<step>`, so that name goes to the state training goes on from.
_CHECKPOINT = re.compile(r"^checkpoint-(0|[1-9][0-9]{0,15})(-before)?$")

_EVENT_FILE = re.compile(r"tfevents\.(\d+)\.")

# The tags of the scalars, one place for those who write them and those who read them.
LOSS = "train/loss"
EVAL_LOSS = "eval/loss"
EVAL_LOSS_SE = "eval/loss_se"
EVAL_LOSS_FULL = "eval/loss_full"
EVAL_TOKENS_FULL = "eval/loss_full_tokens"
EVAL_LOSS_BEFORE_EVENT = "eval/loss_before_event"
"""Only where it is not `eval/loss`, which Trainer computes of other text than what GrowthCallback reads."""
EVAL_LOSS_AFTER_EVENT = "eval/loss_after_event"
EVAL_LOSS_SWAPPED = "eval/loss_swapped"
LR = "train/lr"
LR_OF_LAYER = "lr/"
LAYERS = "growth/layers"
PARAMETERS = "growth/parameters"
HEADS = "growth/heads"
CONTEXT = "growth/context"
EVENT = "growth/event"
GRAD_NORM = "grad_norm/"
UPDATE_RATIO = "update_ratio/"
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


def newest_checkpoint(
    run: Path, say: Callable[[str], None], before: bool = True, full: bool = False, hashes: bool = False
) -> Path | None:
    """The last whole checkpoint of a run, None when there is none.

    Args:
        run: its folder.
        say: told in one line of each damaged one that is passed over.
        before: whether one taken right before a growth event counts.
        full: whether only those count that training can go on from; others are passed over in silence.
        hashes: whether every file is read and compared with its hash.
    """
    for name, path in reversed(checkpoints(run)):
        if not (before or name.after):
            continue
        if full and flaw(path) is None and not is_full(path):
            continue
        found = flaw(path, hashes)
        if found is None:
            return path
        say(f"{path}: {found}; using an earlier checkpoint")
    return None


def checkpoint_of(run: Path, name: str | None, say: Callable[[str], None]) -> Path:
    """The checkpoint of a run that goes by a name, or the newest whole one that is not right before an event.

    Raises:
        BadInput: when it holds no such checkpoint, or one that is damaged.
    """
    if name is None:
        newest = newest_checkpoint(run, say, before=False)
        if newest is None:
            raise BadInput(f"{run}: holds no whole checkpoint")
        return newest
    parsed = CheckpointName.parse(name.rstrip("/"))
    if parsed is None or not (run / str(parsed)).is_dir():
        known = [str(name) for name, _ in checkpoints(run)]
        message = (
            f"it has {', '.join(known[-3:])}" + (" and earlier ones" if len(known) > 3 else "") if known else "none"
        )
        raise BadInput(f"{run}: holds no checkpoint '{name}' ({message})")
    if found := flaw(run / str(parsed)):
        raise BadInput(f"{run / str(parsed)}: {found}")
    return run / str(parsed)


def is_full(checkpoint: Path) -> bool:
    """Whether a checkpoint holds the optimizer's state, so that training can go on from it. False for a broken one."""
    try:
        return OPTIMIZER in read_json(checkpoint / MANIFEST).get("files", {})
    except (BadInput, TypeError):
        return False


def flaw(checkpoint: Path, hashes: bool = False) -> str | None:
    """What keeps a checkpoint from being used, in a few words; None when its manifest and files agree.

    Args:
        checkpoint: its folder.
        hashes: whether files are read to the end and compared with their hashes, and not only their sizes.
    """
    try:
        files = listed(checkpoint)
        for name, message in files.items():
            if found := flaw_of_file(checkpoint / name, message, hashes):
                # A run that is training may have made it lighter since we read what it holds.
                return found if listed(checkpoint) == files else flaw(checkpoint, hashes)
    except BadInput as error:
        return str(error)
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


def listed(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """What a manifest says of each file: `bytes` and `sha256`. Raises BadInput, in a few words, when it is none."""
    if checkpoint.is_symlink():
        raise BadInput("is a link, which may lead out of the run")
    try:
        files = read_json(checkpoint / MANIFEST).get("files")
    except BadInput:
        raise BadInput(f"has no readable {MANIFEST}") from None
    if not isinstance(files, dict) or not files:
        raise BadInput(f"its {MANIFEST} lists no files")
    for name, message in files.items():
        if not is_name(name) or not isinstance(message, dict):
            raise BadInput(f"its {MANIFEST} names {name!r}, which is not a file of it")
    return files


def flaw_of_file(path: Path, message: dict[str, Any], hashes: bool) -> str | None:
    """How a file differs from what the manifest says of it, in a few words; None when it does not."""
    if path.is_symlink():
        return f"its {path.name} is a link, which may lead out of the run"
    if not path.is_file():
        return f"lacks {path.name}"
    try:
        if (size := path.stat().st_size) != message.get("bytes"):
            return f"its {path.name} has {size} bytes instead of {message.get('bytes')}"
        if hashes:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != message.get("sha256"):
                    return f"its {path.name} is not the one that was written (its hash differs)"
    except OSError as error:
        return f"its {path.name} cannot be read ({error.strerror})"
    return None


def is_name(name: object) -> bool:
    """Whether it names a file right in a folder, whichever: no path, no way up, no longer than a disk can name.

    >>> [is_name(name) for name in ("a.json", "../a", "/a", "..", "", 3, "x" * 256)]
    [True, False, False, False, False, False, False]
    """
    if not isinstance(name, str) or len(name.encode(errors="replace")) > 255:
        return False
    return Path(name).name == name and name not in ("", "..") and "\0" not in name


def leads_out(path: Path) -> bool:
    """Whether a file is a link that may lead anywhere.

    The cache of the Hugging Face hub keeps files as `models--NAME/blobs/HASH` and links to them in
    `models--NAME/snapshots/COMMIT/`. Such a link, which stays among the blobs of its own model, leads nowhere else.
    """
    if not path.is_symlink():
        return False
    snapshots = next((parent for parent in path.parent.resolve().parents if parent.name == "snapshots"), None)
    if snapshots is None or not snapshots.parent.name.startswith("models--"):
        return True
    return (snapshots.parent / "blobs").resolve() not in path.resolve().parents


def read_text(path: Path) -> str:
    """A run's file as text. Raises BadInput naming it when it is missing, a link, no text, or beyond all measure."""
    if leads_out(path):
        raise BadInput(f"{path}: is a link, which may lead out of the run")
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        if (size := path.stat().st_size) > LARGEST_TEXT:
            raise BadInput(f"{path}: has {size} bytes, and no more than {LARGEST_TEXT} are read")
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable as text ({error})") from None
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise BadInput(f"{path}: has more than {MOST_BRACKETS} lists and tables")
    return text


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises BadInput naming the file when it is missing, broken or something else."""
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(document, dict):
        raise BadInput(f"{path}: holds a {type(document).__name__} where a JSON object belongs")
    return document


def read_record(run: Path) -> dict[str, Any]:
    """Read a run's `run.json`, the config in it with today's keys. Raises as `read_json`."""
    record = read_json(run / RUN)
    return record | {"config": with_current_keys(record["config"])} if "config" in record else record


def with_current_keys(config: Any) -> Any:
    """A config, its tables and lists included, with renamed keys as they are spelled now.

    >>> with_current_keys({"growth": {"schedule": [{"initialiser": "clone"}]}})
    {'growth': {'schedule': [{'initializer': 'clone'}]}}
    """
    if isinstance(config, dict):
        return {RENAMED.get(key, key): with_current_keys(value) for key, value in config.items()}
    return [with_current_keys(value) for value in config] if isinstance(config, list) else config


def is_sharded(checkpoint: Path) -> bool:
    """Whether its weights are in shards: the one file goes before an index that is there too, as in transformers."""
    return (checkpoint / WEIGHTS_INDEX).exists() and not (checkpoint / WEIGHTS).exists()


def shards(index: Path) -> dict[str, str]:
    """Tensor name → the file of this folder that holds it. Raises BadInput when an index does not say, or leads out."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict):
        raise BadInput(f"{index}: has no weight_map")
    for name, shard in found.items():
        if not is_name(shard):
            raise BadInput(f"{index}: '{name}' points to {shard!r}, which is no file of this folder")
    return found


def require_run(folder: Path) -> Path:
    """Return `folder` when it is a run's. Raises BadInput saying what it is instead."""
    if not folder.exists():
        raise BadInput(f"{folder}: no such folder; `pli-train run` makes runs, under runs/ by default")
    if not (folder / RUN).is_file():
        message = " (it is a model's folder, and not what `pli-train run` made)" if (folder / CONFIG).is_file() else ""
        message = " (its parent is: use that)" if (folder.parent / RUN).is_file() else message
        raise BadInput(f"{folder}: not a run, it holds no {RUN}{message}")
    return folder


def newest_run(root: Path) -> Path:
    """The run under `root` that was begun last. Raises BadInput when there is none."""
    runs = [path.parent for path in root.glob(f"*/{RUN}")]
    if not runs:
        raise BadInput(f"no run under {root}/: train one with `pli-train run`, or name a run's folder")
    return max(runs, key=lambda run: (str(read_json(run / RUN).get("created", "")), run.name))


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
