"""Open a run of pli-train, Trainer output or model folders, by what a path holds."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonpath
from pathlib import Path

from pli_analysis.runs import paths as run_paths
from pli_analysis.runs import unsupported_formats
from pli_analysis.runs.foreign import ForeignRun, Label
from pli_analysis.runs.model_folders import checkpoints_in, flaw, is_model, linked_steps_in, steps_in
from pli_analysis.runs.run import ProgressCallback, Run
from pli_analysis.runs.step_names import by_name
from pli_analysis.scalars.trainer_log import damage_of
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName


def open_run(
    path: str | Path | Sequence[str | Path],
    hashes: bool = False,
    lineage: str | Path | None = None,
    on_progress: ProgressCallback = lambda done, total: None,
    stack: str | None = None,
) -> Run:
    """Open a run of pli-train, Trainer output, a model folder or several checkpoints of one model.

    Examples:
        >>> open_run("/nowhere")
        Traceback (most recent call last):
            ...
        pli_train.core.errors.BadInput: /nowhere: no such folder; `pli-train run` makes runs, under runs/ by default

    Args:
        path: a run folder, the output folder of Hugging Face's Trainer, or one or several model folders.
        hashes: whether to check every file of a checkpoint against its SHA-256, not only its size.
        lineage: for foreign checkpoints, a `lineage.json` to use.
        on_progress: for foreign checkpoints, called with (done, total) while layers are followed through them.
        stack: for foreign checkpoints, the path of the list of layers to read if there are several.

    Raises:
        BadInput: if the path holds nothing of the kind, or an argument does not apply to what it holds.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
    if len(paths) == 1:
        paths = [_run_inside(paths[0])]
    if len(paths) == 1 and ((paths[0] / run_folder.RUN).is_file() or not paths[0].is_dir() or _is_in_run(paths[0])):
        if lineage is not None:
            raise BadInput(f"--lineage {lineage}: not allowed, {paths[0]} is a run and has its own lineage")
        if stack is not None:
            raise BadInput(f"--stack {stack}: not allowed, {paths[0]} is a run, whose layers are known")
        return Run(run_folder.require_run(paths[0]), hashes)
    if hashes:
        raise BadInput(f"{paths[0]}: not a run of pli-train, so there are no hashes for --verify")
    try:
        return open_foreign(paths, None if lineage is None else Path(lineage), on_progress, stack)
    except BadInput:
        if len(paths) == 1 and (paths[0] / run_folder.RUN).is_file():  # it became a run in the meantime
            return open_run(paths[0], hashes, lineage, on_progress, stack)
        raise


def newest_run(root: str | Path = "runs") -> Run:
    """Return the run under `root` that was started last. Raises BadInput if there is none."""
    return Run(run_folder.newest_run(Path(root)))


def _run_inside(path: Path) -> Path:
    """Return the only run of `pli-train` in a folder of runs; else the path itself. Raises BadInput for several."""
    if not path.is_dir() or (path / run_folder.RUN).is_file() or _is_in_run(path):
        return path
    only = run_paths.alone(path) if run_paths.kind_of(path) is None else None
    return only if only is not None and (only / run_folder.RUN).is_file() else path


def _is_in_run(folder: Path) -> bool:
    """Return whether a folder is directly in a run folder, as checkpoints are; the user usually means the run."""
    return (folder.resolve().parent / run_folder.RUN).is_file()


# --- models and checkpoints of other trainers ---


def open_foreign(
    paths: Sequence[Path],
    lineage_file: Path | None = None,
    on_progress: ProgressCallback = lambda done, total: None,
    stack: str | None = None,
) -> ForeignRun:
    """Open Trainer's output, a model folder, or several checkpoint folders.

    Args:
        paths: one output folder, or checkpoint folders in order.
        lineage_file: a `lineage.json` to use.
        on_progress: called with (done, total) checkpoints while layers are followed through them.
        stack: path of the list of layers to read.

    Raises:
        BadInput: if there is nothing of the kind.
    """
    for path in paths:
        if not path.is_dir():
            raise BadInput(f"{path}: no such folder")
    if len(paths) == 1:
        inside = checkpoints_in(paths[0])
        if inside:
            return ForeignRun(
                paths[0], found=tuple(inside), lineage_file=lineage_file, on_progress=on_progress, stack=stack
            )
        if steps := steps_in(paths[0]):
            named, counted = _named(steps)
            return ForeignRun(
                paths[0],
                found=tuple(named),
                lineage_file=lineage_file,
                linked=tuple(linked_steps_in(paths[0])),
                counted=counted,
                on_progress=on_progress,
                stack=stack,
            )
        if not is_model(paths[0]):
            if unsupported_formats.has_weights(paths[0]) or unsupported_formats.explain(paths[0]):
                raise BadInput(f"{paths[0]}: {flaw(paths[0])}")
            return _open_below(paths[0], lineage_file, on_progress, stack)
    for path in paths:
        if (path / run_folder.RUN).is_file() and len(paths) > 1:
            raise BadInput(f"{path}: is a run; give it alone, or give several checkpoints")
        if len(paths) > 1 and (run_folder.checkpoints(path) or steps_in(path)):
            raise BadInput(f"{path}: holds several checkpoints; give it alone, or give the checkpoints themselves")
        if reason := flaw(path):
            raise BadInput(f"{path}: {reason}")
    named, counted = _named(paths)
    return ForeignRun(
        _root(paths),
        found=tuple(named),
        lineage_file=lineage_file,
        counted=counted,
        on_progress=on_progress,
        stack=stack,
    )


