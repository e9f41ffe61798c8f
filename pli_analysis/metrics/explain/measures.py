"""What is measured of each layer: gradients, use, and what it adds to predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.ablation import ablation
from pli_analysis.metrics.attribution import attribution
from pli_analysis.metrics.grad_norms import logged
from pli_analysis.metrics.lens import LOGIT, lens
from pli_analysis.metrics.probing.probe import gains
from pli_train.core.cli.console import say
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.inference import eval_tokens
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_train.core.run_format.run_folder import CheckpointName


class Measure(NamedTuple):
    """A number for each layer.

    Attributes:
        name: value of the column `measure`.
        title: what it is, with its unit.
        margin: differences smaller than this are too small to matter, for the equivalence test.
    """

    name: str
    title: str
    margin: float


GRADIENT = Measure("log_grad_rms", "log of the root mean square gradient", float(np.log(1.25)))
SKIP = Measure("skip", "loss change without the layer (nats)", 0.01)
SWAP = Measure("swap", "loss change if swapped upward (nats)", 0.01)
FFN = Measure("ffn", "loss change without its FFN (nats)", 0.01)
HEAD = Measure("head", "mean loss change without a head (nats)", 0.01)
HEAD_IMPORTANCE = Measure("head_importance", "mean importance of its heads (nats)", 0.01)
BLOCK_INFLUENCE = Measure("block_influence", "block influence", 0.05)
DECIDED = Measure("decided", "share of tokens decided at the layer", 0.05)
PROBE_GAIN = Measure("probe_gain", "mean gain of linear probes", 0.01)
LOGIT_SHARE = Measure("logit_share", "share of the logits of right tokens", 0.05)
MEASURES = (GRADIENT, SKIP, SWAP, FFN, HEAD, HEAD_IMPORTANCE, BLOCK_INFLUENCE, DECIDED, PROBE_GAIN, LOGIT_SHARE)
RECENT = 0.1
"""Share of the run's steps, up to the checkpoint, over which gradients are averaged."""


def of_layers(run: Run, name: CheckpointName, text: Path | eval_tokens.Text | None, blocks: int) -> pd.DataFrame:
    """Measure the layers at a checkpoint.

    Returns:
        One row per layer, from the bottom to the top, with the layer id as its index, the columns `layer_index`, `age`
        and `is_inserted`, and a column for each measure.

    Raises:
        BadInput: as `ablation`, `lens` and `attribution`.
    """
    import pandas as pd

    table = ablation.ablation(run, text, blocks, name)
    of_layer = table[table[col.PART_TYPE] == ablation.LAYER]
    changes = of_layer.pivot(index=col.LAYER, columns=col.ABLATION, values=col.LOSS_CHANGE)
    skipped = of_layer[of_layer[col.ABLATION] == ablation.SKIP].set_index(col.LAYER)
    heads = table[table[col.PART_TYPE] == ablation.HEAD].groupby(col.LAYER)
    ffns = table[table[col.PART_TYPE] == ablation.FFN].set_index(col.LAYER)
    seen = lens(run, text, blocks, name)
    added = attribution.attribution(run, text, blocks, name)
    return pd.DataFrame(
        {
            col.INDEX: skipped[col.INDEX].astype(int),
            col.AGE: skipped[col.AGE].astype(int),
            col.IS_INSERTED: skipped[col.IS_INSERTED].astype(bool),
            GRADIENT.name: recent_gradients(run, name.step),
            SKIP.name: changes[ablation.SKIP],
            SWAP.name: changes.get(ablation.SWAP, np.nan),
            FFN.name: ffns[col.LOSS_CHANGE],
            HEAD.name: heads[col.LOSS_CHANGE].mean(),
            HEAD_IMPORTANCE.name: heads[col.HEAD_IMPORTANCE].mean(),
            BLOCK_INFLUENCE.name: skipped[col.BLOCK_INFLUENCE],
            DECIDED.name: seen[seen[col.LENS] == LOGIT].set_index(col.LAYER)[col.DECIDED],
            PROBE_GAIN.name: _probe_gains(run, name, text, blocks),
            LOGIT_SHARE.name: added[added[col.PART_TYPE] == attribution.LAYER].set_index(col.LAYER)[col.SHARE],
        }
    ).loc[skipped.index]


def _probe_gains(run: Run, name: CheckpointName, text: Path | eval_tokens.Text | None, blocks: int) -> pd.Series:
    """Return the mean gain of probes at each layer, over labels; empty if there is too little text, or no tokenizer."""
    import pandas as pd

    try:
        return gains(run, text, blocks, name)
    except BadInput as error:
        say(f"no probes are fitted: {error}")
        return pd.Series(dtype=float)


def recent_gradients(run: Run, step: int) -> pd.Series:
    """Return the gradient of each layer over the last steps up to a checkpoint: layer id → mean log RMS."""
    norms = gradients(run)
    last = run.checkpoints[-1].step
    return (
        norms[(norms[col.STEP] > step - RECENT * last) & (norms[col.STEP] <= step)]
        .groupby(col.LAYER)[GRADIENT.name]
        .mean()
    )


def while_young(norms: pd.DataFrame, layers: Sequence[str], age: int) -> float:
    """Return the mean log RMS gradient of some layers while they were no older than an age; NaN if none was logged.

    Args:
        norms: result of `gradients`.
    """
    young = norms[norms[col.LAYER].isin(layers) & (norms[col.AGE] <= age)]
    return float(young.groupby(col.LAYER)[GRADIENT.name].mean().mean())


def gradients(run: Run) -> pd.DataFrame:
    """Return the logged gradients of layers: `layer`, `step`, `age`, and the log of the gradient norm ÷ √parameters.

    The number of parameters is that of the last checkpoint with the layer. A gradient of 0 has no logarithm and is left
    out, and the table is empty if the run logged no gradient norms.
    """
    table = logged.logged(run.scalars, run.lineage)
    table = table[(table[col.PART_TYPE] == "layer") & (table[col.GRAD_NORM] > 0)]
    sizes = {id: count for checkpoint in run.states.values() for id, count in _parameters(checkpoint).items()}
    table = table[table[col.LAYER].isin(sizes)]
    counts = table[col.LAYER].map(sizes).astype(float)
    values = np.log(table[col.GRAD_NORM].astype(float) / np.sqrt(counts))
    return table[[col.LAYER, col.STEP, col.AGE]].assign(**{GRADIENT.name: values})


def _parameters(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the number of parameters of each layer."""
    shapes = {name: location.shape for name, location in checkpoint.locations.items()}

    def count(name: str) -> int:
        stored, rows = checkpoint.home(name)
        shape = shapes[stored]
        return int(np.prod(shape if rows is None else (rows.stop - rows.start, *shape[1:])))

    return {id: sum(map(count, names.values())) for id, names in checkpoint.names_of_layers.items()}
