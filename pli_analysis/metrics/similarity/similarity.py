"""Similarity of layer outputs: between layers, over time, between runs.

Columns of the table, one row for each pair:
    run_a, layer_a, checkpoint_a, step_a, index_a       first layer: run, layer id, checkpoint, step of the checkpoint,
                and index of the layer at this step
    run_b, layer_b, checkpoint_b, step_b, index_b       second layer, likewise
    cka         debiased linear CKA, at most 1; around 0, positive or negative, for unrelated layers; empty, as the next
                two, if an output of one of the layers is not finite
    procrustes  Procrustes similarity, 0 to 1
    neighbors   share of nearest neighbors in common, 0 to 1
    sequences   number of sequences of the text; each batch has one token of each
    compared_tokens     total number of tokens compared

The measures of `by_weights` are means over all weight matrices that at least one of the layers has:
    cosine_similarity   of the two matrices; 0 for a matrix that only one layer has
    distance    ‖x − y‖² ÷ (‖x‖² + ‖y‖²), also used to infer lineages: 0 for equal matrices, about 1 for unrelated ones
    matrices    number of matrices
Of matrices with more than 2¹⁵ numbers, a sample of entries is compared, the same at every checkpoint. Layers that
compute the same function in another basis are not similar by weights.

Each batch is one position, with one token of each sequence, so that the samples of a batch have no common context. See
`pli_analysis.metrics.similarity.cka` for the measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.metrics.similarity import cka as measures
from pli_train.core.errors import BadInput, some

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_analysis.runs.weight_comparison import Weights

PAIR = [col.of_side(name, side) for side in "ab" for name in (col.RUN, col.LAYER, col.CHECKPOINT, col.STEP, col.INDEX)]
COLUMNS = [*PAIR, col.CKA, col.PROCRUSTES, col.NEIGHBORS, col.SEQUENCES, col.COMPARED_TOKENS]
COLUMNS_OF_WEIGHTS = [*PAIR, col.COSINE_SIMILARITY, col.DISTANCE, col.MATRICES]
POSITIONS = 16
"""Maximum number of positions of each sequence at which tokens are compared."""


@dataclass(frozen=True)
class LayerOutputs:
    """Outputs of one layer at one checkpoint in the form that each measure needs, and whether all are finite."""

    who: tuple[object, ...]
    finite: bool
    kernels: np.ndarray
    unit: np.ndarray
    neighbors: np.ndarray


def similarity(
    run: Run,
    other: Run | None,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    at: int | None = None,
    over_time: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measure the similarity of layer outputs: of all pairs in one or two runs, or of each layer with its first state.

    Args:
        run: the run of layers `a`.
        other: the run of layers `b`; None for the same run.
        text: as for `pli_analysis.inference.eval_tokens.batch_of`.
        blocks: maximum number of blocks to use, at least four; each is a sequence.
        at: step of the checkpoints; None for the last ones.
        over_time: compare each layer at each checkpoint (`a`) with itself at its first one (`b`).
        on_progress: called with (pairs or checkpoints done, in total).

    Raises:
        BadInput: if the text is too short, the runs tokenize it differently, there is no checkpoint of a step, or a
            checkpoint cannot be read.
    """
    import pandas as pd

    tokens = _tokens(run, text, blocks)
    if other is not None and not _same(tokens, others := _tokens(other, text, blocks)):
        raise BadInput(_other_tokens(run, other, text, (tokens.shape[1], others.shape[1])))
    kept = eval_tokens.spread(tokens, POSITIONS * len(tokens))
    if over_time:
        pairs = _with_first(run, tokens, kept, on_progress)
    else:
        pairs = _between(run, other, at, tokens, kept, on_progress)
    counts = len(tokens), int(kept.sum())
    return pd.DataFrame([(*a.who, *b.who, *_measured(a, b), *counts) for a, b in pairs], columns=COLUMNS)


def unknown(table: pd.DataFrame) -> list[str]:
    """Return a line for each checkpoint with layers whose outputs are not finite: they have no similarity to any layer.

    Args:
        table: result of `similarity`.
    """
    sides = [
        list(zip(*(table[col.of_side(name, side)] for name in (col.RUN, col.CHECKPOINT, col.LAYER)), strict=True))
        for side in "ab"
    ]
    pairs = list(zip(*sides, table[col.PROCRUSTES].isna(), strict=True))
    known = {who for *both, lacks in pairs if not lacks for who in both}
    odd = dict.fromkeys(a for a, b, lacks in pairs if lacks and a == b)
    for a, b, lacks in pairs:
        if lacks and a not in odd and b not in odd:
            odd |= dict.fromkeys(who for who in (a, b) if who not in known)
    found: dict[str, list[str]] = {}
    for _, checkpoint, layer in odd:
        found.setdefault(checkpoint, []).append(layer)
    return [f"outputs that are not finite are left out: {some(layers)} at {where}" for where, layers in found.items()]


