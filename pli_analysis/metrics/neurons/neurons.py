"""Neurons: the tokens at which the units of FFNs are most active, and whether copied units differ from their donors.

The activation of a unit is what the FFN's output projection reads: after the nonlinearity and, where the FFN is gated,
after the product with the gate.

Columns of the table, one row per unit and context:
    run, checkpoint, step
    layer, index, age, is_inserted  layer id, its index in the stack at this step, steps since its birth, and whether a
                growth event inserted it
    unit        id of the unit: layer id and number in the layer, in the order of birth, such as `c.u3`
    mean_activation     mean over all tokens
    active_share        share of the tokens at which the activation is above 0
    kurtosis    fourth central moment of the activation ÷ its squared variance: 3 for a normal distribution, large for a
                unit that is active at few tokens; empty if the activation is constant
    donor       the unit that it was copied from, if that is in the stack at this step
    donor_correlation   Pearson correlation of its activation with that of the donor unit, over tokens
    control_correlation the same with another unit of the donor's layer: the one that the next unit was copied from
    donor_overlap       Jaccard index of the `OVERLAP` tokens at which each of the two is most active, without tokens at
                which the activation is not above 0; empty if one of them is never active
    rank        rank of the context for this unit; 1 has the largest activation
    activation  activation at the token
    block, position     index of the block in the sample, and of the token in the block, from 0
    token, text_before, text_after  the token as the model reads it, and what is before and after it in the block; line
                breaks are `↵`, tabs `⇥`, and other characters that cannot be printed are escaped
    measured_tokens, blocks, documents      number of tokens, blocks and documents

All statistics are over the tokens of the sampled blocks. Only their sums and the largest activations are kept, and the
activations of at most 1024 tokens (or one block) are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pli_analysis import columns as col
from pli_analysis.inference import eval_tokens, token_text
from pli_analysis.metrics.lineage import position_of
from pli_analysis.metrics.neurons.activations import activations, require_units
from pli_analysis.metrics.neurons.statistics import LayerStatistics, PairStatistics
from pli_analysis.metrics.neurons.unit_donors import Unit, unit_donors
from pli_analysis.metrics.row_cache import rows_of
from pli_train.core.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_train.core.lineage import Lineage
    from pli_train.core.run_format.run_folder import CheckpointName

STATISTICS = [col.MEAN_ACTIVATION, col.ACTIVE_SHARE, col.KURTOSIS]
STATISTICS += [col.DONOR, col.DONOR_CORRELATION, col.CONTROL_CORRELATION, col.DONOR_OVERLAP]
CONTEXT = [col.RANK, col.ACTIVATION, col.BLOCK, col.POSITION, col.TOKEN, col.TEXT_BEFORE, col.TEXT_AFTER]
COLUMNS = [col.RUN, col.CHECKPOINT, col.STEP, col.LAYER, col.INDEX, col.AGE, col.IS_INSERTED, col.UNIT]
COLUMNS += [*STATISTICS, *CONTEXT, col.MEASURED_TOKENS, col.BLOCKS, col.DOCUMENTS]
OVERLAP = 20
"""Number of contexts of each unit whose overlap is measured."""
BEFORE, AFTER = 40, 20
"""Maximum number of characters of the text before and after a token."""
SIGNS = {"\n": "↵", "\t": "⇥"}
"""Signs for characters that would break a line of a table."""
NO_COPY = ("", np.nan, np.nan, np.nan)
"""The columns of `STATISTICS` from `donor` on, for a unit that is no copy."""
KEPT = "neurons-1/"
"""Cache folder of results. Increase the number when their values change."""
Row = tuple[str, int, list[Any], list[float], list[int]]
"""Layer id, number of the unit, the columns of `STATISTICS`, largest activations, and the numbers of their tokens."""


def neurons(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    at: int | CheckpointName | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    layers: Sequence[str] | None = None,
    top: int = 5,
) -> pd.DataFrame:
    """Find the tokens at which each FFN unit is most active, and compare copied units with those they were copied from.

    Args:
        text: as for `pli_analysis.inference.eval_tokens.sample_of`.
        blocks: maximum number of blocks of text.
        at: step of the checkpoint, or its name; None for the last one.
        on_progress: called with (blocks done, in total).
        layers: ids of the layers; None for the inserted ones, or for all if none was inserted. The layers that their
            units were copied from are measured too.
        top: number of contexts of each unit.

    Raises:
        BadInput: if there is no checkpoint of the step, no such layer, no text, the tokenizer cannot be read, the
            activations are not finite, or the family's FFN has no output projection that the table names.
    """
    import pandas as pd

    checkpoint = run.at(at)
    chosen = chosen_layers(checkpoint.lineage, layers)
    sample = eval_tokens.sample_of(run, text, blocks)
    require_units(checkpoint)
    texts = token_text.texts_of(run, text, sample.tokens.numpy())
    inputs = sample.content + f"{chosen} {top}".encode()
    rows = rows_of(KEPT, checkpoint, inputs, lambda: _measured(checkpoint, chosen, sample, top, on_progress))
    who, lineage = (run.name, str(checkpoint.name), checkpoint.step), checkpoint.lineage
    counts = sample.tokens.numel(), len(sample.tokens), len(np.unique(sample.documents))
    found = [
        (*who, *position_of(lineage, layer, checkpoint.step), str(Unit(layer, number)), *statistics, *context, *counts)
        for layer, number, statistics, values, tokens in rows
        for context in _contexts(texts, values, tokens)
    ]
    return pd.DataFrame(found, columns=COLUMNS)


def chosen_layers(lineage: Lineage, layers: Sequence[str] | None = None) -> list[str]:
    """Return the given layers, or the inserted ones, or all if none was inserted; from bottom to top.

    Raises:
        BadInput: if a given layer is not in the stack.
    """
    for layer in layers or []:
        if layer not in lineage.stack:
            near = did_you_mean(layer, lineage.stack)
            raise BadInput(f"layer {layer!r} is not in the stack at this step{near} (layers: {lineage})")
    if layers:
        return [layer for layer in lineage.stack if layer in layers]
    inserted = [layer for layer in lineage.stack if lineage.layers[layer].birth.event is not None]
    return inserted or list(lineage.stack)


def _measured(
    checkpoint: Checkpoint, chosen: list[str], sample: Sample, top: int, on_progress: Callable[[int, int], None]
) -> Iterator[Row]:
    """Yield a row for each unit of the chosen layers, and of those that their units were copied from."""
    lineage = checkpoint.lineage
    sources = {unit.layer for layer in chosen for unit in unit_donors(lineage, layer).values()}
    layers = [layer for layer in lineage.stack if layer in {*chosen, *sources}]
    of_layers = {layer: LayerStatistics(max(top, OVERLAP)) for layer in layers}
    copies = [each for layer in layers for each in _copies(lineage, layer, of_layers)]
    for values in activations(checkpoint, layers, sample.tokens, on_progress):
        centered = {layer: of_layers[layer].add(values[layer]) for layer in layers}
        for copied in copies:
            for pairs in (copied.pairs, copied.controls):
                pairs.add(centered[copied.layer], centered[copied.source])
    compared = {unit: values for copied in copies for unit, *values in copied.rows()}
    for layer in layers:
        yield from _rows(layer, of_layers[layer], top, compared)


class Copies(NamedTuple):
    """Units of a layer that are copies of units of one layer, which may be the same.

    Attributes:
        layer, source: ids of the layers.
        pairs: each unit with the one that it was copied from.
        controls: each unit with the one that the next unit was copied from.
    """

    layer: str
    source: str
    pairs: PairStatistics
    controls: PairStatistics

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the copied unit and the columns of `STATISTICS` from `donor` on."""
        of_pairs = self.pairs.correlations(), self.controls.correlations(), self.pairs.overlaps(OVERLAP)
        for unit, source, *values in zip(self.pairs.units, self.pairs.sources, *of_pairs, strict=True):
            yield str(Unit(self.layer, unit)), str(Unit(self.source, source)), *values


