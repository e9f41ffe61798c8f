"""Contents of `run.json`: config, versions, plugins, seed, command line."""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.core import plugins
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pli_train.training.run_plan import RunPlan
    from pli_train.training.warm_start import Parent

VERSIONS = ("pli", "torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy")


def run_record(plan: RunPlan, parent: Parent | None = None) -> str:
    """Return the run's record as JSON: resolved config, seed, command line, versions, plugins, corpus, parent."""
    corpus = plan.corpus
    return _record(plan, {"about": corpus.about, "fingerprint": corpus.fingerprint, **corpus.counts}, parent)


def twin_record(record: dict[str, Any], plan: RunPlan, parent: Parent) -> str:
    """Return the record of a twin as JSON. `record` is that of its parent, whose corpus it uses."""
    return _record(plan, record["corpus"], parent)


def _record(plan: RunPlan, about: dict[str, Any], parent: Parent | None) -> str:
    used = plugins.record(plan.plugins)
    record = {
        "format": "pli-run",
        "version": run_folder.VERSION,
        "name": plan.config.name,
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": plan.config.seed,
        "total_steps": plan.total_steps,
        "parent": parent and parent.record,
        "corpus": about,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        **({"plugins": used} if used else {}),
        "config": plan.config.model_dump(),
    }
    return json.dumps(record, indent=1) + "\n"
