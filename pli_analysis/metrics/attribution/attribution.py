"""Direct logit attribution: how much each layer, head and FFN adds to the logits of the right tokens.

Columns of the table, one row per part:
    run, checkpoint, step
    layer, index, age   layer id, its index in the stack at this step, and steps since its birth; empty for parts that
                belong to no layer
    is_inserted whether a growth event inserted the layer
    part_type   `head`, `ffn`, `layer` (its heads, its FFN and its biases), `embedding` (the input of the first layer),
                `bias` (biases after the layers), or `total`
    part        name of the part, such as `c.h3`; the layer id for FFNs and layers
    contribution        mean over predicted tokens of what the part adds to the logit of the right token − the mean
                logit of the vocabulary
    contribution_low, contribution_high     its 95 % confidence interval: Student's t over the sampled blocks
    share       contribution ÷ that of the total
    predicted_tokens, blocks, documents     number of predicted tokens, blocks and documents

Layers, embedding and bias add up to the total. Parts are followed along the residual stream only: what a head adds to
the logits through later layers counts for these layers. Norms on the way are linear maps with the scale of the token:
see `pli_analysis.metrics.attribution.frozen`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pli_analysis import columns as col
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.block_losses import finite_losses
from pli_analysis.inference.devices import double
from pli_analysis.metrics.attribution.frozen import pulled_back, through_gap
from pli_analysis.metrics.attribution.passes import LayerPasses, Pass, passes_of
from pli_analysis.metrics.lineage import position_of
from pli_analysis.metrics.row_cache import rows_of
from pli_analysis.runs.checkpoint import require_parts
from pli_train.core.errors import BadInput
from pli_train.core.masking import IGNORED

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_train.core.run_format.run_folder import CheckpointName

COLUMNS = [col.RUN, col.CHECKPOINT, col.STEP, col.LAYER, col.INDEX, col.AGE, col.IS_INSERTED, col.PART_TYPE, col.PART]
COLUMNS += [col.CONTRIBUTION, col.CONTRIBUTION_LOW, col.CONTRIBUTION_HIGH, col.SHARE]
COLUMNS += [col.PREDICTED_TOKENS, col.BLOCKS, col.DOCUMENTS]
HEAD, FFN, LAYER, EMBEDDING, BIAS, TOTAL = "head", "ffn", "layer", "embedding", "bias", "total"
TOLERANCE = 1e-4
"""Largest difference between the logit and the sum of its parts, relative to the largest logit or part."""
KEPT = "attribution-1/"
"""Cache folder of results. Increase the number when their values change."""


def attribution(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    at: int | CheckpointName | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measure how much each layer, head and FFN adds to the logits of the right tokens.

    Args:
        text: as for `pli_analysis.inference.eval_tokens.sample_of`.
        blocks: maximum number of blocks of text.
        at: step of the checkpoint, or its name; None for the last one.
        on_progress: called with (blocks done, in total).

    Raises:
        BadInput: if there is no checkpoint of the step, no text, the loss is not finite, the checkpoint has no
            language-model head or no table of its heads, or the layers are not added up to the logits.
    """
    import pandas as pd

    checkpoint = run.at(at)
    require_parts(checkpoint, "head")
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


class Part(NamedTuple):
    """A part of the model.

    Attributes:
        layer: layer id; None for parts that belong to no layer.
        part_type, part: as in the table.
    """

    layer: str | None
    part_type: str
    part: str


def _measured(
    checkpoint: Checkpoint, sample: Sample, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Any, ...]]:
    """Yield layer and the columns from `part_type` on."""
    import torch

    model = checkpoint_model.model_of(checkpoint)
    sample = sample.to(model.device)
    _, targets = finite_losses(checkpoint, model, sample)
    sums: dict[Part, list[float]] = {}
    with torch.no_grad():
        for number, (tokens, labels) in enumerate(zip(sample.tokens, sample.labels, strict=True)):
            on_progress(number, len(sample.tokens))
            for part, value in of_block(checkpoint, model, tokens[None], labels).items():
                sums.setdefault(part, []).append(value)
    on_progress(len(sample.tokens), len(sample.tokens))
    counts = int(targets.sum()), len(sample.tokens), len(np.unique(sample.documents))
    means = {part: sample.design.mean(np.array(values), targets) for part, values in sums.items()}
    total = means[Part(None, TOTAL, TOTAL)].value
    for part, mean in means.items():
        yield (*part, mean.value, *mean.interval(), mean.value / total if total else None, *counts)