def _copies(lineage: Lineage, layer: str, of_layers: dict[str, LayerStatistics]) -> Iterator[Copies]:
    """Yield the copied units of a layer, for each layer that they were copied from and that is measured."""
    donors = unit_donors(lineage, layer)
    for source in {unit.layer: None for unit in donors.values() if unit.layer in of_layers}:
        units, sources = zip(
            *((number, unit.number) for number, unit in donors.items() if unit.layer == source), strict=True
        )
        both = of_layers[layer], of_layers[source]
        controls = PairStatistics(*both, units, [*sources[1:], sources[0]])
        yield Copies(layer, source, PairStatistics(*both, units, sources), controls)


def _rows(layer: str, found: LayerStatistics, top: int, compared: dict[str, list[Any]]) -> Iterator[Row]:
    """Yield a row for each unit of a layer, given id of a copied unit → the columns of `STATISTICS` from `donor` on."""
    columns = found.means, found.active_shares, found.kurtoses, found.activations[:top].T, found.tokens[:top].T
    for number, (*statistics, values, tokens) in enumerate(zip(*map(_listed, columns), strict=True)):
        of_copy = compared.get(str(Unit(layer, number)), NO_COPY)
        yield layer, number, [*statistics, *of_copy], values, tokens


def _listed(values: Tensor) -> list[Any]:
    return list(values.tolist())


