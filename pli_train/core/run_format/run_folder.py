"""The run format: names of files, folders and scalars, and how to read them.

    runs/exp1/
      run.json               resolved config, versions, seed, command line, parent run if forked
      lineage.json           all layers and heads ever created, all growth events
      tokenizer/             Hugging Face's own files
      probe.safetensors      the held-out blocks of evaluations, all int32: `inputs` and `labels`, (blocks, block_size),
                             with label −100 where nothing is predicted; `block`, `document` and `stratum`, (blocks,),
                             the origin of each block; `strata`, (strata,), the number of blocks in each stratum
      train_sample.safetensors
                             training blocks that `pli-train sample` drew, all int32: `inputs`, `labels`, `block` and
                             `document` as above; `step`, (blocks,), the first update that used each block, from 1
      events.out.tfevents.*  all scalars
      run.lock               locked by the process that trains
      checkpoint-500/        the state after 500 updates and after the growth events of that step
      checkpoint-500-before/ the same step, before those events

Code that writes runs and code that reads them share these names. This module does not import torch.
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
"""Version of `run.json`. Some keys of the config had other names in version 1: `RENAMED`."""
RENAMED = {"initialiser": "initializer", "part_initialiser": "part_initializer"}
"""Renamed keys of a config: name in version 1 → current name."""
RUN = "run.json"
LINEAGE = "lineage.json"
TOKENIZER = "tokenizer"
PROBE = "probe.safetensors"
TRAIN_SAMPLE = "train_sample.safetensors"
GROWTH = "_growth"
"""Folder that GrowthCallback adds to the output of Hugging Face's Trainer: states before and after events, held-out
tokens and scalars, named as in a pli run. Trainer does not delete its content or resume from it, and does not push
names that start with an underscore to the hub."""
CONFIG = "config.json"
TRAINER_STATE = "trainer_state.json"
OPTIMIZER = "optimizer.safetensors"
MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
LOCK = "run.lock"
SCALARS = "events.out.tfevents.*"
PARTIAL = ".partial-"
"""Prefix of a checkpoint's name until it is complete."""

# Limits that keep a parsed file below a gigabyte of memory: an empty list takes 30 times the memory of its text.
LARGEST_TEXT = 64 * 2**20
MOST_BRACKETS = 4 * 10**6

# Hugging Face's tools look for `checkpoint-<step>`, so this is the name of the state from which training resumes.
_CHECKPOINT = re.compile(r"^checkpoint-(0|[1-9][0-9]{0,15})(-before)?$")

_EVENT_FILE = re.compile(r"tfevents\.(\d+)\.")

# Tags of scalars, for writers and readers.
LOSS = "train/loss"
EVAL_LOSS = "eval/loss"
EVAL_LOSS_SE = "eval/loss_se"
EVAL_LOSS_FULL = "eval/loss_full"
EVAL_TOKENS_FULL = "eval/loss_full_tokens"
EVAL_LOSS_BEFORE_EVENT = "eval/loss_before_event"
"""Only written by GrowthCallback, because `eval/loss` of Hugging Face's Trainer uses other text."""
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
    """A checkpoint's step, and whether it is after that step's events. The state before events sorts first."""

    step: int
    after: bool = True

    def __str__(self) -> str:
        return f"checkpoint-{self.step}" + ("" if self.after else "-before")

    @classmethod
    def parse(cls, name: str) -> CheckpointName | None:
        """Parse a folder's name; return None if it is not a checkpoint's.

        >>> CheckpointName.parse("checkpoint-500-before")
        CheckpointName(step=500, after=False)
        >>> CheckpointName.parse("checkpoint-best") is None
        True
        """
        match = _CHECKPOINT.match(name)
        return cls(int(match[1]), match[2] is None) if match else None


def checkpoints(run: Path) -> list[tuple[CheckpointName, Path]]:
    """Return all checkpoint folders of a run in order, complete or not."""
    named = ((CheckpointName.parse(path.name), path) for path in run.iterdir() if path.is_dir())
    return sorted((name, path) for name, path in named if name is not None)


