"""Start a new run, or resume one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from safetensors import SafetensorError, safe_open

from pli_train.checkpointing import checkpoint
from pli_train.checkpointing.lock import Lock
from pli_train.core.errors import BadInput
from pli_train.core.randomness import derive
from pli_train.core.run_format import run_folder
from pli_train.data import corpus
from pli_train.models import build
from pli_train.optim import optimizer
from pli_train.training import warm_start
from pli_train.training.devices import make_accelerator
from pli_train.training.evaluation import Evaluator
from pli_train.training.grad_norms import GradientNorms
from pli_train.training.progress import NullReporter, ProgressBar
from pli_train.training.run_plan import RunPlan
from pli_train.training.run_record import run_record
from pli_train.training.saving import Saver
from pli_train.training.state import TrainedModel, TrainingState
from pli_train.training.tensorboard import TensorBoardCallback
from pli_train.training.trainer import Trainer
from pli_train.training.trainer_state import Progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from accelerate import Accelerator

    from pli_train.config.schema import RunConfig
    from pli_train.core.run_format.run_folder import CheckpointName
    from pli_train.data.sources.digits import ImageCorpus
    from pli_train.data.tokenization import TokenizedText
    from pli_train.training.callback import Callback


def begin(
    config: RunConfig, folder: Path, show: NullReporter | None = None, callbacks: Sequence[Callback] = ()
) -> Trainer:
    """Return a trainer at step 0, in a run folder that does not exist yet.

    Args:
        config: the configuration.
        folder: of the run.
        show: where progress goes; nowhere if None.
        callbacks: called beside the run's own.

    Raises:
        BadInput: when the folder exists; corpus, model or schedule cannot be had; or the disk has no room.
    """
    require_new(folder)
    show = show or NullReporter()
    config, parent = warm_start.resolve_parent(config, show.say)
    if config.model.family and not config.tokenizer.name_or_path:  # nothing but the corpus is missing to check these
        build.skeleton(config.model, config.tokenizer.vocab_size, config.train.block_size)
    text = corpus.load(config.data, config.tokenizer, show.say)
    accelerator = make_accelerator(config)
    plan = RunPlan.make(config, text, accelerator.num_processes)
    state = state_at_start(plan, accelerator)
    evaluator, lock = Evaluator(plan, accelerator), None
    if accelerator.is_main_process:
        plan.disk_use().require(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder)
        require_new(folder)  # another process may have been faster
        text.keep(folder / run_folder.TOKENIZER)
        if text.tokenizer is not None:  # images are not kept
            checkpoint.write_tensors(folder / run_folder.PROBE, evaluator.held_out.kept())
        # Last, and in one step: with it the folder is a run that can be resumed.
        checkpoint.write_text(folder / run_folder.RUN, run_record(config, text, plan.total_steps, parent))
    accelerator.wait_for_everyone()
    saver = Saver(plan, folder, accelerator, lock)
    return _trainer(plan, state, evaluator, saver, accelerator, show, callbacks)


def resume(
    config: RunConfig, folder: Path, show: NullReporter | None = None, callbacks: Sequence[Callback] = ()
) -> Trainer:
    """Return a trainer at the newest whole checkpoint of a run, with everything as it was.

    Args:
        config: of the run.
        folder: of the run.
        show: where progress goes; nowhere if None.
        callbacks: called beside the run's own.

    Raises:
        BadInput: when there is no whole checkpoint, the corpus is not the one that the run began with, another
            process trains in the folder, or the disk has no room for the checkpoints to come.
    """
    show = show or NullReporter()
    text = corpus_of(config, folder, show.say)
    warn_of_other_blocks(folder, show.say)
    lock = Lock(folder) if _is_main_process() else None
    accelerator = make_accelerator(config)
    plan = RunPlan.make(config, text, accelerator.num_processes)
    at: CheckpointName | None = None
    if run_folder.checkpoints(folder):
        source = checkpoint.newest(folder, show.say)
        state, at = state_of(plan, accelerator, source), run_folder.CheckpointName.parse(source.name)
        show.say(f"resuming from {source}: {len(state.lineage.stack)} layers ({state.lineage})")
    else:
        show.say(f"{folder}: was stopped before its first checkpoint; starting over")
        state = state_at_start(plan, accelerator)
    if lock is not None:
        plan.disk_use(after=at).require(folder)
    saver = Saver(plan, folder, accelerator, lock, at)
    return _trainer(plan, state, Evaluator(plan, accelerator), saver, accelerator, show, callbacks)


def require_new(folder: Path) -> None:
    """Raise BadInput when a folder cannot become a new run's: it is a run already, or something else is there."""
    # Of several processes the first makes the folder, perhaps before the others have come this far.
    if not os.path.lexists(folder) or not _is_main_process() or _is_unborn(folder):
        return
    if (folder / run_folder.RUN).is_file():
        raise BadInput(f"{folder}: already exists; `pli-train resume {folder}` goes on with it")
    raise BadInput(f"{folder}: already exists and is no run: name another folder")


