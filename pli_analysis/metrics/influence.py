"""Influence of training blocks on the held-out loss, by layer: TracInCP (Pruthi et al. 2020, arXiv:2002.08484).

    influence of block z on layer l = Σ_k η_k,l · ⟨∇_l ℓ(θ_k, z), ∇_l L(θ_k)⟩

The sum is over checkpoints k. θ_k are the weights of the checkpoint, η_k,l is the layer's learning rate in the next
update, ℓ the mean loss of the block and L the estimated mean held-out loss, both without dropout, and ∇_l the gradient
with respect to the parameters of layer l. Each term is the decrease of L, to first order, if SGD did a step on this
block alone and changed this layer alone. Optimizers with moments, such as AdamW, do other steps.

Columns of the table, one row per part and block:
    run
    step        step of the last checkpoint in the sum
    layer, index, is_inserted   layer id, its index in the run's last stack, and whether a growth event inserted it;
                empty for parts that are no layer
    part_type   `layer`, `other` (all parameters outside of the layers), or `model` (the sum of all parts)
    checkpoints     steps of the checkpoints in the sum, separated by spaces: those since the layer's birth
    block       index of the block in the training text
    document    number of the training document in which it begins, from 0
    trained_step    the first update that used the block, from 1
    influence   in nats of held-out loss per prediction; positive if the block helps
    rank        rank of the influence among the blocks, for this part; 1 is the most helpful
    excerpt     beginning of the block
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.block_losses import finite_losses, losses_of
from pli_analysis.inference.devices import double
from pli_analysis.inference.token_text import excerpts_of, ids_of
from pli_analysis.inference.train_sample import TrainSample, train_sample_of
from pli_analysis.metrics.drift.rates import Rates, rates_of
from pli_analysis.metrics.row_cache import rows_of
from pli_train.core.errors import BadInput
from pli_train.core.masking import IGNORED

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_train.core.lineage import Lineage

COLUMNS = [col.RUN, col.STEP, col.LAYER, col.INDEX, col.IS_INSERTED, col.PART_TYPE, col.CHECKPOINTS, col.BLOCK]
COLUMNS += [col.DOCUMENT, col.TRAINED_STEP, col.INFLUENCE, col.RANK, col.EXCERPT]
LAYER, OTHER, MODEL = "layer", "other", "model"
KEPT = "influence-1/"
"""Cache folder of results. Increase the number when their values change."""


def influence(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    checkpoints: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measure how much each sampled training block helped the held-out loss, by layer.

    Args:
        run: a run with a sample of its training blocks: see `pli-train sample`.
        text: as for `pli_analysis.inference.eval_tokens.sample_of`: what the influence is on.
        blocks: maximum number of blocks of this text.
        checkpoints: maximum number of checkpoints to sum over, at about equal intervals of steps.
        on_progress: called with (checkpoints done, in total).

    Raises:
        BadInput: if the run has no sample of its training blocks, the text or a checkpoint cannot be read, the learning
            rates are unknown or 0, or a loss or gradient is not finite.
    """
    train, target, rates = train_sample_of(run), eval_tokens.sample_of(run, text, blocks), rates_of(run)
    lineage, steps = run.checkpoints[-1].lineage, steps_of(run, rates, checkpoints)
    parts: list[str | None] = [*lineage.stack, None]
    sums = {part: np.zeros(len(train.block)) for part in parts}
    used: dict[str | None, list[int]] = {part: [] for part in parts}
    for number, step in enumerate(steps):
        on_progress(number, len(steps))
        checkpoint = run.states[step]
        measure = partial(products, checkpoint, train, target)
        for part, *values in rows_of(KEPT, checkpoint, train.content + target.content, measure):
            if part in sums:  # and not removed later
                sums[part] += rate_of(rates, lineage, part, step) * np.array(values)
                used[part].append(step)
    on_progress(len(steps), len(steps))
    return _table(run, train, sums, used)


def steps_of(run: Run, rates: Rates, most: int) -> list[int]:
    """Return the steps of at most `most` checkpoints with a learning rate above 0, at about equal intervals.

    Raises:
        BadInput: if there are none, or the learning rates are unknown.
    """
    known = {step: rates.at(step) for step in run.states}
    if np.isnan(list(known.values())).any():
        raise BadInput(f"{run.path}: its learning rates are unknown, and influence is weighted with them")
    steps = np.array([step for step, rate in known.items() if rate > 0])
    if not len(steps):
        raise BadInput(f"{run.path}: the learning rate is 0 at all of its checkpoints; influence is weighted with it")
    wanted = np.linspace(steps[-1], steps[0], most)  # a single one is the last
    return sorted({int(steps[np.abs(steps - step).argmin()]) for step in wanted})


def rate_of(rates: Rates, lineage: Lineage, layer: str | None, step: int) -> float:
    """Return the learning rate of a layer in the update after a step; for None, that of the run's initial parts."""
    initial = (id for id, each in lineage.layers.items() if each.birth.event is None)
    known = layer or next(initial, None)
    return rates.at(step) if known is None else rates.between(known, step, step + 1)