def of_block(checkpoint: Checkpoint, model: PreTrainedModel, tokens: Tensor, labels: Tensor) -> dict[Part, float]:
    """Return what each part adds to the logits of the right tokens of a block, summed over predicted tokens.

    Args:
        tokens: (1, block_size).
        labels: (block_size,).

    Raises:
        BadInput: if the parts do not add up to the logits.
    """
    import torch

    where = (labels != IGNORED).nonzero().flatten()
    seen = passes_of(model, checkpoint.anatomy, tokens, where)
    head = seen.after[-1] if seen.after else None
    family = checkpoint.anatomy.model_type
    if head is None or not _makes_logits(head.module, model.config.vocab_size):
        raise BadInput(f"{checkpoint.path}: the {family} model of transformers has no matrix that makes its logits")
    logits, direction, bias = _of_targets(head, labels[where])
    inputs = head.input
    for used in reversed(seen.after[:-1]):
        direction = through_gap(direction, used.output, inputs)
        direction, more = pulled_back(direction, used)
        inputs, bias = used.input, bias + more
    direction = through_gap(direction, seen.output, inputs)
    layers: list[dict[Part, Tensor]] = []
    for index in reversed(range(len(seen.layers))):
        direction, parts = _of_layer(checkpoint, index, direction, seen.layers[index])
        layers.insert(0, parts)
    found = {Part(None, EMBEDDING, EMBEDDING): (direction * double(seen.input)).sum(-1)}
    for parts in layers:
        found |= parts
    found[Part(None, BIAS, BIAS)] = bias
    whole = torch.stack([values for part, values in found.items() if part.part_type in (LAYER, EMBEDDING, BIAS)])
    if bool(((whole.sum(dim=0) - logits).abs() > TOLERANCE * whole.abs().amax(dim=0)).any()):
        raise BadInput(f"{checkpoint.path}: this {family} model's logits are not the sum of what its layers add")
    found[Part(None, TOTAL, TOTAL)] = logits
    return {part: float(values.sum()) for part, values in found.items()}


def _of_layer(
    checkpoint: Checkpoint, index: int, direction: Tensor, seen: LayerPasses
) -> tuple[Tensor, dict[Part, Tensor]]:
    """Return the direction at the input of a layer, and what its parts add to the logits, (tokens,).

    Args:
        direction: at the output of the layer, (tokens, width).
    """
    id, heads = checkpoint.lineage.stack[index], checkpoint.heads[index]
    bias = direction.new_zeros(len(direction))
    if seen.last_norm is not None:
        direction, bias = pulled_back(direction, seen.last_norm)
    ffn = (direction * double(seen.ffn.output)).sum(-1)
    if seen.first_norm is not None:
        direction, more = pulled_back(direction, seen.first_norm)
        bias = bias + more
    of_heads, more = pulled_back(direction, seen.attention)
    count = checkpoint.anatomy.sizes(checkpoint.config)["head"]
    each = (of_heads * double(seen.attention.input)).unflatten(-1, (count, -1)).sum(-1)[:, :heads]
    parts = {Part(id, HEAD, f"{id}.h{head}"): each[:, head] for head in range(heads)}
    parts[Part(id, FFN, id)] = ffn
    parts[Part(id, LAYER, id)] = each.sum(-1) + ffn + bias + more
    return direction, parts


def _makes_logits(module: nn.Module, vocabulary: int) -> bool:
    """Return whether a module is a matrix from hidden states to the vocabulary."""
    weight = getattr(module, "weight", None)
    return weight is not None and weight.dim() == 2 and len(weight) == vocabulary


def _of_targets(head: Pass, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits of the right tokens − the mean logit, their direction in the head's input, and their bias.

    Args:
        head: the matrix that makes the logits.
        labels: (tokens,).

    Returns:
        (tokens,), (tokens, width) and (tokens,), in float64.
    """
    weight, bias = (getattr(head.module, name, None) for name in ("weight", "bias"))
    assert weight is not None
    weight, outputs = double(weight), double(head.output)
    labels = labels.to(weight.device)
    logits = outputs.gather(1, labels[:, None]).flatten() - outputs.mean(dim=1)
    biases = logits * 0 if bias is None else double(bias)[labels] - double(bias).mean()
    return logits, weight[labels] - weight.mean(dim=0), biases
