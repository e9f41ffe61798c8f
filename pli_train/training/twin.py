"""Create the folder of a twin: a run that continues from a checkpoint of another run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.checkpointing import checkpoint
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.training.run_record import twin_record
from pli_train.training.warm_start import Parent

if TYPE_CHECKING:
    from pli_train.training.run_plan import RunPlan


def check(plan: RunPlan, lineage: Lineage, step: int) -> None:
    """Raise BadInput unless the plan of a twin continues the lineage of its parent at a step."""
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


def create(run: Path, source: Path, out: Path, plan: RunPlan) -> None:
    """Create the folder of a twin, which `launch.resume` then trains.

    The folder appears by one rename, so that a killed process leaves nothing that `resume` would accept as a run.

    Args:
        run: folder of the parent.
        source: its checkpoint.
        out: folder of the twin, which must not exist.
        plan: of the twin.

    Raises:
        BadInput: when the checkpoint is damaged.
    """
    partial = out.with_name(run_folder.PARTIAL + out.name)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _copy_run(run, source, partial)
        parent = Parent(str(run.resolve()), source.name, run.resolve().name)
        record = twin_record(run_folder.read_json(run / run_folder.RUN), plan, parent)
        checkpoint.write_text(partial / run_folder.RUN, record)
        lineage = Lineage.read(source / run_folder.LINEAGE)
        checkpoint.write_text(partial / run_folder.LINEAGE, lineage.to_json())
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
