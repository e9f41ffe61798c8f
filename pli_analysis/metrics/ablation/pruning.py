"""Loss over the number of masked heads (Michel et al. 2019, arXiv:1905.10650).

Columns of the table, one row per checkpoint, origin, order and number of masked heads:
    run, checkpoint, step
    origin      which heads are masked: `all`, only `initial` heads, or only `inserted` ones, which a growth event
                created; the last two only if the model has both
    order       `importance`: heads with the lowest importance first (see `pli_analysis.metrics.ablation.importance`)
                `loss_change`: heads whose masking raises the loss least first
                `random`: as a control, in several random orders
    draw        number of the random order; 0 for other orders
    heads_masked, share_masked      number of masked heads, and their share of the heads of this origin
    masked_heads        ids of the heads that are masked in addition to those of the row above, in order
    prunable_share      the same in all rows of a curve: the largest share of heads that can be masked while the loss
                rises by at most 1 %, with these or fewer heads masked
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pli_analysis import columns as col
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.block_losses import block_losses, finite_losses
from pli_analysis.metrics.ablation import importance
from pli_analysis.metrics.ablation.interventions import heads_masked
from pli_analysis.metrics.row_cache import rows_of
from pli_analysis.runs.checkpoint import require_parts
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run

ALL, INITIAL, INSERTED = "all", "initial", "inserted"
IMPORTANCE, CHANGE, RANDOM = "importance", "loss_change", "random"
COLUMNS = [col.RUN, col.CHECKPOINT, col.STEP, col.ORIGIN, col.ORDER, col.DRAW]
COLUMNS += [col.HEADS_MASKED, col.SHARE_MASKED, col.MASKED_HEADS, col.PRUNABLE_SHARE]
COLUMNS += [col.LOSS, col.LOSS_CHANGE, col.LOSS_CHANGE_LOW, col.LOSS_CHANGE_HIGH, col.BLOCKS, col.DOCUMENTS]
CURVE = [col.CHECKPOINT, col.ORIGIN, col.ORDER, col.DRAW]
"""Columns that identify a curve."""
DRAWS = 3
"""Number of random orders."""
POINTS = 24
"""Maximum number of points of a curve."""
TOLERANCE = 0.01
"""Relative rise of the loss up to which heads count as prunable."""
KEPT = "pruning-1/"
"""Cache folder of results. Increase the number when their values change."""


class Head(NamedTuple):
    """A head: index of its layer, number in the layer, id, and whether a growth event created it."""

    layer: int
    number: int
    id: str
    is_inserted: bool


class Curve(NamedTuple):
    """Heads in the order in which they are masked; `origin`, `order` and `draw` as in the table."""

    origin: str
    order: str
    draw: int
    heads: list[Head]


def pruning(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    at: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    checkpoints: int = 1,
) -> pd.DataFrame:
    """Measure the loss over the number of masked heads.

    Args:
        text: as for `pli_analysis.inference.eval_tokens.sample_of`.
        blocks: maximum number of blocks of text; half of them choose the order, the loss is measured on the others.
        at: step of the last checkpoint to measure; None for the last one.
        on_progress: called with (passes over the text done, in total) for each checkpoint.
        checkpoints: number of checkpoints, evenly spaced over those up to the last one to measure.

    Raises:
        BadInput: if there is no checkpoint of the step, there are fewer than two blocks of text, the loss is not
            finite, or the checkpoint has no language-model head or no table of its heads.
    """
    import pandas as pd

    halves = eval_tokens.halves_of(run, text, blocks, "pruning needs")
    content = b"".join(half.content for half in halves)
    rows: list[tuple[Any, ...]] = []
    for checkpoint in _spaced(run, at, checkpoints):
        require_parts(checkpoint, "head")
        found = rows_of(KEPT, checkpoint, content, partial(_measured, checkpoint, *halves, on_progress))
        rows += [(run.name, str(checkpoint.name), checkpoint.step, *row[:6], np.nan, *row[6:]) for row in found]
    table = pd.DataFrame(rows, columns=COLUMNS)
    for _, curve in table.groupby(CURVE, sort=False):
        table.loc[curve.index, col.PRUNABLE_SHARE] = _largest_share(curve, TOLERANCE)
    return table


def _spaced(run: Run, at: int | None, count: int) -> list[Checkpoint]:
    """Return `count` checkpoints with layers, evenly spaced up to the one of a step."""
    last = run.at(at)
    known = [checkpoint for checkpoint in run.states.values() if checkpoint.step < last.step and any(checkpoint.heads)]
    spaced = np.linspace(len(known), 0, min(count, len(known) + 1)).round().astype(int)[::-1]  # from the last one
    return [[*known, last][number] for number in spaced]


def prunable(table: pd.DataFrame, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """Return the largest share of heads that can be masked while the loss rises by at most `tolerance`.

    The loss must not exceed it with fewer masked heads either.

    Args:
        table: result of `pruning`.
        tolerance: relative rise of the loss.

    Returns:
        One row per checkpoint, origin and order, with the number of heads of this origin (`heads`) and
        `prunable_share`: of random orders, the mean.
    """
    import pandas as pd

    who = [col.RUN, col.CHECKPOINT, col.STEP, col.ORIGIN, col.ORDER]
    rows = []
    for key, curves in table.groupby(who, sort=False):
        shares = [_largest_share(curve, tolerance) for _, curve in curves.groupby(col.DRAW)]
        rows.append((*key, int(curves[col.HEADS_MASKED].max()), float(np.mean(shares))))
    return pd.DataFrame(rows, columns=[*who, col.HEADS, col.PRUNABLE_SHARE])


def heads_to_prune(table: pd.DataFrame, share: float | None = None, tolerance: float = TOLERANCE) -> list[str]:
    """Return the ids of the least important heads of the last checkpoint of a table.

    Args:
        table: result of `pruning`.
        share: share of all heads; None for the largest share at which the loss rises by at most `tolerance`.
        tolerance: relative rise of the loss.
    """
    last = table[table[col.CHECKPOINT] == table[col.CHECKPOINT].iloc[-1]]
    curve = last[(last[col.ORIGIN] == ALL) & (last[col.ORDER] == IMPORTANCE)]
    heads = " ".join(curve[col.MASKED_HEADS]).split()
    wanted = _largest_share(curve, tolerance) if share is None else share
    return heads[: round(wanted * len(heads))]


def _largest_share(curve: pd.DataFrame, tolerance: float) -> float:
    """Return the share of masked heads in the last row before the loss of a curve exceeds the tolerance."""
    within = (curve[col.LOSS_CHANGE] <= tolerance * curve[col.LOSS].iloc[0]).to_numpy()
    last = len(within) if within.all() else int(np.argmin(within))
    return float(curve[col.SHARE_MASKED].iloc[last - 1])


def _measured(
    checkpoint: Checkpoint, chosen_on: Sample, measured_on: Sample, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Any, ...]]:
    """Yield the columns from `origin` on, without `prunable_share`."""
    model = checkpoint_model.model_of(checkpoint)
    chosen_on, measured_on = (sample.to(model.device) for sample in (chosen_on, measured_on))
    heads = _heads(checkpoint)
    baseline, targets = finite_losses(checkpoint, model, measured_on)
    before = measured_on.design.mean(baseline, targets).value
    losses, done = [], 0
    total = len(heads) + (2 + DRAWS) * sum(len(_numbers(len(members))) for members in _by_origin(heads).values())
    for head in heads:
        losses.append(float(_losses(checkpoint, model, chosen_on, [head]).sum()))
        done += 1
        on_progress(done, total)
    known = importance.of_parts(checkpoint, model, chosen_on)
    values = [known["head", head.id].head or 0.0 for head in heads]
    counts = len(measured_on.tokens), len(np.unique(measured_on.documents))
    for origin, order, draw, ranked in _curves(heads, values, losses):
        yield (origin, order, draw, 0, 0.0, "", before, 0.0, 0.0, 0.0, *counts)
        masked = 0
        for number in _numbers(len(ranked)):
            added, masked = " ".join(head.id for head in ranked[masked:number]), number
            change = measured_on.design.mean(
                _losses(checkpoint, model, measured_on, ranked[:number]) - baseline, targets
            )
            size = number, number / len(ranked), added
            yield (origin, order, draw, *size, before + change.value, change.value, *change.interval(), *counts)
            done += 1
            on_progress(done, total)


def _heads(checkpoint: Checkpoint) -> list[Head]:
    """Return all heads, bottom to top. Raises BadInput if there are none."""
    found = []
    for index, (id, count) in enumerate(zip(checkpoint.lineage.stack, checkpoint.heads, strict=True)):
        layer = checkpoint.lineage.layers[id]
        for number in range(count):
            name = f"{id}.h{number}"
            found.append(Head(index, number, name, layer.heads.get(name, layer.birth).event is not None))
    if not found:
        raise BadInput(f"{checkpoint.path}: has no heads")
    return found


def _by_origin(heads: list[Head]) -> dict[str, list[Head]]:
    """Return all heads, and initial and inserted ones if there are both."""
    initial, inserted = ([head for head in heads if head.is_inserted is wanted] for wanted in (False, True))
    return {ALL: heads, INITIAL: initial, INSERTED: inserted} if initial and inserted else {ALL: heads}


def _curves(heads: list[Head], importances: Sequence[float], losses: Sequence[float]) -> Iterator[Curve]:
    """Yield the curves.

    Args:
        heads: all heads.
        importances: importance of each head.
        losses: loss with each head masked alone.
    """
    ranks = {IMPORTANCE: np.argsort(importances, kind="stable"), CHANGE: np.argsort(losses, kind="stable")}
    for origin, members in _by_origin(heads).items():
        for order, ranked in ranks.items():
            yield Curve(origin, order, 0, [heads[rank] for rank in ranked if heads[rank] in members])
        for draw in range(DRAWS):
            shuffled = np.random.default_rng(draw).permutation(len(members))
            yield Curve(origin, RANDOM, draw, [members[number] for number in shuffled])


def _numbers(heads: int) -> list[int]:
    """Return the numbers of masked heads at which the loss is measured."""
    return sorted({round(number) for number in np.linspace(1, heads, min(POINTS, heads))})


def _losses(checkpoint: Checkpoint, model: PreTrainedModel, sample: Sample, heads: Sequence[Head]) -> np.ndarray:
    """Return the loss of each block with some heads masked, summed over its predicted tokens: (blocks,)."""
    stack = checkpoint_model.stack_of(model, checkpoint.anatomy)
    count = checkpoint.anatomy.sizes(checkpoint.config)["head"]
    with ExitStack() as masks:
        for index in {head.layer for head in heads}:
            numbers = [head.number for head in heads if head.layer == index]
            masks.enter_context(heads_masked(stack[index], checkpoint.anatomy, numbers, count))
        return block_losses(model, sample)
