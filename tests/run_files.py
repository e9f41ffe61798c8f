"""The files of a run: what they hold, and how tests change them."""

import hashlib
import json

from pli_analysis.scalars.reading import read
from pli_train.checkpointing import checkpoint
from pli_train.core.run_format import run_folder
from pli_train.models import safe_loading
from pli_train.training import trainer_state

AT = "checkpoint-3"
FILES = [
    *(run_folder.RUN, run_folder.LINEAGE),
    *(f"{AT}/{name}" for name in (run_folder.MANIFEST, run_folder.LINEAGE, run_folder.CONFIG, safe_loading.GENERATION)),
    *(f"{AT}/{name}" for name in (run_folder.TRAINER_STATE, run_folder.WEIGHTS, run_folder.OPTIMIZER)),
]
"""Of a run that has such a checkpoint."""


def content(run):
    """Everything that a run is made of, byte for byte: checkpoints, lineage and scalars, but no clocks."""
    found = {}
    for name, folder in run_folder.checkpoints(run):
        for path in sorted(folder.iterdir()):
            if path.name not in (run_folder.MANIFEST, run_folder.TRAINER_STATE):
                found[f"{name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        state = json.loads((folder / run_folder.TRAINER_STATE).read_text())
        state["stateful_callbacks"][trainer_state.OURS].pop("seconds")
        found[f"{name}/state"] = state
    clocks = (run_folder.SECONDS, run_folder.TOKENS_PER_SECOND)
    for tag, points in read(run).values.items():
        if tag not in clocks:
            found[tag] = {step: value for step, (_, value) in points.items()}
    found["lineage"] = (run / run_folder.LINEAGE).read_text()
    return found


def vouch(path):
    """Let a checkpoint's manifest say of a changed file what the file is now."""
    manifest = path.with_name(run_folder.MANIFEST)
    message = json.loads(manifest.read_text())
    message["files"][path.name] = {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    manifest.write_text(json.dumps(message))


def toml(table):
    """A resolved config as TOML: JSON's values are TOML's too, once tables are dotted keys; lists are JSON by then."""
    flat = {key: value for key, value in run_folder.flatten(table).items() if value is not None}
    lists = {key for key, value in flat.items() if isinstance(value, str) and value.startswith("[")}
    return "\n".join(f"{key} = {value if key in lists else json.dumps(value)}" for key, value in flat.items())


def sharded(folder):
    """Let a checkpoint have its weights in shards, as transformers writes big ones."""
    found = checkpoint.read(folder)
    (folder / run_folder.WEIGHTS).unlink()
    found.model.save_pretrained(folder, max_shard_size="40KB")
    manifest = {"files": {}}
    (folder / run_folder.MANIFEST).write_text(json.dumps(manifest))
    for path in sorted(folder.iterdir()):
        if path.name != run_folder.MANIFEST:
            vouch(path)
    return found


def names(run):
    """Of all checkpoints, in order."""
    return [str(name) for name, _ in run_folder.checkpoints(run)]


def full(run):
    """Names of the checkpoints that can be resumed from."""
    return [str(name) for name, path in run_folder.checkpoints(run) if run_folder.is_full(path)]
