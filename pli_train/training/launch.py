"""A run put together: begun in a folder that is not there yet, or gone on with where its newest checkpoint stands."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from safetensors import SafetensorError, safe_open

from pli_train.checkpointing import checkpoint
from pli_train.checkpointing.lock import Lock
from pli_train.checkpointing.trainer_state import Progress
from pli_train.core.errors import BadInput
from pli_train.core.randomness import derive
from pli_train.core.run_format import run_folder
from pli_train.data import corpus
from pli_train.models import build as models
from pli_train.optim import optimizer
from pli_train.training import warm_start as parents
from pli_train.training.progress import Silent
from pli_train.training.run_record import run_record
from pli_train.training.trainer import Trainer, start_of_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pli_train.config.schema import RunConfig
    from pli_train.data.sources.digits import Images
    from pli_train.data.tokenization import Tokens


def begin(config: RunConfig, folder: Path, show: Silent | None = None) -> Trainer:
    """A trainer at step 0, in a run folder that does not exist yet.

    Raises:
        BadInput: when the folder exists, corpus, model or schedule cannot be had, or the disk has no room.
    """
    there = f"{folder}: already exists; `pli-train resume {folder}` goes on with it"
    # Of several processes the first makes the folder, perhaps before the others have come this far.
    if folder.exists() and _is_main_process() and not _unborn(folder):
        raise BadInput(there)
    show = show or Silent()
    config, parent = parents.settle(config, show.say)
    text = corpus.load(config.data, config.tokenizer, show.say)
    trainer = at_the_start(config, folder, text, show)
    if trainer.accelerator.is_main_process:
        trainer.disk_use().require(folder)
        folder.mkdir(parents=True, exist_ok=True)
        trainer.lock = Lock(folder)
        if not _unborn(folder):  # another process was faster
            raise BadInput(there)
        text.keep(folder / run_folder.TOKENIZER)
        if text.tokenizer is not None:  # images are not kept
            checkpoint.write_tensors(folder / run_folder.PROBE, trainer.held_out.kept())
        # Last, and in one step: with it the folder is a run that can be resumed.
        checkpoint.write_text(folder / run_folder.RUN, run_record(config, text, trainer.total_steps, parent))
    trainer.accelerator.wait_for_everyone()
    return trainer


def resume(config: RunConfig, folder: Path, show: Silent | None = None) -> Trainer:
    """A trainer at the newest whole checkpoint of a run, with everything as it was.

    Raises:
        BadInput: when there is no whole checkpoint, the corpus is no longer the one the run began with, another
            process trains in the folder, or the disk has no room for what is still to come.
    """
    show = show or Silent()
    text = corpus_of(config, folder, show.say)
    tell_of_other_blocks(folder, show.say)
    lock = Lock(folder) if _is_main_process() else None
    if run_folder.checkpoints(folder):
        trainer = _at_the_newest(config, folder, text, show)
    else:
        show.say(f"{folder}: was stopped before its first checkpoint; starting over")
        trainer = at_the_start(config, folder, text, show)
    trainer.lock = lock
    if lock is not None:
        trainer.disk_use().require(folder)
    return trainer


def corpus_of(config: RunConfig, folder: Path, say: Callable[[str], None]) -> Tokens | Images:
    """A run's corpus. Raises BadInput when it is no longer the one that the run began with."""
    text = corpus.load(config.data, config.tokenizer, say)
    began = run_folder.read_json(folder / run_folder.RUN).get("corpus")
    if not isinstance(began, dict) or text.fingerprint != began.get("fingerprint"):
        about = began.get("about") if isinstance(began, dict) else "not told"
        raise BadInput(
            f"{folder}: the corpus is not the one this run began with ({about} then, {text.about} "
            "now): training on would mix two data orders"
        )
    return text


def tell_of_other_blocks(folder: Path, say: Callable[[str], None]) -> None:
    """Say that evaluations read other blocks than before, where a version that drew none began the run."""
    path = folder / run_folder.PROBE
    with suppress(OSError, SafetensorError), safe_open(path, "np") as file:
        if "block" not in file.keys():  # noqa: SIM118
            say(
                f"{path}: an older version wrote it and evaluated these blocks; from now on others are drawn, so that "
                "eval losses before and after are not of the same text"
            )


def _at_the_newest(config: RunConfig, folder: Path, text: Tokens | Images, show: Silent) -> Trainer:
    source = checkpoint.newest(folder, show.say)
    found = checkpoint.read(source)
    progress = Progress.of(found.trainer_state)
    trainer = Trainer(config, folder, text, found.model, found.anatomy, found.lineage, progress, show)
    trainer.at = run_folder.CheckpointName.parse(source.name)
    optimizer.load_state(trainer.optimizer, trainer.bare, found.anatomy, found.lineage.stack, found.optimizer)
    show.say(f"resuming from {source}: {len(found.lineage.stack)} layers ({found.lineage})")
    return trainer


def at_the_start(config: RunConfig, folder: Path, text: Tokens | Images, show: Silent) -> Trainer:
    """A trainer at step 0 that has written nothing yet. Raises BadInput when model or schedule cannot be had."""
    start, _ = start_of_run(config, text)
    model, anatomy = models.build(config.model, text.tokenizer, config.train.block_size, derive(config.seed, "model"))
    lineage = start.lineage("pretrained" if config.model.weights == "pretrained" else "random")
    models.slim(model, anatomy, lineage.shapes())
    models.settle(model, anatomy)
    return Trainer(config, folder, text, model, anatomy, lineage, Progress(), show)


def _unborn(folder: Path) -> bool:
    """Whether all that is there was left by a process that was killed while it made this folder a run."""
    ours = {run_folder.TOKENIZER, run_folder.PROBE, run_folder.LOCK}
    ours |= {run_folder.PARTIAL + name for name in (run_folder.PROBE, run_folder.RUN)}
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= ours


def _is_main_process() -> bool:
    """Whether this is the first of a run's processes. Asked as Accelerator asks, which takes over the first answer."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).is_main_process
