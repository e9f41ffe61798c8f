"""Gradient norms recomputed at checkpoints on the same tokens.

Columns of the table, one row for each part and checkpoint:
    part, part_type, layer, index, grad_norm    as in `pli_analysis.metrics.grad_norms.logged`
    checkpoint  name of the checkpoint folder
    step        optimizer updates done
    age         steps since the part's birth

The gradient is that of the mean loss over all targets. Squares are summed in float64; a norm is empty if the gradient
is not finite. Heads and FFN units that only pad a layer are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.devices import double
from pli_analysis.metrics.grad_norms.logged import groups_of, in_order, part_and_birth
from pli_analysis.runs.ancestry import alive
from pli_train.core.anatomy.parts import Part, number_of, outside, part_of, with_sums
from pli_train.core.errors import some

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor
    from transformers import PreTrainedModel

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run

COLUMNS = [col.PART, col.PART_TYPE, col.LAYER, col.STEP, col.AGE, col.INDEX, col.GRAD_NORM, col.CHECKPOINT]


def recomputed(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Compute the gradient norms of all parts at all checkpoints.

    Args:
        text, blocks: as for `pli_analysis.inference.eval_tokens.batch_of`.
        on_progress: called with (checkpoints done, checkpoints in total).

    Raises:
        BadInput: if the text, the tokenizer or a checkpoint cannot be read.
    """
    import pandas as pd

    tokens, labels = eval_tokens.batch_of(run, text, blocks)
    tables = []
    for number, checkpoint in enumerate(run.checkpoints):
        on_progress(number, len(run.checkpoints))
        squares = squares_at(checkpoint, tokens, labels)
        lineage, step, name = checkpoint.lineage, checkpoint.step, str(checkpoint.name)
        groups = groups_of(squares)
        locations: dict[str | None, int] = {id: index for index, id in enumerate(lineage.stack)}
        rows = []
        for part, square in with_sums(squares).items():
            square = square if math.isfinite(square) else math.nan
            called, born = part_and_birth(part, lineage, groups)
            age = None if born is None else step - born
            rows.append((called, part.level, part.layer, step, age, locations.get(part.layer), square**0.5, name))
        tables.append(in_order(pd.DataFrame(rows, columns=COLUMNS)))
    on_progress(len(run.checkpoints), len(run.checkpoints))
    return pd.concat(tables, ignore_index=True)


def unknown(table: pd.DataFrame) -> list[str]:
    """Return a line about checkpoints with gradients that are not finite, mostly because weights are not; or none.

    Args:
        table: result of `recomputed`.
    """
    checkpoints = list(dict.fromkeys(table.loc[table[col.GRAD_NORM].isna(), col.CHECKPOINT]))
    return [f"gradients that are not finite are left out: at {some(checkpoints)}"] if checkpoints else []


def squares_at(checkpoint: Checkpoint, tokens: Tensor, labels: Tensor) -> dict[Part, float]:
    """Return the squared gradient norm of each part at one checkpoint."""
    model, anatomy, lineage = checkpoint_model.model_of(checkpoint), checkpoint.anatomy, checkpoint.lineage
    _backward(model, tokens.to(model.device), labels.to(model.device))
    sizes = anatomy.sizes(checkpoint.config)
    squares: dict[Part, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        grad, position = double(parameter.grad), anatomy.locate(name)
        if position is None:
            segments = [(outside(model, name), grad)]
        else:
            id = lineage.stack[position[1]]
            there = alive(sizes, *lineage.shape(id))
            split = [(label, number_of(label), segment) for label, segment in anatomy.split(position[2], grad, sizes)]
            # Heads and groups beyond those of the lineage are padding.
            segments = [
                (part_of(id, label), segment)
                for label, number, segment in split
                if number is None or number < there["head" if label[0] == "h" else "group"]
            ]
        for part, segment in segments:
            squares[part] = squares.get(part, 0.0) + float(segment.square().sum())
    return squares


def _backward(model: PreTrainedModel, tokens: Tensor, labels: Tensor) -> None:
    """Compute the gradient of the mean cross entropy over all targets into the model's parameters."""
    from torch.nn.functional import cross_entropy

    targets = max(int((labels != -100).sum()), 1)
    for inputs, wanted in zip(
        tokens.split(checkpoint_model.AT_ONCE), labels.split(checkpoint_model.AT_ONCE), strict=True
    ):
        logits = model(input_ids=inputs).logits.flatten(0, 1).float()
        (cross_entropy(logits, wanted.flatten(), reduction="sum") / targets).backward()
