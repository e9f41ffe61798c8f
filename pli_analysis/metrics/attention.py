"""Where heads attend: entropy, distance and pattern of their attention, and attention rollout through the layers.

Columns of the table, one row per head, and one per layer for attention rollout:
    run, checkpoint, step
    layer, index, age   layer id, its index in the stack at this step, and steps since its birth
    is_inserted whether a growth event inserted the layer
    part_type   `head`, or `rollout`: the attention from the output of the layer to the tokens of the input, the product
                of (mean over heads + identity) ÷ 2 over the layers up to this one (Abnar and Zuidema 2020,
                arXiv:2005.00928)
    part        name of the head, such as `c.h3`; the layer id for rollout
    entropy     mean over queries of −Σ p log p, in nats; 0 if each query attends to one token
    relative_entropy    entropy ÷ that of equal attention to all tokens that the query can attend to
    attention_distance  mean over queries of Σ p |query − key|, in tokens
    previous, self, next        mean attention to the token before, at and after the query
    first       mean attention to the first token of the block
    top         mean attention to the three tokens of each block that get most attention
    special     mean attention to special tokens other than the mask token; empty if there is no tokenizer, or no block
                has such a token
    pattern     `uniform`, `diagonal`, `vertical`, `both` or `heterogeneous`: see `pattern_of`; empty for rollout
    donor_divergence    mean Jensen–Shannon divergence, in nats (0 to log 2), between the attention of the head and that
                of the head that it was copied from, if that is still in the stack
    blocks, documents   number of blocks and documents on which the attention is measured

All means are over all queries of all blocks. A causal model has one possible key for the first query, two for the
second, and so on, which limits entropy and distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.devices import double
from pli_analysis.metrics.lineage import position_of
from pli_analysis.metrics.row_cache import rows_of
from pli_analysis.runs.ancestry import donor
from pli_analysis.runs.checkpoint import require_parts
from pli_train.core import tokenizer
from pli_train.core.anatomy.parts import number_of
from pli_train.core.errors import BadInput, PliError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor
    from transformers import PreTrainedModel

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run

MASSES = [col.PREVIOUS, col.SELF, col.NEXT, col.FIRST, col.TOP, col.SPECIAL]
STATISTICS = [col.ENTROPY, col.RELATIVE_ENTROPY, col.ATTENTION_DISTANCE, *MASSES]
COLUMNS = [col.RUN, col.CHECKPOINT, col.STEP, col.LAYER, col.INDEX, col.AGE, col.IS_INSERTED]
COLUMNS += [col.PART_TYPE, col.PART, *STATISTICS, col.PATTERN, col.DONOR_DIVERGENCE, col.BLOCKS, col.DOCUMENTS]
HEAD, ROLLOUT = "head", "rollout"
UNIFORM, DIAGONAL, VERTICAL, BOTH, HETEROGENEOUS = "uniform", "diagonal", "vertical", "both", "heterogeneous"
MOST = 0.5
"""Share of the attention above which it makes a pattern."""
EVEN = 0.9
"""Relative entropy above which attention is uniform."""
EACH = 0.2
"""Share of the attention that each of two groups of tokens needs for a pattern of both."""
TOP_TOKENS = 3
"""Number of tokens of a block that can make a vertical pattern."""
KEPT = "attention-1/"
"""Cache folder of results. Increase the number when their values change."""


def attention(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    at: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measure where each head attends.

    One block at a time is in memory, with the attention of all layers: layers × heads × block size² × 12 bytes.

    Args:
        text: as for `pli_analysis.inference.eval_tokens.sample_of`.
        blocks: maximum number of blocks of text.
        at: step of the checkpoint; None for the last one.
        on_progress: called with (blocks done, in total).

    Raises:
        BadInput: if there is no checkpoint of the step, no text, or the model has no table of its heads or returns no
            attention weights.
    """
    import pandas as pd

    checkpoint = run.at(at)
    require_parts(checkpoint, "head")
    sample = eval_tokens.sample_of(run, text, blocks)
    special = _special_tokens(run, text)
    counts = len(sample.tokens), len(np.unique(sample.documents))
    who, lineage = (run.name, str(checkpoint.name), checkpoint.step), checkpoint.lineage
    inputs = sample.content + str(special).encode()
    rows = rows_of(KEPT, checkpoint, inputs, lambda: _measured(checkpoint, sample, special, on_progress))
    found = [(*who, *position_of(lineage, layer, checkpoint.step), *row, *counts) for layer, *row in rows]
    return pd.DataFrame(found, columns=COLUMNS)