def state_at_start(plan: RunPlan, accelerator: Accelerator) -> TrainingState:
    """Build the model and optimizer of step 0. Raises BadInput when the model cannot be built or loaded."""
    config, tokenizer = plan.config, plan.corpus.tokenizer
    model, anatomy = build.build(config.model, tokenizer, config.train.block_size, derive(config.seed, "model"))
    lineage = plan.start.lineage("pretrained" if config.model.weights == "pretrained" else "random")
    build.shrink(model, anatomy, lineage.shapes())
    build.sync_config(model, anatomy)
    trained = TrainedModel(model, anatomy, accelerator, config.train.compile)
    made = optimizer.build(trained.bare, config.optim)
    return TrainingState(trained, anatomy, lineage, made, Progress(), config.train.block_size)


def state_of(plan: RunPlan, accelerator: Accelerator, source: Path) -> TrainingState:
    """Load a checkpoint's model and optimizer. Raises BadInput when it is damaged, or holds weights only."""
    found, config = checkpoint.read(source), plan.config
    trained = TrainedModel(found.model, found.anatomy, accelerator, config.train.compile)
    made = optimizer.build(trained.bare, config.optim)
    optimizer.load_state(made, trained.bare, found.anatomy, found.lineage.stack, found.optimizer)
    progress = Progress.of(found.trainer_state)
    return TrainingState(trained, found.anatomy, found.lineage, made, progress, config.train.block_size)


def corpus_of(config: RunConfig, folder: Path, say: Callable[[str], None]) -> TokenizedText | ImageCorpus:
    """Load a run's corpus. Raises BadInput when it is not the one that the run began with."""
    text = corpus.load(config.data, config.tokenizer, say)
    began = run_folder.read_json(folder / run_folder.RUN).get("corpus")
    if not isinstance(began, dict) or text.fingerprint != began.get("fingerprint"):
        about = began.get("about") if isinstance(began, dict) else "unknown"
        raise BadInput(
            f"{folder}: the corpus is not the one this run began with ({about} then, {text.about} "
            "now): training on would mix two data orders"
        )
    return text


def warn_of_other_blocks(folder: Path, say: Callable[[str], None]) -> None:
    """Say that evaluations read other blocks than before, where a version that drew none began the run."""
    path = folder / run_folder.PROBE
    with suppress(OSError, SafetensorError), safe_open(path, "np") as file:
        if "block" not in file.keys():  # noqa: SIM118
            say(
                f"{path}: an older version wrote it and evaluated these blocks; from now on others are drawn, so that "
                "eval losses before and after are not of the same text"
            )


def _trainer(
    plan: RunPlan,
    state: TrainingState,
    evaluator: Evaluator,
    saver: Saver,
    accelerator: Accelerator,
    show: NullReporter,
    callbacks: Sequence[Callback],
) -> Trainer:
    config = plan.config
    own: list[Callback] = [GradientNorms(config.train), ProgressBar(show)]
    if accelerator.is_main_process and config.tracking.tensorboard:
        own.insert(0, TensorBoardCallback(saver.folder, config))
    return Trainer(plan, state, evaluator, saver, accelerator, [*own, *callbacks], show.say)


def _is_unborn(folder: Path) -> bool:
    """Whether everything in it was left by a process that was killed while it made this folder a run."""
    ours = {run_folder.TOKENIZER, run_folder.PROBE, run_folder.LOCK}
    return folder.is_dir() and all(
        path.name in ours or (path.name.startswith(run_folder.PARTIAL) and path.is_file()) for path in folder.iterdir()
    )


def _is_main_process() -> bool:
    """Whether this is the first of a run's processes. Asked as Accelerator asks, which takes over the first answer."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).is_main_process
