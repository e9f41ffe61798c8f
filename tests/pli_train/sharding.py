"""Checkpoints in shards, as transformers writes those of big models."""

import json

from pli_train import checkpoint, run_folder
from tests.pli_train.test_trainer import vouch


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
