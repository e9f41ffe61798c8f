"""Loss over the number of masked heads (Michel et al. 2019, arXiv:1905.10650).

Columns of the table, one row per order and number of masked heads:
    run, checkpoint, step
    order       `importance`: heads with the lowest importance first (see `pli_analysis.metrics.ablation.importance`)
                `loss_change`: heads whose masking raises the loss least first
                `random`: as a control, in several random orders
    draw        number of the random order; 0 for other orders
    heads_masked, share_masked      number of masked heads, and their share of all heads
    loss        mean loss with these heads masked, in nats per token
    loss_change, loss_change_low, loss_change_high      its difference to the loss without masks, with a 95 % confidence
                interval: Student's t over the sampled blocks
    blocks, documents   number of blocks and documents on which the loss is measured

Heads are masked without training. The order is chosen on other blocks than those on which the loss is measured, so that
a head is not masked first because of chance in these blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.block_losses import block_losses, finite_losses
from pli_analysis.metrics.ablation import importance
from pli_analysis.metrics.ablation.interventions import heads_masked
from pli_analysis.runs.checkpoint import require_parts

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run

IMPORTANCE, CHANGE, RANDOM = "importance", "loss_change", "random"
COLUMNS = [col.RUN, col.CHECKPOINT, col.STEP, col.ORDER, col.DRAW, col.HEADS_MASKED, col.SHARE_MASKED, col.LOSS]
COLUMNS += [col.LOSS_CHANGE, col.LOSS_CHANGE_LOW, col.LOSS_CHANGE_HIGH, col.BLOCKS, col.DOCUMENTS]
DRAWS = 3
"""Number of random orders."""
POINTS = 24
"""Maximum number of points of a curve."""
TOLERANCE = 0.01
"""Relative rise of the loss up to which heads count as prunable."""
Head = tuple[int, int]
"""Index of the layer, and number of the head."""


def pruning(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    at: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measure the loss over the number of masked heads.

    Args:
        text: as for `pli_analysis.inference.eval_tokens.sample_of`.
        blocks: maximum number of blocks of text; half of them choose the order, the loss is measured on the others.
        at: step of the checkpoint; None for the last one.
        on_progress: called with (passes over the text done, in total).

    Raises:
        BadInput: if there is no checkpoint of the step, there are fewer than two blocks of text, the loss is not
            finite, or the checkpoint has no language-model head or no table of its heads.
    """
    import pandas as pd

    checkpoint = run.at(at)
    require_parts(checkpoint, "head")
    rows = _measured(checkpoint, *eval_tokens.halves_of(run, text, blocks, "pruning needs"), on_progress)
    return pd.DataFrame([(run.name, str(checkpoint.name), checkpoint.step, *row) for row in rows], columns=COLUMNS)


def prunable(table: pd.DataFrame, tolerance: float = TOLERANCE) -> dict[str, float]:
    """Return by order the largest share of heads that can be masked while the loss rises by at most `tolerance`.

    The loss must not exceed it with fewer masked heads either. Of random orders, the mean share.

    Args:
        table: result of `pruning`.
        tolerance: relative rise of the loss.
    """
    shares: dict[str, list[float]] = {}
    for (order, _), rows in table.groupby([col.ORDER, col.DRAW], sort=False):
        within = (rows[col.LOSS_CHANGE] <= tolerance * rows[col.LOSS].iloc[0]).to_numpy()
        last = len(within) if within.all() else int(np.argmin(within))
        shares.setdefault(str(order), []).append(float(rows[col.SHARE_MASKED].iloc[last - 1]))
    return {order: float(np.mean(values)) for order, values in shares.items()}


def _measured(
    checkpoint: Checkpoint, chosen_on: Sample, measured_on: Sample, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the table, without the first three columns."""
    model = checkpoint_model.model_of(checkpoint)
    lineage = checkpoint.lineage
    heads = [(index, head) for index, count in enumerate(checkpoint.heads) for head in range(count)]
    numbers = sorted({round(number) for number in np.linspace(1, len(heads), min(POINTS, len(heads)))})
    total, done = len(heads) + (2 + DRAWS) * len(numbers), 0
    baseline, targets = finite_losses(checkpoint, model, measured_on)
    losses = []
    for head in heads:
        losses.append(float(_losses(checkpoint, model, chosen_on, [head]).sum()))
        done += 1
        on_progress(done, total)
    known = importance.of_parts(checkpoint, model, chosen_on)
    values = [known["head", f"{lineage.stack[index]}.h{head}"].head or 0.0 for index, head in heads]
    orders: list[tuple[str, int, Sequence[int]]] = [(IMPORTANCE, 0, np.argsort(values, kind="stable").tolist())]
    orders += [(CHANGE, 0, np.argsort(losses, kind="stable").tolist())]
    orders += [(RANDOM, draw, np.random.default_rng(draw).permutation(len(heads)).tolist()) for draw in range(DRAWS)]
    counts = len(measured_on.tokens), len(np.unique(measured_on.documents))
    before = measured_on.design.mean(baseline, targets).value
    for order, draw, ranks in orders:
        yield (order, draw, 0, 0.0, before, 0.0, 0.0, 0.0, *counts)
        for number in numbers:
            masked = _losses(checkpoint, model, measured_on, [heads[rank] for rank in ranks[:number]])
            change = measured_on.design.mean(masked - baseline, targets)
            share = number / len(heads)
            yield (order, draw, number, share, before + change.value, change.value, *change.interval(), *counts)
            done += 1
            on_progress(done, total)


def _losses(checkpoint: Checkpoint, model: PreTrainedModel, sample: Sample, heads: Sequence[Head]) -> np.ndarray:
    """Return the loss of each block with some heads masked, summed over its predicted tokens: (blocks,)."""
    stack = checkpoint_model.stack_of(model, checkpoint.anatomy)
    count = checkpoint.anatomy.sizes(checkpoint.config)["head"]
    with ExitStack() as masks:
        for index in {index for index, _ in heads}:
            numbers = [head for at, head in heads if at == index]
            masks.enter_context(heads_masked(stack[index], checkpoint.anatomy, numbers, count))
        return block_losses(model, sample)
