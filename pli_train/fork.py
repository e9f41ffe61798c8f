"""Twins: a run forked at a checkpoint, with the same data order and randomness, and something else changed or nothing.

A twin without the events to come is the counterfactual against which their effect is measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train import checkpoint, corpus, run_folder
from pli_train import config as configs
from pli_train import trainer as trainers
from pli_train.errors import BadInput
from pli_train.lineage import BadLineage, Lineage
from pli_train.parent import Parent
from pli_train.progress import Silent
from pli_train.provenance import run_record
from pli_train.run_folder import CheckpointName

if TYPE_CHECKING:
    from pli_train.config import RunConfig
    from pli_train.trainer import Trainer

MAY_CHANGE = ("optim.", "growth.", "train.steps", "checkpoint.", "tracking.")


def fork(
    run: Path, step: int, out: Path, growth: bool = True, changes: Sequence[str] = (), show: Silent | None = None
) -> Trainer:
    """A trainer at a step of a run, in a run folder of its own; its `run` trains to the end.

    Args:
        run: the parent's folder, which is only read.
        step: a step of which the parent has a checkpoint.
        out: the twin's folder, which does not exist yet.
        growth: whether events that have not happened by then will happen. Without, an event of that very step is
            not taken over either.
        changes: `section.key=value` of what may differ: optim, growth, train.steps, checkpoint, tracking.

    Raises:
        BadInput: when there is no whole checkpoint of that step, or a change is not one that a twin may have.
    """
    show = show or Silent()
    if out.exists():
        raise BadInput(f"{out}: already exists; name another folder")
    source = _source(run, step, growth)
    lineage = _lineage(source)
    config = _config(run, out, None if growth else len(lineage.events), changes)
    parent = Parent(str(run.resolve()), source.name, run.resolve().name)
    partial = out.with_name(run_folder.PARTIAL + out.name)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        shutil.copytree(source, partial / source.name)
        text = corpus.load(config.data, config.tokenizer, show.say)
        twin = trainers.resume(config, _with_record(partial, config, text, run, parent), show)
        _check_past(twin, step)
        record = run_record(config, text, twin.total_steps, parent)
        (partial / run_folder.RUN).write_text(record, encoding="utf-8")
        checkpoint.write_text(partial / run_folder.LINEAGE, lineage.to_json())
        text.keep(partial / run_folder.TOKENIZER)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    twin.folder = out
    show.say(f"twin of {source}: {out}")
    return twin