def _special_tokens(run: Run, text: Path | eval_tokens.Text | None) -> list[int]:
    """Return the ids of the tokenizer's special tokens except the mask token; none without a readable tokenizer."""
    given = text.tokenizer if isinstance(text, eval_tokens.Text) else None
    if given is None and any(file.is_symlink() for file in tokenizer.files_of(run.tokenizer)):
        return []  # a link may lead out of the run
    try:
        loaded = tokenizer.local(given or run.tokenizer)
    except PliError:
        return []
    return sorted(set(loaded.all_special_ids) - {loaded.mask_token_id})


def _measured(
    checkpoint: Checkpoint, sample: Sample, special: list[int], on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Any, ...]]:
    """Yield layer and the columns from `part_type` to `donor_divergence`."""
    import torch

    model, lineage = checkpoint_model.model_of(checkpoint, head=False), checkpoint.lineage
    donors = donors_of(checkpoint)
    found = [Sums() for _ in lineage.stack]
    rolled = [Sums() for _ in lineage.stack]
    divergences: dict[tuple[int, int], list[float]] = {part: [] for part in donors}
    with torch.inference_mode():
        for number, tokens in enumerate(sample.tokens.to(model.device).split(1)):
            on_progress(number, len(sample.tokens))
            weights = weights_of(checkpoint, model, tokens)
            is_special = torch.isin(tokens[0], tokens.new_tensor(special)).to(weights[0].device)
            for sums, heads in zip(found, weights, strict=True):
                sums.add(heads, is_special)
            for sums, through in zip(rolled, rollout(weights), strict=True):
                sums.add(through[None], is_special)
            for (layer, head), (donor, copied) in donors.items():
                pair = weights[layer][head][None], weights[donor][copied][None]
                divergences[layer, head].append(float(_divergence(*pair)))
    on_progress(len(sample.tokens), len(sample.tokens))
    for index, id in enumerate(lineage.stack):
        for head, (values, pattern) in enumerate(found[index].means()):
            divergence = float(np.mean(divergences[index, head])) if (index, head) in donors else np.nan
            yield (id, HEAD, f"{id}.h{head}", *values, pattern, divergence)
        [(values, _)] = rolled[index].means()
        yield (id, ROLLOUT, id, *values, "", np.nan)


def donors_of(checkpoint: Checkpoint) -> dict[tuple[int, int], tuple[int, int]]:
    """Return (layer index, head) of each copied head → those of the head that it was copied from, if still there."""
    lineage, counts = checkpoint.lineage, checkpoint.heads
    found = {}
    for index, id in enumerate(lineage.stack):
        for head in range(counts[index]):
            source = donor(lineage.layers[id], f"h{head}", 1) if f"{id}.h{head}" in lineage.layers[id].heads else None
            if source is not None and source[0] in lineage.stack:
                owner, number = lineage.stack.index(source[0]), number_of(source[1])
                if number is not None and number < counts[owner]:
                    found[index, head] = owner, number
    return found


def weights_of(checkpoint: Checkpoint, model: PreTrainedModel, tokens: Tensor) -> list[Tensor]:
    """Return the attention of each layer to one block, (heads, queries, keys), without heads that only pad a layer.

    Raises:
        BadInput: if the model does not return its attention weights, or they are not finite.
    """
    weights = getattr(model(input_ids=tokens, output_attentions=True), "attentions", None) or ()
    if len(weights) != len(checkpoint.heads) or any(each is None for each in weights):
        family = checkpoint.anatomy.model_type
        raise BadInput(f"{checkpoint.path}: the {family} model of transformers does not return its attention weights")
    found = [double(each[0, :count]) for each, count in zip(weights, checkpoint.heads, strict=True)]
    if not all(bool(each.isfinite().all()) for each in found):
        raise BadInput(f"{checkpoint.path}: its attention weights are not finite")
    return found


