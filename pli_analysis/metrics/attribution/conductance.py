"""Layer conductance: how much of the effect of the text on the predictions goes through the update of each layer.

Columns of the table, one row per part:
    run, checkpoint, step
    layer, index, age   layer id, its index in the stack at this step, and steps since its birth; empty for parts that
                belong to no layer
    is_inserted whether a growth event inserted the layer
    part_type   `embedding`, `layer`, or `total`
    part        the layer id for layers, otherwise as part_type
    contribution        conductance of what the part adds to its input, in nats per predicted token; for the embedding
                its integrated gradients, for `total` the difference of F between the text and the baseline
    contribution_low, contribution_high     its 95 % confidence interval: Student's t over the sampled blocks;
                empty for one block
    share       contribution ÷ that of the total
    conductance conductance of the part's output, which is that of the total but for the error of the integral
    completeness_error  mean over blocks of |conductance − difference of F| ÷ that of |difference of F|
    integration_steps   largest number of steps of any block: doubled from `FEWEST`, up to `MOST`, until the error on
                the block is at most `TOLERANCE` of the mean |difference of F|
    infidelity, relative_infidelity     mean squared error of the changes of F that the attributions predict, in nats²
                per predicted token of the block, and that ÷ the mean squared change: 0 if exact, 1 for no attribution
    sensitivity largest relative change of the attributions near the embeddings, as a mean over blocks
    predicted_tokens, blocks, documents     number of predicted tokens, blocks and documents

F is the log-probability of the right token. At the baseline, the embedding of each token is the mean over the text.
Formulas: `pli_analysis.metrics.attribution.path_integral` and `pli_analysis.metrics.attribution.faithfulness`.
Contributions of layers overlap, as paths go through several layers; they do not add up to the total.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pli_analysis import columns as col
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.block_losses import finite_losses
from pli_analysis.metrics.attribution.faithfulness import max_sensitivity, prediction_errors
from pli_analysis.metrics.attribution.path_integral import Block, complete_conductance, difference
from pli_analysis.metrics.lineage import position_of
from pli_analysis.metrics.row_cache import rows_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn
    from transformers import PreTrainedModel

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_train.core.run_format.run_folder import CheckpointName

COLUMNS = [col.RUN, col.CHECKPOINT, col.STEP, col.LAYER, col.INDEX, col.AGE, col.IS_INSERTED, col.PART_TYPE, col.PART]
COLUMNS += [col.CONTRIBUTION, col.CONTRIBUTION_LOW, col.CONTRIBUTION_HIGH, col.SHARE]
COLUMNS += [col.CONDUCTANCE, col.COMPLETENESS_ERROR, col.INTEGRATION_STEPS]
COLUMNS += [col.INFIDELITY, col.RELATIVE_INFIDELITY, col.SENSITIVITY, col.PREDICTED_TOKENS, col.BLOCKS, col.DOCUMENTS]
LAYER, EMBEDDING, TOTAL = "layer", "embedding", "total"
TOLERANCE = 0.01
FEWEST, MOST = 16, 256
KEPT = "conductance-1/"
"""Cache folder of results. Increase the number when their values change."""


def conductance(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    at: int | CheckpointName | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measure how much of the effect of the text on the predictions goes through the update of each layer.

    Args:
        text: as for `pli_analysis.inference.eval_tokens.sample_of`.
        blocks: maximum number of blocks of text.
        at: step of the checkpoint, or its name; None for the last one.
        on_progress: called with (blocks done, in total).

    Raises:
        BadInput: if there is no checkpoint of the step, no text, the loss is not finite, the checkpoint has no
            language-model head, or its layers do not run once each.
    """
    import pandas as pd

    checkpoint = run.at(at)
    sample = eval_tokens.sample_of(run, text, blocks)
    rows = rows_of(KEPT, checkpoint, sample.content, lambda: _measured(checkpoint, sample, on_progress))
    who, lineage = (run.name, str(checkpoint.name), checkpoint.step), checkpoint.lineage
    table = pd.DataFrame(
        [
            (*who, *((None,) * 4 if layer is None else position_of(lineage, layer, checkpoint.step)), *row)
            for layer, *row in rows
        ],
        columns=COLUMNS,
    )
    return table.astype({col.INDEX: "Int64", col.AGE: "Int64", col.IS_INSERTED: "boolean"})  # empty outside of layers


