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
        path: its folder, a folder of Hugging Face's Trainer, or one or several folders of models.
        hashes: whether a checkpoint counts as whole only when every file of it has the hash it was written with.
        lineage: for foreign checkpoints, a `lineage.json` to go by.
        on_progress: for foreign checkpoints, called with (done, total) while layers are followed through them.
        stack: for foreign checkpoints, the path of the list of layers to read, where there are several.

    Raises:
        BadInput: when it is none, or a foreign one whose hashes nobody wrote down.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
    if len(paths) == 1:
        paths = [_taken(paths[0])]
    if len(paths) == 1 and ((paths[0] / run_folder.RUN).is_file() or not paths[0].is_dir() or _within(paths[0])):
        if lineage is not None:
            raise BadInput(f"--lineage {lineage}: is for checkpoints without one, and {paths[0]} is a run")
        if stack is not None:
            raise BadInput(f"--stack {stack}: is for checkpoints of others, and {paths[0]} is a run")
        return Run(run_folder.require_run(paths[0]), hashes)
    if hashes:
        raise BadInput(f"{paths[0]}: no run wrote it, so there are no hashes to --verify it with")
    return open_foreign(paths, None if lineage is None else Path(lineage), on_progress, stack)


def newest_run(root: str | Path = "runs") -> Run:
    """The run under `root` that was begun last. Raises BadInput when there is none."""
    return Run(run_folder.newest_run(Path(root)))


def _taken(path: Path) -> Path:
    """The only run of ours in a folder of runs; else the path itself. Raises BadInput where there are several runs."""
    if not path.is_dir() or (path / run_folder.RUN).is_file() or _within(path):
        return path
    only = run_paths.alone(path) if run_paths.kind_of(path) is None else None
    return only if only is not None and (only / run_folder.RUN).is_file() else path


def _within(folder: Path) -> bool:
    """Whether a folder lies in a run's, as its checkpoints do: alone it is mostly the run that was meant."""
    return (folder.resolve().parent / run_folder.RUN).is_file()


# --- models and checkpoints of other trainers ---


def open_foreign(
    paths: Sequence[Path],
    lineage_file: Path | None = None,
    on_progress: ProgressCallback = lambda done, total: None,
    stack: str | None = None,
) -> ForeignRun:
    """Open a folder of Trainer's, a model folder, or several checkpoint folders.

    Args:
        paths: one output folder, or checkpoint folders in order.
        lineage_file: a `lineage.json` to go by.
        on_progress: told (done, in all) of checkpoints that layers are followed through.
        stack: path of the list of layers to read.

    Raises:
        BadInput: when there is nothing of the kind.
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
            return _further_down(paths[0], lineage_file, on_progress, stack)
    for path in paths:
        if (path / run_folder.RUN).is_file() and len(paths) > 1:
            raise BadInput(f"{path}: is a run, and several arguments are checkpoints of one: name it alone")
        if len(paths) > 1 and (run_folder.checkpoints(path) or steps_in(path)):
            raise BadInput(f"{path}: holds checkpoints, and several arguments are checkpoints of one: name it alone")
        if found := flaw(path):
            raise BadInput(f"{path}: {found}")
    named, counted = _named(paths)
    return ForeignRun(
        _root(paths),
        found=tuple(named),
        lineage_file=lineage_file,
        counted=counted,
        on_progress=on_progress,
        stack=stack,
    )


def _further_down(
    folder: Path, lineage_file: Path | None, on_progress: ProgressCallback, stack: str | None
) -> ForeignRun:
    """The only output of Trainer's below a folder. Raises BadInput when there is none, or more than one."""
    only = run_paths.alone(folder)
    if only is not None and only != folder:
        return open_foreign([only], lineage_file, on_progress, stack)
    found = run_paths.find(folder)
    models = [str(source.path) for source in found if source.has_checkpoints and source.path != folder]
    if len(models) == 1:
        return open_foreign([Path(models[0])], lineage_file, on_progress, stack)
    if models:
        more = f" and {len(models) - 4} more" if len(models) > 4 else ""
        listed = f"{', '.join(models[:4])}{more}"
        raise BadInput(f"{folder}: holds models whose names have no step: give them in order: {listed}")
    if found:
        raise BadInput(f"{folder}: holds no checkpoints of a model, but logs: read them with scalars or compare")
    message = f"{folder}: not a run, it holds no {run_folder.RUN}, and no checkpoints of a model either"
    raise BadInput("; ".join([message, *run_paths.links(folder)]))


def _named(paths: Sequence[Path]) -> tuple[list[tuple[CheckpointName, Path]], str]:
    """Checkpoints in the order of their steps, and what those are where they are no updates.

    Steps are told by `checkpoint-N` or a state of training, else by another name that all have a number in; else they
    are numbers in the order given, and no less than the step of the last event in a checkpoint's lineage, as a model
    that `pli-train export` made has one.
    """
    real = [path.resolve() for path in paths]
    names = [CheckpointName.parse(path.name) or _step_of(path) for path in real]
    counted = ""
    if any(name is None for name in names) and (found := by_name(real)):
        unit, numbers = found
        names = [CheckpointName(number) for number in numbers]
        counted = (
            "" if unit == "step" else f"steps are {unit}s: no trainer_state.json, and names of folders count those"
        )
    known = [name for name in names if name is not None]
    if len({(name.step, name.after) for name in known}) < len(paths):
        names, number = [], -1
        for path in paths:
            number = max(number + 1, _last_event(path))
            names.append(CheckpointName(number))
        counted = "steps are numbers in the order given: no name and no trainer_state.json has them"
    locations = zip([name for name in names if name is not None], _labels(real), paths, strict=True)
    message = [(Label(name.step, name.after, label), path) for name, label, path in locations]
    message.sort(key=lambda one: (one[0].step, one[0].after))
    return [*message], counted if len(paths) > 1 else ""


def _labels(real: Sequence[Path]) -> list[str]:
    """What to call each checkpoint. Raises BadInput when one is given twice."""
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
    """The step of the last event that a checkpoint has behind it, as far as its lineage tells: it cannot be earlier."""
    path = checkpoint / run_folder.LINEAGE
    events = Lineage.read(path).events if path.is_file() else []
    return events[-1].step if events else 0


def _step_of(checkpoint: Path) -> CheckpointName | None:
    state = checkpoint / run_folder.TRAINER_STATE
    step = run_folder.read_json(state).get("global_step") if state.is_file() and not damage_of(state) else None
    return CheckpointName(step) if type(step) is int and 0 <= step < 2**53 else None


def _root(paths: Sequence[Path]) -> Path:
    return paths[0] if len(paths) == 1 else Path(commonpath([path.resolve() for path in paths]))
