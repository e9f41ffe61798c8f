"""Fork a run at a checkpoint: the twin has the same data order and randomness.

A twin without the events to come is the counterfactual against which their effect is measured.
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
"""Sections in which a twin may differ from its parent, beside train.steps."""


def fork(
    run: Path, step: int, out: Path, growth: bool = True, changes: Sequence[str] = (), show: NullReporter | None = None
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
    show = show or NullReporter()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput("fork works in one process: stop the twin and go on with `pli-train resume` in several")
    if out.exists():
        raise BadInput(f"{out}: already exists; name another folder")
    source = _source(run_folder.require_run(run), step, growth)
    lineage = Lineage.read(source / run_folder.LINEAGE)
    config = _config(run, out, None if growth else len(lineage.events), changes)
    plan = RunPlan.make(config, launch.corpus_of(config, run, show.say), processes=1)
    _check_growth(plan, lineage, step)
    # A killed fork leaves no folder that `resume` would take for a run: all of it appears by one rename.
    partial = out.with_name(run_folder.PARTIAL + out.name)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _copy_run(run, source, partial)
        parent = Parent(str(run.resolve()), source.name, run.resolve().name)
        record = twin_record(run_folder.read_json(run / run_folder.RUN), config, plan.total_steps, parent)
        checkpoint.write_text(partial / run_folder.RUN, record)
        checkpoint.write_text(partial / run_folder.LINEAGE, lineage.to_json())
        partial.rename(out)
        twin = launch.resume(config, out, show)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    show.say(f"{out}: a twin of {source}, {len(lineage.stack)} layers ({lineage})")
    return twin


def _source(run: Path, step: int, growth: bool) -> Path:
    """The checkpoint to fork at. Raises BadInput naming the steps there are when it is not there, whole and full."""
    before, after = (run / str(CheckpointName(step, after)) for after in (False, True))
    grows = after.is_dir() and any(event.step == step for event in Lineage.read(after / run_folder.LINEAGE).events)
    # Of a finished run perhaps only the one before the event still holds the optimizer's state: the twin grows anew.
    candidates = [before] if grows and not growth else [after, before]
    there = [path for path in candidates if path.is_dir()] or [before]
    wanted = next((path for path in there if run_folder.is_full(path)), there[0])
    if not wanted.is_dir():
        steps = sorted({name.step for name, path in run_folder.checkpoints(run) if run_folder.is_full(path)})
        message = ", ".join(map(str, steps)) or "no step"
        without = " without the event of that step" if grows else ""
        raise BadInput(f"--at {step}: {run} has no checkpoint of step {step}{without}; there are those of {message}")
    flaw = run_folder.flaw(wanted, hashes=True)
    if flaw or not run_folder.is_full(wanted):
        raise BadInput(f"--at {step}: {wanted}: {flaw or 'holds weights only: training cannot go on from it'}")
    return wanted


def _config(run: Path, out: Path, events: int | None, changes: Sequence[str]) -> RunConfig:
    """The twin's config: the parent's, the changes that a twin may have, and no event after the first `events`."""
    for change in changes:
        key = change.partition("=")[0].strip()
        if key != "train.steps" and not key.startswith(MAY_CHANGE):
            raise BadInput(
                f"--set {change}: a twin has its parent's model, data and order of data; "
                "it may differ in optim, growth, train.steps, checkpoint and tracking"
            )
    config = configs.of_run(run, changes)
    update: dict[str, object] = {"name": re.sub(r"[^\w.\-]", "-", out.name)}
    if events is not None:
        update["growth"] = config.growth.model_copy(update={"events_kept": events})
    return config.model_copy(update=update)


def _check_growth(plan: RunPlan, lineage: Lineage, step: int) -> None:
    """Raise BadInput unless the twin's schedule goes on where the lineage stands."""
    if plan.total_steps < step:
        raise BadInput(f"--at {step}: lies behind the end, which is step {plan.total_steps}")
    done = len(lineage.events)
    expected = plan.events[done - 1].lineage if 0 < done <= len(plan.events) else None
    if done and (expected is None or (expected.stack, expected.shapes()) != (lineage.stack, lineage.shapes())):
        raise BadInput(
            f"growth.schedule: its first {done} events do not make the layers that are there at step {step} ({lineage})"
        )
    for planned in plan.events[done:]:
        if planned.step is not None and planned.step < step:
            raise BadInput(f"growth.schedule: {planned.event} is due at step {planned.step}, before the fork at {step}")


def _copy_run(run: Path, source: Path, target: Path) -> None:
    """Copy a checkpoint, the files that its manifest lists, with the run's tokenizer and held-out blocks."""
    (target / source.name).mkdir(parents=True)
    for name in (*run_folder.listed(source), run_folder.MANIFEST):
        shutil.copyfile(source / name, target / source.name / name)
    if flaw := run_folder.flaw(target / source.name, hashes=True):
        raise BadInput(f"{source}: its copy {flaw}")
    if (run / run_folder.TOKENIZER).is_dir():
        shutil.copytree(run / run_folder.TOKENIZER, target / run_folder.TOKENIZER, symlinks=True)
    if (run / run_folder.PROBE).is_file():
        shutil.copyfile(run / run_folder.PROBE, target / run_folder.PROBE)