def rollout(weights: list[Tensor]) -> Iterator[Tensor]:
    """Yield the attention from the output of each layer to the input, (queries, keys); its rows sum to 1.

    Args:
        weights: attention of each layer, (heads, queries, keys), bottom to top.
    """
    import torch

    identity = torch.eye(weights[0].shape[-1]).to(weights[0])
    through = identity
    for heads in weights:
        through = (heads.mean(dim=0) + identity) / 2 @ through
        yield through


def pattern_of(relative_entropy: float, diagonal: float, vertical: float, together: float) -> str:
    """Classify a head, after Kovaleva et al. 2019 (arXiv:1908.08593), by fixed rules.

    `uniform`: the relative entropy is at least 0.9. Else `diagonal`: at least half of the attention goes to the
    previous, the same and the next token; `vertical`: to the three tokens of a block that get most; `both`: to all of
    these together, and at least a fifth to each group. Else `heterogeneous`.

    Args:
        relative_entropy: entropy ÷ that of equal attention.
        diagonal, vertical, together: attention to the two groups of tokens, and to their union.
    """
    if relative_entropy >= EVEN:
        return UNIFORM
    if max(diagonal, vertical) >= MOST:
        return DIAGONAL if diagonal >= vertical else VERTICAL
    return BOTH if together >= MOST and min(diagonal, vertical) >= EACH else HETEROGENEOUS


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return the Jensen–Shannon divergence of two attentions, (heads, queries, keys), as a mean over queries."""
    middle = (first + second) / 2
    return _entropy(middle) - (_entropy(first) + _entropy(second)) / 2


def _entropy(weights: Tensor) -> Tensor:
    """Return the entropy of attention, (heads, queries, keys), as a mean over queries."""
    import torch

    return -torch.xlogy(weights, weights).sum(dim=-1).mean(dim=-1)


class Sums:
    """Sums of the statistics of some heads over blocks of the same length."""

    def __init__(self) -> None:
        self._sums: np.ndarray | None = None
        self._possible: Tensor | None = None
        self._blocks = self._with_special = 0

    def add(self, weights: Tensor, is_special: Tensor) -> None:
        """Add the attention to one block.

        Args:
            weights: (heads, queries, keys).
            is_special: (keys,) bool.
        """
        import torch

        length = weights.shape[-1]
        locations = torch.arange(length, device=weights.device)
        distances = (locations[:, None] - locations).abs()
        distance = (weights * distances).sum(dim=-1).mean(dim=-1)
        near = [weights.diagonal(offset, -2, -1).sum(dim=-1) / length for offset in (-1, 0, 1)]
        columns = weights.mean(dim=-2)
        top = columns.topk(min(TOP_TOKENS, length), dim=-1)
        is_top = torch.zeros_like(columns, dtype=torch.bool).scatter(-1, top.indices, True)
        together = (weights * ((distances <= 1) | is_top[:, None])).sum(dim=-1).mean(dim=-1)
        special = columns[:, is_special].sum(dim=-1)
        masses = [*near, columns[:, 0], top.values.sum(dim=-1), special, together]
        values = torch.stack([_entropy(weights), distance, *masses], dim=-1).cpu().numpy()
        self._sums = values if self._sums is None else self._sums + values
        seen = (weights > 0).any(dim=0)  # a single head may give a token so little that it is rounded to 0
        self._possible = seen if self._possible is None else self._possible | seen
        self._blocks += 1
        self._with_special += bool(is_special.any())

    def means(self) -> Iterator[tuple[list[float], str]]:
        """Yield the statistics of each head, in the order of `STATISTICS`, and its pattern."""
        assert self._sums is not None
        assert self._possible is not None
        most = float(double(self._possible.sum(dim=-1)).log().mean())  # entropy of equal attention
        for entropy, distance, *masses, together in (self._sums / self._blocks).tolist():
            relative = entropy / most if most else 0.0
            previous, self_, next_, first, top, special = masses
            pattern = pattern_of(relative, previous + self_ + next_, top, together)
            known = special if self._with_special else np.nan
            yield [entropy, relative, distance, previous, self_, next_, first, top, known], pattern
