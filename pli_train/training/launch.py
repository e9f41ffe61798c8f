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
from pli_train.core import plugins
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
        show: reports progress; None for no output.
        callbacks: called after the run's own.

    Raises:
        BadInput: when the folder exists, the corpus, model or schedule is invalid, or the disk is too small.
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
        require_new(folder)  # another process may have created it meanwhile
        text.keep(folder / run_folder.TOKENIZER)
        if text.tokenizer is not None:  # images are not kept
            checkpoint.write_tensors(folder / run_folder.PROBE, evaluator.held_out.kept())
        # Written last and atomically: with this file the folder is a run that can be resumed.
        checkpoint.write_text(folder / run_folder.RUN, run_record(plan, parent))
    accelerator.wait_for_everyone()
    saver = Saver(plan, folder, accelerator, lock)
    return _trainer(plan, state, evaluator, saver, accelerator, show, callbacks)


def resume(
    config: RunConfig,
    folder: Path,
    show: NullReporter | None = None,
    callbacks: Sequence[Callback] = (),
    text: TokenizedText | ImageCorpus | None = None,
) -> Trainer:
    """Return a trainer with the state of a run's newest complete checkpoint.

    Args:
        config: of the run.
        folder: of the run.
        show: reports progress; None for no output.
        callbacks: called after the run's own.
        text: corpus of the run, if it is loaded already.

    Raises:
        BadInput: when there is no complete checkpoint, the corpus differs from that of the run's start, another
            process trains in the folder, or the disk is too small for the remaining checkpoints.
    """
    show = show or NullReporter()
    text = corpus_of(config, folder, show.say) if text is None else text
    warn_of_other_blocks(folder, show.say)
    for line in plugins.changed(run_folder.read_json(folder / run_folder.RUN).get("plugins")):
        show.say(f"{folder}: {line}")
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
    """Raise BadInput when the folder exists, unless a killed process left it before it became a run."""
    # The main process may create the folder before the other processes reach this line.
    if not os.path.lexists(folder) or not _is_main_process() or _is_unborn(folder):
        return
    if (folder / run_folder.RUN).is_file():
        raise BadInput(f"{folder}: already exists; resume it with `pli-train resume {folder}`")
    raise BadInput(f"{folder}: already exists and is no run; name another folder")


def state_at_start(plan: RunPlan, accelerator: Accelerator) -> TrainingState:
    """Build the model and optimizer of step 0. Raises BadInput when the model cannot be built or loaded."""
    config, tokenizer = plan.config, plan.corpus.tokenizer
    model, anatomy = build.build(config.model, tokenizer, config.train.block_size, derive(config.seed, "model"))
    lineage = plan.start.lineage("pretrained" if config.model.weights == "pretrained" else "random")
    build.shrink(model, anatomy, lineage.shapes())
    build.sync_config(model, anatomy)
    trained = TrainedModel(model, anatomy, accelerator, config.train.compile)
    adamw = optimizer.build(trained.bare, config.optim)
    return TrainingState(trained, anatomy, lineage, adamw, Progress(), config.train.block_size)


def state_of(plan: RunPlan, accelerator: Accelerator, source: Path) -> TrainingState:
    """Load a checkpoint's model and optimizer. Raises BadInput when it is damaged or has only weights."""
    restored, config = checkpoint.read(source), plan.config
    trained = TrainedModel(restored.model, restored.anatomy, accelerator, config.train.compile)
    adamw = optimizer.build(trained.bare, config.optim)
    optimizer.load_state(adamw, trained.bare, restored.anatomy, restored.lineage.stack, restored.optimizer)
    progress = Progress.of(restored.trainer_state)
    return TrainingState(trained, restored.anatomy, restored.lineage, adamw, progress, config.train.block_size)


def corpus_of(config: RunConfig, folder: Path, say: Callable[[str], None]) -> TokenizedText | ImageCorpus:
    """Load a run's corpus. Raises BadInput when it differs from that of the run's start."""
    text = corpus.load(config.data, config.tokenizer, say)
    began = run_folder.read_json(folder / run_folder.RUN).get("corpus")
    if not isinstance(began, dict) or text.fingerprint != began.get("fingerprint"):
        about = began.get("about") if isinstance(began, dict) else "unknown"
        raise BadInput(
            f"{folder}: the corpus has changed since this run began ({about} then, {text.about} "
            "now); resuming would mix two data orders"
        )
    return text


def warn_of_other_blocks(folder: Path, say: Callable[[str], None]) -> None:
    """Warn when an older version began the run, as evaluations now use other held-out blocks."""
    path = folder / run_folder.PROBE
    with suppress(OSError, SafetensorError), safe_open(path, "np") as file:
        if "block" not in file.keys():  # noqa: SIM118
            say(
                f"{path}: written by an older version; evaluations now use other held-out blocks, so eval losses "
                "before and after this step are not comparable"
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
    """Return whether a folder has nothing but files of a process that was killed before it became a run."""
    initial = {run_folder.TOKENIZER, run_folder.PROBE, run_folder.LOCK}
    return folder.is_dir() and all(
        path.name in initial or (path.name.startswith(run_folder.PARTIAL) and path.is_file())
        for path in folder.iterdir()
    )


def _is_main_process() -> bool:
    """Return whether this is the main process. Accelerator, created later, reuses this PartialState."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).is_main_process
