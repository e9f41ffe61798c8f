"""Contents of `run.json`: config, versions, seed, command line."""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig
    from pli_train.data.sources.digits import ImageCorpus
    from pli_train.data.tokenization import TokenizedText
    from pli_train.training.warm_start import Parent

VERSIONS = ("pli", "torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy")


def run_record(
    config: RunConfig, text: TokenizedText | ImageCorpus, total_steps: int, parent: Parent | None = None
) -> str:
    """Return the run's record as JSON: resolved config, seed, command line, versions, corpus, parent."""
    about = {"about": text.about, "fingerprint": text.fingerprint, **text.counts}
    return _record(config, about, total_steps, parent)


def twin_record(record: dict[str, Any], config: RunConfig, total_steps: int, parent: Parent) -> str:
    """Return the record of a twin as JSON. `record` is that of its parent, whose corpus it uses."""
    return _record(config, record["corpus"], total_steps, parent)


def _record(config: RunConfig, about: dict[str, Any], total_steps: int, parent: Parent | None) -> str:
    record = {
        "format": "pli-run",
        "version": run_folder.VERSION,
        "name": config.name,
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": config.seed,
        "total_steps": total_steps,
        "parent": parent and parent.record,
        "corpus": about,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        "config": config.model_dump(),
    }
    return json.dumps(record, indent=1) + "\n"