def newest_checkpoint(
    run: Path, say: Callable[[str], None], before: bool = True, full: bool = False, hashes: bool = False
) -> Path | None:
    """Return the last complete checkpoint of a run, or None.

    Args:
        run: folder of the run.
        say: function that is called with one line for each damaged checkpoint that is skipped.
        before: whether to include checkpoints saved just before a growth event.
        full: whether to return only a checkpoint from which training can resume; others are skipped silently.
        hashes: whether to read every file and compare its hash.
    """
    for name, path in reversed(checkpoints(run)):
        if not (before or name.after):
            continue
        if full and flaw(path) is None and not is_full(path):
            continue
        problem = flaw(path, hashes)
        if problem is None:
            return path
        say(f"{path}: {problem}; using an earlier checkpoint")
    return None


def checkpoint_of(run: Path, name: str | None, say: Callable[[str], None]) -> Path:
    """Return a run's checkpoint by name, or by default the last complete one that is not just before an event.

    Args:
        run: folder of the run.
        name: name of the checkpoint, or None.
        say: as in `newest_checkpoint`.

    Raises:
        BadInput: if there is no such checkpoint, or it is damaged.
    """
    if name is None:
        newest = newest_checkpoint(run, say, before=False)
        if newest is None:
            raise BadInput(f"{run}: holds no whole checkpoint")
        return newest
    parsed = CheckpointName.parse(name.rstrip("/"))
    if parsed is None or not (run / str(parsed)).is_dir():
        known = [str(name) for name, _ in checkpoints(run)]
        existing = (
            f"it has {', '.join(known[-3:])}" + (" and earlier ones" if len(known) > 3 else "") if known else "none"
        )
        raise BadInput(f"{run}: holds no checkpoint '{name}' ({existing})")
    if problem := flaw(run / str(parsed)):
        raise BadInput(f"{run / str(parsed)}: {problem}")
    return run / str(parsed)


def is_full(checkpoint: Path) -> bool:
    """Return whether a checkpoint holds the optimizer's state, so that training can resume. False if damaged."""
    try:
        return OPTIMIZER in read_json(checkpoint / MANIFEST).get("files", {})
    except (BadInput, TypeError):
        return False


def flaw(checkpoint: Path, hashes: bool = False) -> str | None:
    """Return the problem of a damaged checkpoint in a few words; None if its manifest and files agree.

    Args:
        checkpoint: folder of the checkpoint.
        hashes: whether to compare the files' hashes too, not only their sizes.
    """
    try:
        files = listed(checkpoint)
        for name, entry in files.items():
            if problem := flaw_of_file(checkpoint / name, entry, hashes):
                # A running training may have removed files from the checkpoint since the manifest was read.
                return problem if listed(checkpoint) == files else flaw(checkpoint, hashes)
    except BadInput as error:
        return str(error)
    return None


def order_of(event_file: Path) -> int:
    """Return the number in the name of an event file, which increases with each process of a run; 0 without one.

    TensorBoard uses the time in seconds, and reads the files of a folder in the order of their names. As a clock may be
    set back between two processes, pli uses at least the last process's number plus one.

    >>> order_of(Path("events.out.tfevents.1700000000.host.7.0"))
    1700000000
    """
    match = _EVENT_FILE.search(event_file.name)
    return int(match[1]) if match else 0


