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

from pli_train.checkpointing import checkpoint
from pli_train.config import loading as configs
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName
from pli_train.training import launch
from pli_train.training.progress import NullReporter
from pli_train.training.run_plan import RunPlan
from pli_train.training.run_record import twin_record
from pli_train.training.warm_start import Parent

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig
    from pli_train.training.trainer import Trainer

MAY_CHANGE = ("optim.", "growth.", "checkpoint.", "tracking.")
"""Sections in which a twin may differ from its parent, in addition to train.steps."""


def fork(
    run: Path, step: int, out: Path, growth: bool = True, changes: Sequence[str] = (), show: NullReporter | None = None
) -> Trainer:
    """Fork a run at a step into a new run folder; return the trainer, whose `run` trains to the end.

    Args:
        run: folder of the parent, which is only read.
        step: a step for which the parent has a checkpoint.
        out: folder of the twin, which must not exist.
        growth: whether to apply the remaining events. If False, an event at the step itself is left out too.
        changes: `section.key=value` settings that differ: optim, growth, train.steps, checkpoint, tracking.
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
    _check_growth(plan, lineage, step)
    # The folder appears by one rename, so that a killed fork leaves nothing that `resume` would accept as a run.
    partial = out.with_name(run_folder.PARTIAL + out.name)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _copy_run(run, source, partial)
        parent = Parent(str(run.resolve()), source.name, run.resolve().name)
        record = twin_record(run_folder.read_json(run / run_folder.RUN), config, plan.total_steps, parent)
        checkpoint.write_text(partial / run_folder.RUN, record)
        checkpoint.write_text(partial / run_folder.LINEAGE, lineage.to_json())
        partial.rename(out)
        twin = launch.resume(config, out, show, text=text)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
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
        if key != "train.steps" and not key.startswith(MAY_CHANGE):
            raise BadInput(
                f"--set {change}: a twin has the model, data and data order of its parent; "
                "it may differ in optim, growth, train.steps, checkpoint and tracking"
            )
    config = configs.of_run(run, changes)
    update: dict[str, object] = {"name": re.sub(r"[^\w.\-]", "-", out.name)}
    if events is not None:
        update["growth"] = config.growth.model_copy(update={"events_kept": events})
    return config.model_copy(update=update)


def _check_growth(plan: RunPlan, lineage: Lineage, step: int) -> None:
    """Raise BadInput unless the twin's schedule continues the lineage."""
    if plan.total_steps < step:
        raise BadInput(f"--at {step}: is after the last step, {plan.total_steps}")
    done = len(lineage.events)
    expected = plan.events[done - 1].lineage if 0 < done <= len(plan.events) else None
    if done and (expected is None or (expected.stack, expected.shapes()) != (lineage.stack, lineage.shapes())):
        raise BadInput(
            f"growth.schedule: its first {done} events do not result in the layers at step {step} ({lineage})"
        )
    for planned in plan.events[done:]:
        if planned.step is not None and planned.step < step:
            raise BadInput(f"growth.schedule: {planned.event} is due at step {planned.step}, before the fork at {step}")


def _copy_run(run: Path, source: Path, target: Path) -> None:
    """Copy a checkpoint's files, as listed in its manifest, and the run's tokenizer and held-out blocks."""
    (target / source.name).mkdir(parents=True)
    for name in (*run_folder.listed(source), run_folder.MANIFEST):
        shutil.copyfile(source / name, target / source.name / name)
    if flaw := run_folder.flaw(target / source.name, hashes=True):
        raise BadInput(f"{source}: its copy {flaw}")
    if (run / run_folder.TOKENIZER).is_dir():
        shutil.copytree(run / run_folder.TOKENIZER, target / run_folder.TOKENIZER, symlinks=True)
    if (run / run_folder.PROBE).is_file():
        shutil.copyfile(run / run_folder.PROBE, target / run_folder.PROBE)
