"""Attention of single heads to one block of text, at one checkpoint or two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.token_text import texts_of
from pli_analysis.metrics.attention import donors_of, weights_of
from pli_analysis.runs.checkpoint import require_parts
from pli_train.core.errors import BadInput, counted, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run

MOST_WEIGHTS = 3_500_000
"""Maximum number of weights that queries can have: a byte each on a page, which stays below 8 MB with them."""


class Heads(NamedTuple):
    """Attention of some heads of a checkpoint to one block.

    Attributes:
        step: of the checkpoint.
        weights: name of the head, such as `c.h3` → (queries, keys) float32, whose rows sum to 1; bottom to top.
        donors: name of each copied head → name of the head that it was copied from, if that is still in the stack.
        total: number of heads that the model has.
    """

    step: int
    weights: dict[str, np.ndarray]
    donors: dict[str, str]
    total: int


class HeadWeights(NamedTuple):
    """Attention of some heads to one block.

    Attributes:
        tokens: the text of each token; `#ID ` if there is no tokenizer that can be read.
        block, blocks: number of the block, from 1, and number of blocks in the sample.
        checkpoints: the same heads at each checkpoint, as far as they exist there.
    """

    tokens: list[str]
    block: int
    blocks: int
    checkpoints: list[Heads]


def head_weights(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    block: int = 1,
    steps: Sequence[int | None] = (None,),
    names: Iterable[str] | None = None,
) -> HeadWeights:
    """Return the attention of heads to one block of text.

    One checkpoint at a time is in memory, with the attention of all layers: layers × heads × block size² × 12 bytes.

    Args:
        text, blocks: as for `pli_analysis.metrics.attention.attention`.
        block: number of the block in this sample, from 1.
        steps: steps of the checkpoints; None for the last one.
        names: layers and heads, such as `c` and `a.h1`. None for as many heads of each layer as `MOST_WEIGHTS` allows.

    Raises:
        BadInput: as `attention`, and if there is no such block, layer or head, or there are more heads than
            `MOST_WEIGHTS` allows.
    """
    checkpoints = [run.at(step) for step in steps]
    for checkpoint in checkpoints:
        require_parts(checkpoint, "head")
    sample = eval_tokens.sample_of(run, text, blocks)
    count, length = sample.tokens.shape
    if block > count:
        raise BadInput(f"--block {block}: the sample has {counted(count, 'block')}; name one of 1 to {count}")
    is_causal = checkpoints[0].anatomy.task == "causal-lm"
    possible = length * (length + 1) // 2 if is_causal else length**2
    most = max(1, MOST_WEIGHTS // possible // len(checkpoints))
    chosen = _chosen([_names(checkpoint) for checkpoint in checkpoints], names, most, length)
    tokens = sample.tokens[block - 1][None]
    found = [_measured(each, tokens, chosen) for each in checkpoints]
    return HeadWeights(_texts(run, text, tokens), block, count, found)


def _names(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """Return the name of each head → index of its layer, and its own, bottom to top."""
    counts = zip(checkpoint.lineage.stack, checkpoint.heads, strict=True)
    return {f"{id}.h{head}": (index, head) for index, (id, heads) in enumerate(counts) for head in range(heads)}


def _chosen(
    known: Sequence[dict[str, tuple[int, int]]], names: Iterable[str] | None, most: int, length: int
) -> set[str]:
    """Return the names of the heads to show. Raises BadInput for unknown names, and for more than `most` heads."""
    numbers = {name: head for each in known for name, (_, head) in each.items()}
    if names is None:  # the first head of each layer, then the second ones, …
        return set(sorted(numbers, key=lambda name: numbers[name])[:most])
    layers = {name.partition(".")[0] for name in numbers}
    chosen: set[str] = set()
    for name in names:
        if name not in layers and name not in numbers:
            raise BadInput(f"--heads {name}: is no layer and no head{did_you_mean(name, [*layers, *numbers])}")
        chosen |= {each for each in numbers if name in (each, each.partition(".")[0])}
    if len(chosen) > most:
        size = f"{most} of {length} tokens" if len(known) == 1 else f"{most} of {length} tokens at two checkpoints"
        raise BadInput(f"--heads: names {len(chosen)} heads, and a page has room for {size}; name fewer")
    return chosen


def _measured(checkpoint: Checkpoint, tokens: Tensor, chosen: set[str]) -> Heads:
    """Return the attention of the chosen heads of a checkpoint to one block, (1, block_size)."""
    import torch

    model, known = checkpoint_model.model_of(checkpoint, head=False), _names(checkpoint)
    with torch.inference_mode():
        layers = weights_of(checkpoint, model, tokens.to(model.device))
    heads = {name: layers[index][head] for name, (index, head) in known.items() if name in chosen}
    weights = {name: values.float().cpu().numpy() for name, values in heads.items()}
    named = {location: name for name, location in known.items()}
    donors = {named[head]: named[donor] for head, donor in donors_of(checkpoint).items()}
    return Heads(checkpoint.step, weights, {head: donors[head] for head in weights if head in donors}, len(known))


def _texts(run: Run, text: Path | eval_tokens.Text | None, tokens: Tensor) -> list[str]:
    """Return the text of each token of the block, or its id."""
    ids = tokens.numpy()
    try:
        return texts_of(run, text, ids)[0]
    except BadInput:
        return [f"#{id} " for id in ids[0].tolist()]