def listed(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Return the manifest's entry of each file: `bytes` and `sha256`. Raises BadInput if the manifest is invalid."""
    if checkpoint.is_symlink():
        raise BadInput("is a link, which may lead out of the run")
    try:
        files = read_json(checkpoint / MANIFEST).get("files")
    except BadInput:
        raise BadInput(f"has no readable {MANIFEST}") from None
    if not isinstance(files, dict) or not files:
        raise BadInput(f"its {MANIFEST} lists no files")
    for name, entry in files.items():
        if not is_name(name) or not isinstance(entry, dict):
            raise BadInput(f"its {MANIFEST} names {name!r}, which is not a file of the checkpoint")
    return files


def flaw_of_file(path: Path, entry: dict[str, Any], hashes: bool) -> str | None:
    """Return how a file differs from its manifest entry, in a few words; None if it does not."""
    if path.is_symlink():
        return f"its {path.name} is a link, which may lead out of the run"
    if not path.is_file():
        return f"lacks {path.name}"
    try:
        if (size := path.stat().st_size) != entry.get("bytes"):
            return f"its {path.name} has {size} bytes, expected {entry.get('bytes')}"
        if hashes:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry.get("sha256"):
                    return f"its {path.name} has changed (its hash differs)"
    except OSError as error:
        return f"its {path.name} cannot be read ({error.strerror})"
    return None


def is_name(name: object) -> bool:
    """Return whether a value is a valid file name without folders, of at most 255 bytes.

    >>> [is_name(name) for name in ("a.json", "../a", "/a", "..", "", 3, "x" * 256)]
    [True, False, False, False, False, False, False]
    """
    if not isinstance(name, str) or len(name.encode(errors="replace")) > 255:
        return False
    return Path(name).name == name and name not in ("", "..") and "\0" not in name


def leads_out(path: Path) -> bool:
    """Return whether a file is a link that may lead out of its folder.

    The cache of the Hugging Face hub stores files as `models--NAME/blobs/HASH` and links to them in
    `models--NAME/snapshots/COMMIT/`. Links to the blobs of the same model are allowed.
    """
    if not path.is_symlink():
        return False
    snapshots = next((parent for parent in path.parent.resolve().parents if parent.name == "snapshots"), None)
    if snapshots is None or not snapshots.parent.name.startswith("models--"):
        return True
    return (snapshots.parent / "blobs").resolve() not in path.resolve().parents


def read_text(path: Path) -> str:
    """Read a run's file as text. Raises BadInput naming it if it is missing, a link, not text, or too large."""
    if leads_out(path):
        raise BadInput(f"{path}: is a link, which may lead out of the run")
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        if (size := path.stat().st_size) > LARGEST_TEXT:
            raise BadInput(f"{path}: has {size} bytes, more than the limit of {LARGEST_TEXT}")
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable as text ({error})") from None
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise BadInput(f"{path}: has more than {MOST_BRACKETS} lists and tables")
    return text


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises BadInput naming the file if it is missing, invalid or not an object."""
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(document, dict):
        raise BadInput(f"{path}: holds a {type(document).__name__}, expected a JSON object")
    return document


def read_record(run: Path) -> dict[str, Any]:
    """Read a run's `run.json`, with renamed config keys replaced by their current names. Raises as `read_json`."""
    record = read_json(run / RUN)
    return record | {"config": with_current_keys(record["config"])} if "config" in record else record


def with_current_keys(config: Any) -> Any:
    """Return a config with renamed keys replaced by their current names, also in its tables and lists.

    >>> with_current_keys({"growth": {"schedule": [{"initialiser": "clone"}]}})
    {'growth': {'schedule': [{'initializer': 'clone'}]}}
    """
    if isinstance(config, dict):
        return {RENAMED.get(key, key): with_current_keys(value) for key, value in config.items()}
    return [with_current_keys(value) for value in config] if isinstance(config, list) else config


def is_sharded(checkpoint: Path) -> bool:
    """Return whether the weights are in shards. As in transformers, a single file takes precedence over an index."""
    return (checkpoint / WEIGHTS_INDEX).exists() and not (checkpoint / WEIGHTS).exists()


def shards(index: Path) -> dict[str, str]:
    """Return tensor name → file name of its shard. Raises BadInput if the index is invalid or leaves its folder."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise BadInput(f"{index}: has no weight_map")
    for name, shard in weight_map.items():
        if not is_name(shard):
            raise BadInput(f"{index}: '{name}' points to {shard!r}, which is not a file of this folder")
    return weight_map


def require_run(folder: Path) -> Path:
    """Return `folder` if it is a run's. Raises BadInput otherwise."""
    if not folder.exists():
        raise BadInput(f"{folder}: no such folder; `pli-train run` makes runs, under runs/ by default")
    if not (folder / RUN).is_file():
        hint = " (it is a model's folder, not one made by `pli-train run`)" if (folder / CONFIG).is_file() else ""
        hint = " (its parent is a run: use that)" if (folder.parent / RUN).is_file() else hint
        raise BadInput(f"{folder}: not a run, it holds no {RUN}{hint}")
    return folder


def newest_run(root: Path) -> Path:
    """Return the run under `root` that was started last. Raises BadInput if there is none."""
    runs = [path.parent for path in root.glob(f"*/{RUN}")]
    if not runs:
        raise BadInput(f"no run under {root}/: train one with `pli-train run`, or name a run's folder")
    return max(runs, key=lambda run: (str(read_json(run / RUN).get("created", "")), run.name))


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config with dotted keys instead of nested tables, and lists as JSON.

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