def by_weights(
    run: Run,
    other: Run | None,
    at: int | None = None,
    over_time: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measure the similarity of layer weights: no text, language-model head or family table is needed.

    Arguments are those of `similarity`.

    Raises:
        BadInput: if there is no checkpoint of a step, a checkpoint cannot be read, or the models have no weight matrix
            of the same name and shape in common.
    """
    import pandas as pd

    from pli_analysis.runs.weight_comparison import weights_of

    rows: list[tuple[object, ...]] = []
    if over_time:
        first: dict[str, Weights] = {}
        states = list(run.states.values())
        for number, checkpoint in enumerate(states):
            on_progress(number, len(states))
            now = weights_of(checkpoint)
            for id in checkpoint.lineage.stack:
                first.setdefault(id, now)
            for then in {first[id].checkpoint.path: first[id] for id in checkpoint.lineage.stack}.values():
                ids = {id for id in checkpoint.lineage.stack if first[id] is then}
                rows += [pair for pair in _alike(run, now, run, then) if pair[1] == pair[6] and pair[1] in ids]
        on_progress(len(states), len(states))
    else:
        mine = weights_of(run.at(at))
        theirs = mine if other is None else weights_of(other.at(at))
        found = _alike(run, mine, other or run, theirs)
        rows += found if other is not None else [pair for pair in found if pair[4] <= pair[9]]
    return pd.DataFrame(rows, columns=COLUMNS_OF_WEIGHTS)


def _alike(run: Run, a: Weights, other: Run, b: Weights) -> list[tuple[Any, ...]]:
    """Compare each layer of one checkpoint with each of another; return rows of the table."""
    from pli_analysis.runs.weight_comparison import compared

    found = compared(a, b)
    sides = [
        [(of.name, id, str(c.name), c.step, index) for index, id in enumerate(c.lineage.stack)]
        for of, c in ((run, a.checkpoint), (other, b.checkpoint))
    ]
    return [
        (*one, *two, float(found.cosine[i, j]), float(found.distance[i, j]), int(found.count[i, j]))
        for i, one in enumerate(sides[0])
        for j, two in enumerate(sides[1])
    ]


def _other_tokens(run: Run, other: Run, text: Path | eval_tokens.Text | None, lengths: tuple[int, int]) -> str:
    """Format the error for two runs that cannot be compared on the same tokens.

    Args:
        run, other, text: as for `similarity`.
        lengths: block length of each run.
    """
    problem = f"{other.path}: its tokens differ from those of {run.path}"
    if not text:
        return f"{problem}; give a text for both with --text FILE"
    if lengths[0] != lengths[1]:
        return f"{problem}: its block length is {lengths[1]}, not {lengths[0]}; compare runs of one block length"
    return (
        f"{problem}: {other.tokenizer} and {run.tokenizer} tokenize the text differently; name one tokenizer for both "
        "with --tokenizer"
    )


def _tokens(run: Run, text: Path | eval_tokens.Text | None, blocks: int) -> Tensor:
    tokens, _ = eval_tokens.batch_of(run, text, blocks)
    if len(tokens) < measures.FEWEST:
        length = tokens.shape[1]
        raise BadInput(
            f"{text or run.path}: has {len(tokens)} blocks of {length} tokens, and similarity needs at least "
            f"{measures.FEWEST}; give a longer text, or a larger --blocks"
        )
    return tokens


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool((first == second).all())


def _between(
    run: Run, other: Run | None, at: int | None, tokens: Tensor, kept: Tensor, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[LayerOutputs, LayerOutputs]]:
    """Yield all pairs of layers; within one run, each pair once."""
    mine = list(_outputs(run, run.at(at), tokens, kept))
    theirs = mine if other is None else list(_outputs(other, other.at(at), tokens, kept))
    pairs = [(a, b) for i, a in enumerate(mine) for b in (mine[i:] if other is None else theirs)]
    for number, pair in enumerate(pairs):
        on_progress(number, len(pairs))
        yield pair
    on_progress(len(pairs), len(pairs))


def _with_first(
    run: Run, tokens: Tensor, kept: Tensor, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[LayerOutputs, LayerOutputs]]:
    """Yield each layer at each checkpoint with itself at its first."""
    first: dict[str, LayerOutputs] = {}
    checkpoints = list(run.states.values())
    for number, checkpoint in enumerate(checkpoints):
        on_progress(number, len(checkpoints))
        for collected, id in zip(_outputs(run, checkpoint, tokens, kept), checkpoint.lineage.stack, strict=True):
            yield collected, first.setdefault(id, collected)
    on_progress(len(checkpoints), len(checkpoints))


def _outputs(run: Run, checkpoint: Checkpoint, tokens: Tensor, kept: Tensor) -> Iterator[LayerOutputs]:
    """Yield the outputs of a checkpoint's layers, bottom to top."""
    outputs = checkpoint_model.outputs_of(checkpoint, "layers", tokens, kept)
    for index, (id, values) in enumerate(zip(checkpoint.lineage.stack, outputs, strict=True)):
        batches = values.reshape(len(tokens), -1, values.shape[-1]).swapaxes(0, 1)  # one batch for each position
        finite = bool(np.isfinite(batches).all())
        batches = np.where(np.isfinite(batches), batches, 0)
        yield LayerOutputs(
            (run.name, id, str(checkpoint.name), checkpoint.step, index),
            finite,
            measures.u_centered(batches),
            measures.unit(batches),
            measures.neighbors(batches),
        )


def _measured(a: LayerOutputs, b: LayerOutputs) -> tuple[float, float, float]:
    if not (a.finite and b.finite):
        return (float("nan"),) * 3
    return (
        measures.cka(a.kernels, b.kernels),
        measures.procrustes(a.unit, b.unit),
        measures.overlap(a.neighbors, b.neighbors),
    )
