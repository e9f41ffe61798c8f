"""Fork a run at a checkpoint: the twin has the same data order and random seeds.

A twin without the remaining events is the counterfactual for measuring their effect.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.config import loading as configs
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName
from pli_train.training import launch
from pli_train.training import twin as twins
from pli_train.training.progress import NullReporter
from pli_train.training.run_plan import RunPlan

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig
    from pli_train.training.trainer import Trainer

MAY_CHANGE = ("optim.", "growth.", "checkpoint.", "tracking.")
"""Sections in which a twin may differ from its parent, in addition to MAY_CHANGE_KEYS."""
MAY_CHANGE_KEYS = ("train.steps", "train.order")


def fork(
    run: Path, step: int, out: Path, growth: bool = True, changes: Sequence[str] = (), show: NullReporter | None = None
) -> Trainer:
    """Fork a run at a step into a new run folder; return the trainer, whose `run` trains to the end.

    Args:
        run: folder of the parent, which is only read.
        step: a step for which the parent has a checkpoint.
        out: folder of the twin, which must not exist.
        growth: whether to apply the remaining events. If False, an event at the step itself is left out too.
        changes: `section.key=value` settings that differ, of MAY_CHANGE and MAY_CHANGE_KEYS.
        show: reporter of progress.

    Raises:
        BadInput: if there is no complete checkpoint of that step, or a twin may not differ in a changed setting.
    """
    show = show or NullReporter()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput(
            "fork works in one process only: run it in one, stop the twin, then run `pli-train resume` in several"
        )
    if out.exists():
        raise BadInput(f"{out}: already exists; name another folder")
    source = _starting_checkpoint(run_folder.require_run(run), step, growth)
    lineage = Lineage.read(source / run_folder.LINEAGE)
    config = _config(run, out, None if growth else len(lineage.events), changes)
    text = launch.corpus_of(config, run, show.say)
    plan = RunPlan.make(config, text, processes=1)
    twins.check(plan, lineage, step)
    twins.create(run, source, out, plan)
    try:
        twin = launch.resume(config, out, show, text=text)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    show.say(f"{out}: twin of {source}, {len(lineage.stack)} layers ({lineage})")
    return twin


def _starting_checkpoint(run: Path, step: int, growth: bool) -> Path:
    """Return the checkpoint to fork at. Raises BadInput if it is missing, damaged or holds only weights."""
    before, after = (run / str(CheckpointName(step, after)) for after in (False, True))
    grows = after.is_dir() and any(event.step == step for event in Lineage.read(after / run_folder.LINEAGE).events)
    # In a finished run, only the checkpoint before the event may hold the optimizer's state; the twin then grows again.
    candidates = [before] if grows and not growth else [after, before]
    existing = [path for path in candidates if path.is_dir()] or [before]
    wanted = next((path for path in existing if run_folder.is_full(path)), existing[0])
    if not wanted.is_dir():
        steps = sorted({name.step for name, path in run_folder.checkpoints(run) if run_folder.is_full(path)})
        known = ", ".join(map(str, steps)) or "none"
        without = " without the event of that step" if grows else ""
        raise BadInput(f"--at {step}: {run} has no checkpoint of step {step}{without}; steps with checkpoints: {known}")
    flaw = run_folder.flaw(wanted, hashes=True)
    if flaw or not run_folder.is_full(wanted):
        raise BadInput(f"--at {step}: {wanted}: {flaw or 'holds only weights: training cannot resume from it'}")
    return wanted


def _config(run: Path, out: Path, events: int | None, changes: Sequence[str]) -> RunConfig:
    """Return the twin's config: the parent's with changes, and only the first `events` events unless None."""
    for change in changes:
        key = change.partition("=")[0].strip()
        if key not in MAY_CHANGE_KEYS and not key.startswith(MAY_CHANGE):
            raise BadInput(
                f"--set {change}: a twin has the model and data of its parent; "
                f"it may differ in optim, growth, {', '.join(MAY_CHANGE_KEYS)}, checkpoint and tracking"
            )
    config = configs.of_run(run, changes)
    update: dict[str, object] = {"name": re.sub(r"[^\w.\-]", "-", out.name)}
    if events is not None:
        update["growth"] = config.growth.model_copy(update={"events_kept": events})
    return config.model_copy(update=update)