def _open_below(
    folder: Path, lineage_file: Path | None, on_progress: ProgressCallback, stack: str | None
) -> ForeignRun:
    """Open the only Trainer output or model below a folder. Raises BadInput if there is none, or more than one."""
    only = run_paths.alone(folder)
    if only is not None and only != folder:
        return open_foreign([only], lineage_file, on_progress, stack)
    sources = run_paths.find(folder)
    models = [str(source.path) for source in sources if source.has_checkpoints and source.path != folder]
    if len(models) == 1:
        return open_foreign([Path(models[0])], lineage_file, on_progress, stack)
    if models:
        more = f" and {len(models) - 4} more" if len(models) > 4 else ""
        listed = f"{', '.join(models[:4])}{more}"
        raise BadInput(f"{folder}: holds models whose names have no step; give them in training order: {listed}")
    if sources:
        raise BadInput(f"{folder}: holds logs but no checkpoints; read it with `pli-analyze scalars` or `compare`")
    message = f"{folder}: not a run or a model: it holds neither {run_folder.RUN} nor checkpoints"
    raise BadInput("; ".join([message, *run_paths.links(folder)]))


def _named(paths: Sequence[Path]) -> tuple[list[tuple[CheckpointName, Path]], str]:
    """Return checkpoints in the order of their steps, and a note on the unit of steps if they are not updates.

    Steps are read from `checkpoint-N` or `trainer_state.json`, else from other folder names if all of them contain a
    number. Otherwise they are numbers in the order given, raised to the step of the last event in the checkpoint's
    lineage, which a model written by `pli-train export` has.
    """
    real = [path.resolve() for path in paths]
    names = [CheckpointName.parse(path.name) or _step_of(path) for path in real]
    counted = ""
    if any(name is None for name in names) and (found := by_name(real)):
        unit, numbers = found
        names = [CheckpointName(number) for number in numbers]
        counted = "" if unit == "step" else f"steps are {unit}s, from folder names: there is no trainer_state.json"
    known = [name for name in names if name is not None]
    if len({(name.step, name.after) for name in known}) < len(paths):
        names, number = [], -1
        for path in paths:
            number = max(number + 1, _last_event(path))
            names.append(CheckpointName(number))
        counted = "steps are numbers in the order given: no steps in folder names or trainer_state.json"
    labels = zip([name for name in names if name is not None], _labels(real), paths, strict=True)
    labeled = [(Label(name.step, name.after, label), path) for name, label, path in labels]
    labeled.sort(key=lambda one: (one[0].step, one[0].after))
    return [*labeled], counted if len(paths) > 1 else ""


def _labels(real: Sequence[Path]) -> list[str]:
    """Return a distinct name for each checkpoint. Raises BadInput if one is given twice."""
    labels = [path.name for path in real]
    if len(set(labels)) < len(labels):
        labels = [f"{path.parent.name}/{path.name}" for path in real]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in real]
    if len(set(labels)) < len(labels):
        twice = next(path for path in real if real.count(path) > 1)
        raise BadInput(f"{twice}: is given twice")
    return labels


def _last_event(checkpoint: Path) -> int:
    """Return the step of the last event in a checkpoint's lineage, which the checkpoint cannot precede; 0 if none."""
    path = checkpoint / run_folder.LINEAGE
    events = Lineage.read(path).events if path.is_file() else []
    return events[-1].step if events else 0


def _step_of(checkpoint: Path) -> CheckpointName | None:
    """Return the step in a checkpoint's `trainer_state.json`; None if there is none."""
    state = checkpoint / run_folder.TRAINER_STATE
    step = run_folder.read_json(state).get("global_step") if state.is_file() and not damage_of(state) else None
    return CheckpointName(step) if type(step) is int and 0 <= step < 2**53 else None


def _root(paths: Sequence[Path]) -> Path:
    """Return the common folder of checkpoints."""
    return paths[0] if len(paths) == 1 else Path(commonpath([path.resolve() for path in paths]))