def _contexts(texts: list[list[str]], values: list[float], tokens: list[int]) -> Iterator[tuple[Any, ...]]:
    """Yield the columns of `CONTEXT`.

    Args:
        texts: the text of each token, by block.
        values: activations, largest first.
        tokens: numbers of the tokens in the sample.
    """
    length = len(texts[0])
    for rank, (value, token) in enumerate(zip(values, tokens, strict=True), 1):
        block, position = divmod(token, length)
        words = texts[block]
        before = "".join(words[max(0, position - BEFORE) : position])[-BEFORE:]
        after = "".join(words[position + 1 : position + 1 + AFTER])[:AFTER]
        yield rank, value, block, position, *(printable(each) for each in (words[position], before, after))


def printable(text: str) -> str:
    r"""Return a text in one line: line breaks and tabs as signs, other characters that cannot be printed as escapes.

    >>> printable("if x:\n\tpass\x00")
    'if x:↵⇥pass\\x00'
    """
    return "".join(
        sign if sign.isprintable() else SIGNS.get(sign, sign.encode("unicode_escape").decode()) for sign in text
    )


def of_units(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per unit: that of its first context.

    Args:
        table: result of `neurons`.
    """
    return table[table[col.RANK] == 1]


def strongest(table: pd.DataFrame, layers: Collection[str], most: int) -> pd.DataFrame:
    """Return the rows of the units with the largest activations of each layer, from the bottom layer to the top.

    Args:
        table: result of `neurons`.
        layers: ids of the layers.
        most: number of units of each layer; 0 for all.
    """
    units = of_units(table[table[col.LAYER].isin(list(layers))])
    order = units.sort_values([col.INDEX, col.ACTIVATION], ascending=[True, False], kind="stable")
    kept = order.groupby(col.LAYER).head(most) if most else order
    return named(table, kept[col.UNIT])


def named(table: pd.DataFrame, units: Iterable[str]) -> pd.DataFrame:
    """Return the rows of some units, in the order of their ids.

    Args:
        table: result of `neurons`.
        units: ids of units that the table has.
    """
    contexts = dict(list(table.groupby(col.UNIT, sort=False)))
    return table.loc[[row for unit in units for row in contexts[unit].index]]


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """Return median and quartiles over the units of each layer: a row for each layer and column of `STATISTICS`.

    Args:
        table: result of `neurons`.
    """
    import pandas as pd

    measured = [col.MEAN_ACTIVATION, col.ACTIVE_SHARE, col.KURTOSIS]
    measured += [col.DONOR_CORRELATION, col.CONTROL_CORRELATION, col.DONOR_OVERLAP]
    rows = [
        (*who, measure, *units[measure].quantile([0.5, 0.25, 0.75]), int(units[measure].notna().sum()))
        for who, units in of_units(table).groupby([col.LAYER, col.INDEX, col.IS_INSERTED], sort=False)
        for measure in measured
        if units[measure].notna().any()
    ]
    columns = [col.LAYER, col.INDEX, col.IS_INSERTED, col.MEASURE]
    return pd.DataFrame(rows, columns=[*columns, col.MEDIAN, col.LOWER_QUARTILE, col.UPPER_QUARTILE, col.UNITS])