class Measured(NamedTuple):
    """What is measured on one block. Sums are over its predicted tokens.

    Attributes:
        difference: F of the text − F of the baseline.
        updates, outputs: (parts,): conductance of what each part adds, and of its output.
        steps: number of steps.
        errors, changes: (parts, sets): see `prediction_errors`.
        sensitivity: (parts,).
    """

    difference: float
    updates: np.ndarray
    outputs: np.ndarray
    steps: int
    errors: np.ndarray
    changes: np.ndarray
    sensitivity: np.ndarray


def _measured(
    checkpoint: Checkpoint, sample: Sample, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Any, ...]]:
    """Yield layer and the columns from `part_type` on."""
    model = checkpoint_model.model_of(checkpoint).requires_grad_(False)
    sample = sample.to(model.device)
    model.config.use_cache = False  # keys and values of the points of a path are not needed again
    stack = checkpoint_model.stack_of(model, checkpoint.anatomy)
    _, targets = finite_losses(checkpoint, model, sample)
    blocks = _blocks(model, sample)
    allowed = TOLERANCE * float(np.mean([abs(difference(model, block)) for block in blocks]))
    found = []
    for number, block in enumerate(blocks):
        on_progress(number, len(blocks))
        found.append(_of_block(model, stack, block, allowed, number))
    on_progress(len(blocks), len(blocks))
    yield from _rows(checkpoint, sample, targets, found)


def _blocks(model: PreTrainedModel, sample: Sample) -> list[Block]:
    """Return the blocks of a sample with their paths, from the mean embedding of its tokens to those of the block."""
    embedded = model.get_input_embeddings()(sample.tokens)
    baseline = embedded.mean(dim=(0, 1)).expand(embedded.shape[1:])
    tensors = zip(sample.tokens, sample.labels, embedded, strict=True)
    return [Block(tokens, labels, baseline, values) for tokens, labels, values in tensors]


def _of_block(model: PreTrainedModel, stack: nn.ModuleList, block: Block, allowed: float, number: int) -> Measured:
    """Measure one block.

    Args:
        allowed: largest completeness error, in nats.
        number: seed of what is drawn at random.
    """
    import torch

    chance = torch.Generator().manual_seed(number)
    found = complete_conductance(model, stack, block, allowed, FEWEST, MOST)
    errors, changes = prediction_errors(model, stack, block, found, chance)
    sensitivity = max_sensitivity(model, stack, block, found, chance)
    updates, outputs = found.updates.sum(dim=1).numpy(), found.outputs.sum(dim=1).numpy()
    checks = errors.numpy(), changes.numpy(), sensitivity.numpy()
    return Measured(found.difference, updates, outputs, found.steps, *checks)


def _rows(
    checkpoint: Checkpoint, sample: Sample, targets: np.ndarray, found: list[Measured]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the parts and of the total.

    Args:
        targets: (blocks,): number of predicted tokens.
        found: what was measured on each block.
    """
    counts = int(targets.sum()), len(sample.tokens), len(np.unique(sample.documents))
    differences = np.array([block.difference for block in found])
    total = sample.design.mean(differences, targets)
    steps = max(block.steps for block in found)
    parts = [(None, EMBEDDING, EMBEDDING), *((id, LAYER, id) for id in checkpoint.lineage.stack)]
    for index, part in enumerate(parts):
        outputs = np.array([block.outputs[index] for block in found])
        mean = sample.design.mean(np.array([block.updates[index] for block in found]), targets)
        conducted = sample.design.mean(outputs, targets).value
        error = _ratio(np.abs(outputs - differences).sum(), np.abs(differences).sum())
        faithful = _faithfulness(found, targets, index)
        share = _ratio(mean.value, total.value)
        yield (*part, mean.value, *mean.interval(), share, conducted, error, steps, *faithful, *counts)
    yield (None, TOTAL, TOTAL, total.value, *total.interval(), 1.0, *(None,) * 6, *counts)


def _faithfulness(found: list[Measured], targets: np.ndarray, index: int) -> tuple[float | None, ...]:
    """Return infidelity, relative infidelity and sensitivity of a part, over blocks with predicted tokens."""
    known = [(block, count) for block, count in zip(found, targets, strict=True) if count]
    errors, changes = (
        np.mean([np.square(getattr(block, name)[index] / count) for block, count in known])
        for name in ("errors", "changes")
    )
    sensitive = [block.sensitivity[index] for block, _ in known if np.isfinite(block.sensitivity[index])]
    return float(errors), _ratio(errors, changes), float(np.mean(sensitive)) if sensitive else None


def _ratio(part: float, whole: float) -> float | None:
    """Return the ratio; None if the whole is 0."""
    return float(part / whole) if whole else None
