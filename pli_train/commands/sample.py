"""Save a sample of a run's training blocks in its folder, for analysis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from pli_train.checkpointing import checkpoint
from pli_train.core import output
from pli_train.core.errors import BadInput
from pli_train.core.randomness import derive
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from pli_train.training.run_plan import RunPlan
from pli_train.training.trainer_state import Progress

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig
    from pli_train.data.tokenization import TokenizedText


def sample(config: RunConfig, run: Path, blocks: int, say: Callable[[str], None] = lambda line: None) -> Path:
    """Draw training blocks and save them as the run's `train_sample.safetensors`, which is replaced if it exists.

    They are a simple random sample of the blocks that the run has trained on, drawn with the run's seed.

    Args:
        config: config of the run.
        run: folder of the run.
        blocks: maximum number of blocks.
        say: function that is called with a line about slow steps and skipped damaged checkpoints.

    Returns:
        The file: see `run_folder` for its contents.

    Raises:
        BadInput: if the run has not trained on any text, or the corpus is not the one it was trained on.
        BadInput, PliError: if the file cannot be written.
    """
    newest = run_folder.checkpoint_of(run, None, say)
    progress = Progress.of(checkpoint.read_state(newest / run_folder.TRAINER_STATE))
    text = launch.corpus_of(config, run, say)
    if text.tokenizer is None:
        raise BadInput(f"{run}: was trained on images; only blocks of text are sampled")
    plan = RunPlan.make(config, text, processes=1)
    used = progress.tokens // config.train.block_size
    if not used:
        raise BadInput(f"{run}: has not trained yet; train it with `pli-train resume {run}`")
    chance = np.random.default_rng(derive(config.seed, "train sample"))
    # The first epoch has each block once.
    positions = chance.choice(min(used, plan.blocks.count), min(blocks, used, plan.blocks.count), replace=False)
    kept = _kept(plan, text, positions) | {"step": positions // (used // progress.step) + 1}
    path = run / run_folder.TRAIN_SAMPLE
    output.write(path, save({name: values.astype(np.int32) for name, values in kept.items()}))
    return path


def _kept(plan: RunPlan, text: TokenizedText, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Return the blocks at these positions of training, with labels and origin.

    The masks of a masked model are a function of the block, not those of a training step, which change in each epoch.
    """
    locations = plan.blocks.order(positions)
    starts, documents = locations * plan.config.train.block_size, np.empty_like(locations)
    sorted_by_start = np.argsort(starts)
    documents[sorted_by_start] = text.documents_at(text.train, starts[sorted_by_start])
    seeds = (derive(plan.config.seed, "train sample mask", int(location)) for location in locations)
    batches = [
        plan.objective.batch(block[None], seed) for block, seed in zip(plan.blocks.of(locations), seeds, strict=True)
    ]
    return {
        "inputs": np.concatenate([batch.inputs.numpy() for batch in batches]),
        "labels": np.concatenate([batch.labels.numpy() for batch in batches]),
        "block": locations,
        "document": documents,
    }
