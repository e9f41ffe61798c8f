"""Similarity of layer outputs: between layers, over time, between runs.

Columns of the table, one row for each pair:
    run_a, layer_a, checkpoint_a, step_a, index_a       one of the two: run, layer id, checkpoint, its step, and
    run_b, layer_b, checkpoint_b, step_b, index_b       where the layer sat then; and the other
    cka         debiased linear CKA, at most 1; around 0, on both sides, where there is nothing in common; empty, as the
                next two, where a layer puts out numbers that are not finite
    procrustes  of an orthogonal map of one onto the other, 0 to 1
    neighbors   share of nearest neighbors that both have, 0 to 1
    sequences   of the text: the tokens of one batch come one from each
    compared_tokens     all that were compared

By weights (`by_weights`) the measures are others, the mean of each over the weight matrices that either of the two has:
    cosine_similarity   of a matrix of the one and of the other; 0 for one that only one of them has
    distance    ‖x − y‖² ÷ (‖x‖² + ‖y‖²), which lineages are inferred by: 0 for equal ones, around 1 for unrelated ones
    matrices    how many there are
Of a matrix beyond 2¹⁵ numbers a sample is compared, the same at every checkpoint. Layers that compute the same in
another basis are not alike by weights.

Batches are positions: every one has one token of each sequence, so that samples of a batch do not depend on each other
through a common past. See `pli_analysis.metrics.similarity.cka` for the measures.
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
    from pli_analysis.runs.inferred_lineage import Weights
    from pli_analysis.runs.run import Run

PAIR = [col.of_side(name, side) for side in "ab" for name in (col.RUN, col.LAYER, col.CHECKPOINT, col.STEP, col.INDEX)]
COLUMNS = [*PAIR, col.CKA, col.PROCRUSTES, col.NEIGHBORS, col.SEQUENCES, col.COMPARED_TOKENS]
COLUMNS_OF_WEIGHTS = [*PAIR, col.COSINE_SIMILARITY, col.DISTANCE, col.MATRICES]
POSITIONS = 16
"""Positions of every sequence, at most, at which tokens are compared."""


@dataclass(frozen=True)
class LayerOutputs:
    """One layer at one checkpoint, in the three forms that the measures take, and whether it is all finite numbers."""

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
    """The likeness of layers: of every pair of a run, or of a pair of runs, or of each layer with its first state.

    Args:
        run: its layers are `a`.
        other: its layers are `b`; None for the same run.
        text: as for `pli_analysis.inference.eval_tokens.batch_of`.
        blocks: how many blocks of it are used at most, four at least: each is a sequence.
        at: the step of the checkpoints; the last ones if None.
        over_time: every layer at every checkpoint (`a`) with itself at its first (`b`).
        on_progress: told (pairs or checkpoints done, in all).

    Raises:
        BadInput: for a text that is too short, runs that read it as different tokens, a step without a checkpoint,
            or a checkpoint that cannot be read.
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
    """A line for layers that put out numbers that are not finite: those whose likeness with anything is not known.

    Args:
        table: of `similarity`.
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
    return [f"outputs are not finite, and left out: of {some(layers)} at {where}" for where, layers in found.items()]


def by_weights(
    run: Run,
    other: Run | None,
    at: int | None = None,
    over_time: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """The likeness of the weights of layers. Needs no text, no head and no table: arguments as for `similarity`.

    Raises:
        BadInput: for a step without a checkpoint, checkpoints that cannot be read, or models that have no weight matrix
            of one name and shape in common.
    """
    import pandas as pd

    from pli_analysis.runs.inferred_lineage import weights_of

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
        mine = weights_of(_checkpoint(run, at))
        theirs = mine if other is None else weights_of(_checkpoint(other, at))
        found = _alike(run, mine, other or run, theirs)
        rows += found if other is not None else [pair for pair in found if pair[4] <= pair[9]]
    return pd.DataFrame(rows, columns=COLUMNS_OF_WEIGHTS)


def _alike(run: Run, a: Weights, other: Run, b: Weights) -> list[tuple[Any, ...]]:
    """Every layer of one checkpoint with every one of another: rows of the table."""
    from pli_analysis.runs.inferred_lineage import compared

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
    """Why two runs have no tokens in common to be compared on, and what to do.

    Args:
        run, other, text: as for `similarity`.
        lengths: tokens of a block of each run.
    """
    message = f"{other.path}: has other tokens to be compared on than {run.path}"
    if not text:
        return f"{message}; give both a text"
    if lengths[0] != lengths[1]:
        return f"{message}: blocks of {lengths[1]} and of {lengths[0]}, the lengths that they trained on"
    return (
        f"{message}: {other.tokenizer} reads the text otherwise than {run.tokenizer}; name one tokenizer for both with "
        "--tokenizer"
    )


def _tokens(run: Run, text: Path | eval_tokens.Text | None, blocks: int) -> Tensor:
    tokens, _ = eval_tokens.batch_of(run, text, blocks)
    if len(tokens) < measures.FEWEST:
        length = tokens.shape[1]
        raise BadInput(
            f"{text or run.path}: makes {len(tokens)} blocks of {length} tokens, and tokens of {measures.FEWEST} "
            "different ones are the fewest that can be compared: give a longer text, or more --blocks"
        )
    return tokens


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool((first == second).all())


def _between(
    run: Run, other: Run | None, at: int | None, tokens: Tensor, kept: Tensor, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[LayerOutputs, LayerOutputs]]:
    """Every pair of layers; within one run each but once."""
    mine = list(_outputs(run, _checkpoint(run, at), tokens, kept))
    theirs = mine if other is None else list(_outputs(other, _checkpoint(other, at), tokens, kept))
    pairs = [(a, b) for i, a in enumerate(mine) for b in (mine[i:] if other is None else theirs)]
    for number, pair in enumerate(pairs):
        on_progress(number, len(pairs))
        yield pair
    on_progress(len(pairs), len(pairs))


def _with_first(
    run: Run, tokens: Tensor, kept: Tensor, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[LayerOutputs, LayerOutputs]]:
    """Every layer at every checkpoint, with itself at its first."""
    first: dict[str, LayerOutputs] = {}
    checkpoints = list(run.states.values())
    for number, checkpoint in enumerate(checkpoints):
        on_progress(number, len(checkpoints))
        for collected, id in zip(_outputs(run, checkpoint, tokens, kept), checkpoint.lineage.stack, strict=True):
            yield collected, first.setdefault(id, collected)
    on_progress(len(checkpoints), len(checkpoints))


def _checkpoint(run: Run, at: int | None) -> Checkpoint:
    if at is None:
        return run.checkpoints[-1]
    if at not in run.states:
        nearest = min(run.states, key=lambda step: abs(step - at))
        raise BadInput(f"{run.path}: has no checkpoint of step {at}; the nearest is of {nearest}")
    return run.states[at]


def _outputs(run: Run, checkpoint: Checkpoint, tokens: Tensor, kept: Tensor) -> Iterator[LayerOutputs]:
    """The layers of a checkpoint, bottom to top."""
    outputs = checkpoint_model.outputs_of(checkpoint, "layers", tokens, kept)
    for index, (id, values) in enumerate(zip(checkpoint.lineage.stack, outputs, strict=True)):
        batches = values.reshape(len(tokens), -1, values.shape[-1]).swapaxes(0, 1)  # a position, a batch
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
