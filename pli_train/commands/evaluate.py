"""Evaluate a checkpoint on all held-out text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.checkpointing import checkpoint
from pli_train.core.run_format import run_folder
from pli_train.data.held_out import HeldOut
from pli_train.data.objective import Objective
from pli_train.growth.operators.context import length as context_length
from pli_train.models import kernels
from pli_train.training import launch
from pli_train.training.devices import make_accelerator

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig


def evaluate(
    config: RunConfig, run: Path, name: str | None = None, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Evaluate a checkpoint. Nothing is written.

    Args:
        config: config of the run.
        run: folder of the run.
        name: name of the checkpoint; the last complete one if None.
        say: function that is called with a line about slow steps and skipped damaged checkpoints.

    Returns:
        checkpoint and step; loss, in nats per prediction over all held-out text, and loss_se, its standard error with
        documents as sampling units; tokens (predictions), blocks and documents that were read; eval_loss and
        eval_loss_se, the estimate of the run's own evaluations.

    Raises:
        BadInput: if the run has no such checkpoint, or the corpus is not the one it was trained on.
    """
    source = run_folder.checkpoint_of(run, name, say)
    state = checkpoint.read(source)
    text = launch.corpus_of(config, run, say)
    train, accelerator = config.train, make_accelerator(config)
    objective = Objective(state.anatomy.task, text.tokenizer, train.mlm_probability)
    held_out = HeldOut(text, train.block_size, train.eval_blocks, objective, config.seed)
    kernels.fuse(state.model)
    model = accelerator.unwrap_model(accelerator.prepare(state.model))
    how = model, accelerator, context_length(state.lineage, train.block_size), train.batch_size
    (whole, tokens), drawn = held_out.full_loss(*how), held_out.loss(*how)
    return {
        "checkpoint": source.name,
        "step": state.trainer_state.global_step,
        "loss": whole.value,
        "loss_se": whole.error,
        "tokens": tokens,
        "blocks": held_out.count,
        "documents": int(held_out.documents[-1]) + 1,
        "eval_loss": drawn.value,
        "eval_loss_se": drawn.error,
    }
