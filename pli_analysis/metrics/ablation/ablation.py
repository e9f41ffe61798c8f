"""Effect of removing single heads, FFNs and layers on the loss.

Columns of the table, one row per part and ablation:
    run, checkpoint, step
    layer, index, age   layer id, its index in the stack at this step, and steps since its birth
    is_inserted whether a growth event inserted the layer
    part_type   `head`, `ffn`, `layer` or `stack`
    part        name of the part, such as `c.h3`; the layer id for FFNs and layers
    ablation    `mask`: the output of the head or FFN is set to zero
                `skip`: the layer returns its input
                `swap`: the layer and the layer above change places
                `donor`: the layer is replaced by the layer that it was copied from, if that is still in the stack
                `reverse`: the layers are applied from top to bottom
    loss_change         mean loss with the ablation − without it, in nats per token; 0 for a part without effect
    loss_change_low, loss_change_high   its 95 % confidence interval: Student's t over the sampled blocks; empty for one
                block
    head_importance, relative_importance, block_influence       see `pli_analysis.metrics.ablation.importance`; empty
                for other parts
    blocks, documents   number of blocks and documents on which the loss is measured

The intervals are about the text: a run is one sample of its training, whatever the number of blocks. Ablations are done
one at a time. Parts can replace each other, so the effects of several parts do not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pli_analysis import columns as col
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.block_losses import block_losses, finite_losses
from pli_analysis.metrics.ablation import importance
from pli_analysis.metrics.ablation.interventions import ffn_masked, heads_masked, rearranged, skipped
from pli_analysis.metrics.lineage import position_of
from pli_analysis.metrics.row_cache import rows_of
from pli_analysis.runs.checkpoint import require_parts

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_train.core.run_format.run_folder import CheckpointName

COLUMNS = [col.RUN, col.CHECKPOINT, col.STEP, col.LAYER, col.INDEX, col.AGE, col.IS_INSERTED]
COLUMNS += [col.PART_TYPE, col.PART, col.ABLATION]
COLUMNS += [col.LOSS_CHANGE, col.LOSS_CHANGE_LOW, col.LOSS_CHANGE_HIGH]
COLUMNS += [col.HEAD_IMPORTANCE, col.RELATIVE_IMPORTANCE, col.BLOCK_INFLUENCE, col.BLOCKS, col.DOCUMENTS]
MASK, SKIP, SWAP, REPLACE, REVERSE = "mask", "skip", "swap", "donor", "reverse"
HEAD, FFN, LAYER, STACK = "head", "ffn", "layer", "stack"
KEPT = "ablation-2/"
"""Cache folder of results. Increase the number when their values change."""
NAN = float("nan")


class Ablation(NamedTuple):
    """One change of the model, and the part that it concerns.

    Attributes:
        layer: layer id; None for the stack.
        part_type, part, kind: as in the table.
        applied: makes the context manager within which the model is changed.
    """

    layer: str | None
    part_type: str
    part: str
    kind: str
    applied: Callable[[], AbstractContextManager[None]]


def ablation(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    at: int | CheckpointName | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measure how the loss changes without each head, FFN and layer.

    Args:
        text: as for `pli_analysis.inference.eval_tokens.sample_of`.
        blocks: maximum number of blocks of text.
        at: step of the checkpoint, or its name; None for the last one.
        on_progress: called with (passes over the text done, in total).

    Raises:
        BadInput: if there is no checkpoint of the step, no text, the loss is not finite, or the checkpoint has no
            language-model head or no table of its heads.
    """
    import pandas as pd

    checkpoint = run.at(at)
    require_parts(checkpoint, "head")
    sample = eval_tokens.sample_of(run, text, blocks)
    rows = rows_of(KEPT, checkpoint, sample.content, lambda: _measured(checkpoint, sample, on_progress))
    who = run.name, str(checkpoint.name), checkpoint.step
    table = pd.DataFrame([(*who, *_where(checkpoint, layer), *row) for layer, *row in rows], columns=COLUMNS)
    return table.astype({col.INDEX: "Int64", col.AGE: "Int64", col.IS_INSERTED: "boolean"})  # empty for the stack


def _where(checkpoint: Checkpoint, layer: str | None) -> tuple[Any, ...]:
    """Return layer, index, age, and whether it was inserted. Not cached: the same weights may be at another step."""
    return (None,) * 4 if layer is None else position_of(checkpoint.lineage, layer, checkpoint.step)


def _measured(
    checkpoint: Checkpoint, sample: Sample, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Any, ...]]:
    """Yield layer and the columns from `part_type` on."""
    model = checkpoint_model.model_of(checkpoint)
    sample = sample.to(model.device)
    model.config.use_cache = False  # a layer that runs twice would use the keys of its first pass
    planned = list(ablations(checkpoint, model))
    on_progress(0, len(planned) + 1)
    baseline, targets = finite_losses(checkpoint, model, sample)
    known = importance.of_parts(checkpoint, model, sample)
    counts = len(sample.tokens), len(np.unique(sample.documents))
    for number, (layer, part_type, part, kind, applied) in enumerate(planned, 1):
        on_progress(number, len(planned) + 1)
        with applied():
            change = sample.design.mean(block_losses(model, sample) - baseline, targets)
        values = known.get((part_type, part), importance.UNKNOWN) if kind in (MASK, SKIP) else importance.UNKNOWN
        yield (layer, part_type, part, kind, change.value, *change.interval(), *values, *counts)
    on_progress(len(planned) + 1, len(planned) + 1)


def ablations(checkpoint: Checkpoint, model: PreTrainedModel) -> Iterator[Ablation]:
    """Yield all ablations of a model, layer by layer from the bottom."""
    anatomy, lineage = checkpoint.anatomy, checkpoint.lineage
    stack = checkpoint_model.stack_of(model, anatomy)
    count = anatomy.sizes(checkpoint.config)["head"]
    straight = list(range(len(stack)))
    for index, (id, heads) in enumerate(zip(lineage.stack, checkpoint.heads, strict=True)):
        layer = stack[index]
        for head in range(heads):
            yield Ablation(id, HEAD, f"{id}.h{head}", MASK, partial(heads_masked, layer, anatomy, [head], count))
        yield Ablation(id, FFN, id, MASK, partial(ffn_masked, layer, anatomy))
        yield Ablation(id, LAYER, id, SKIP, partial(skipped, layer))
        if index + 1 < len(stack):
            order = [*straight[:index], index + 1, index, *straight[index + 2 :]]
            yield Ablation(id, LAYER, id, SWAP, partial(rearranged, stack, order, model.config))
        donor = lineage.layers[id].birth.donor
        if donor in lineage.stack:
            order = [*straight[:index], lineage.stack.index(donor), *straight[index + 1 :]]
            yield Ablation(id, LAYER, id, REPLACE, partial(rearranged, stack, order, model.config))
    if len(stack) > 1:
        yield Ablation(None, STACK, STACK, REVERSE, partial(rearranged, stack, straight[::-1], model.config))