def products(checkpoint: Checkpoint, train: TrainSample, target: Sample) -> Iterator[tuple[object, ...]]:
    """Yield layer id (None: all other parameters) and ⟨∇ℓ(z), ∇L⟩ of each training block z.

    Raises:
        BadInput: if a loss or gradient is not finite.
    """
    model = checkpoint_model.model_of(checkpoint)
    train, target = train.to(model.device), target.to(model.device)
    finite_losses(checkpoint, model, target)
    parts = parameters_of(model, checkpoint)
    parameters = [parameter for part in parts.values() for parameter in part]
    direction = _mean_gradient(model, parameters, target)
    starts = np.cumsum([0, *(len(part) for part in parts.values())])[:-1]
    found = []
    for tokens, labels in zip(train.tokens[:, None], train.labels[:, None], strict=True):
        gradient = _gradient(model, parameters, tokens, labels, 1 / (labels != IGNORED).sum(dim=1).clamp(min=1))
        each = [float(double(mine * other).sum()) for mine, other in zip(gradient, direction, strict=True)]
        found.append(np.add.reduceat(each, starts))
    if not np.isfinite(found).all():
        raise BadInput(f"{checkpoint.path}: its gradient on a training block is not finite; its influence is unknown")
    for part, values in zip(parts, np.array(found).T.tolist(), strict=True):
        yield part, *values


def parameters_of(model: PreTrainedModel, checkpoint: Checkpoint) -> dict[str | None, list[nn.Parameter]]:
    """Return the parameters of each layer, from bottom to top, and those outside of the layers under None.

    Rows and columns that only pad a layer are zero, and so are their gradients.
    """
    stack = checkpoint_model.stack_of(model, checkpoint.anatomy)
    parts: dict[str | None, list[nn.Parameter]] = {
        id: list(layer.parameters()) for id, layer in zip(checkpoint.lineage.stack, stack, strict=True)
    }
    inside = {id(parameter) for part in parts.values() for parameter in part}
    return parts | {None: [parameter for parameter in model.parameters() if id(parameter) not in inside]}


def _mean_gradient(model: PreTrainedModel, parameters: Sequence[nn.Parameter], sample: Sample) -> list[Tensor]:
    """Return the gradient of the estimated mean loss: see `pli_train.core.sampling.Design.mean`."""
    import torch

    represented = torch.from_numpy(sample.design.weights)
    weights = represented / (represented * (sample.labels != IGNORED).sum(dim=1).cpu()).sum()
    chunks = (
        values.split(checkpoint_model.AT_ONCE)
        for values in (sample.tokens, sample.labels, weights.float().to(model.device))
    )
    gradients = [_gradient(model, parameters, *chunk) for chunk in zip(*chunks, strict=True)]
    return [torch.stack(each).sum(dim=0) for each in zip(*gradients, strict=True)]


def _gradient(
    model: PreTrainedModel, parameters: Sequence[nn.Parameter], tokens: Tensor, labels: Tensor, weights: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradient of the weighted sum of the losses of blocks; zeros for parameters that are not used."""
    import torch

    total = losses_of(model, tokens, labels) @ weights
    return torch.autograd.grad(total, list(parameters), materialize_grads=True)


def _table(
    run: Run, train: TrainSample, sums: dict[str | None, np.ndarray], used: dict[str | None, list[int]]
) -> pd.DataFrame:
    """Make the table from the sums of each part and the steps in them."""
    import pandas as pd

    lineage, excerpts = run.checkpoints[-1].lineage, excerpts_of(run, ids_of(run, train))
    of_blocks = {col.BLOCK: train.block, col.DOCUMENT: train.document, col.TRAINED_STEP: train.step}
    parts = [(layer, OTHER if layer is None else LAYER, values) for layer, values in sums.items()]
    parts.append((None, MODEL, np.sum(list(sums.values()), axis=0)))
    tables = []
    for layer, part_type, values in parts:
        rows = pd.DataFrame(of_blocks | {col.INFLUENCE: values, col.EXCERPT: excerpts})
        rows = rows.assign(layer=layer, part_type=part_type, checkpoints=" ".join(map(str, used[layer])))
        rows[col.INDEX] = None if layer is None else lineage.stack.index(layer)
        rows[col.IS_INSERTED] = None if layer is None else lineage.layers[layer].birth.event is not None
        rows[col.RANK] = rows[col.INFLUENCE].rank(method="first", ascending=False).astype(int)
        tables.append(rows.sort_values(col.RANK))
    table = pd.concat(tables, ignore_index=True).assign(**{col.RUN: run.name, col.STEP: used[None][-1]})
    return table[COLUMNS].astype({col.INDEX: "Int64", col.IS_INSERTED: "boolean"})


def extremes(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return, for each part, the rows of the `most` blocks with the highest and with the lowest influence.

    Args:
        table: result of `influence`.
    """
    blocks = table[col.BLOCK].nunique()
    return table[(table[col.RANK] <= most) | (table[col.RANK] > blocks - most)]
