"""Linear probes: which properties of a token can be read from the output of each layer, and which layers add them.

Columns of the table, one row per label and layer, and one for the input of the first layer:
    run, checkpoint, step
    label       property of the token: see `pli_analysis.metrics.probing.labels`
    layer, index, age, is_inserted  layer id, its index in the stack at this step, steps since its birth, and whether a
                growth event inserted it; the layer is `input` for the input of the first layer
    accuracy, accuracy_low, accuracy_high   share of tokens whose label the probe predicts, with its 95 % interval
    majority    accuracy of always answering the class that is most frequent where the probe is fitted
    selectivity accuracy − that of a probe on a control task: a random label for each token of the vocabulary (Hewitt
                and Liang 2019, arXiv:1909.03368)
    gain, gain_low, gain_high   accuracy − that at the input of the layer, with its 95 % interval
    code_length online code length of the labels, in bits per token (Voita and Titov 2020, arXiv:2003.12298)
    classes     number of classes of the label
    measured_tokens     number of tokens on which the probes are measured
    units       number of documents to which they belong, or of blocks, if the text has fewer than four documents

A probe is a logistic regression. It is fitted on the tokens of half of the documents and measured on the other half; if
there are fewer than four documents, of half of the blocks. Intervals are Student's t over these documents or blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pli_analysis import columns as col
from pli_analysis.inference import checkpoint_model, eval_tokens, token_text
from pli_analysis.metrics.lineage import position_of
from pli_analysis.metrics.probing import classifier
from pli_analysis.metrics.probing.labels import NONE, labels_of
from pli_analysis.metrics.row_cache import rows_of
from pli_train.core.errors import BadInput
from pli_train.core.sampling import clustered

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_train.core.run_format.run_folder import CheckpointName

COLUMNS = [col.RUN, col.CHECKPOINT, col.STEP, col.LABEL, col.LAYER, col.INDEX, col.AGE, col.IS_INSERTED]
COLUMNS += [col.ACCURACY, col.ACCURACY_LOW, col.ACCURACY_HIGH, col.MAJORITY, col.SELECTIVITY]
COLUMNS += [col.GAIN, col.GAIN_LOW, col.GAIN_HIGH, col.CODE_LENGTH, col.CLASSES, col.MEASURED_TOKENS, col.UNITS]
INPUT = "input"
"""Stands for a layer: the input of the first one."""
MOST_TOKENS = 8192
"""Maximum number of tokens on which probes are fitted and measured, together."""
RAREST = 10
"""Number of tokens that a class needs where probes are fitted; rarer classes are left out."""
FEWEST = 4
"""Number of documents from which on they are the sampling units: two on which probes are fitted, two to measure."""
SEED = 0
"""Seed of the division of documents and of control tasks."""
KEPT, KEPT_GAINS = "probe-2/", "probe-gains-1/"
"""Cache folders of results. Increase the number when their values change."""


class Half(NamedTuple):
    """Tokens of one half of the documents.

    Attributes:
        states: for the input of the first layer and the output of each layer, (tokens, width).
        classes, controls: (tokens,) int: labels, and random labels of the control task.
        units: (tokens,) int: the document or block of each token: see `_units`.
    """

    states: list[np.ndarray]
    classes: np.ndarray
    controls: np.ndarray
    units: np.ndarray


OfLabel = Callable[[Half, Half], Iterator[tuple[Any, ...]]]
"""Fits probes on one half and measures them on the other: a row for each state."""


def probe(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    at: int | CheckpointName | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measure which properties of a token a linear probe reads from the output of each layer.

    Args:
        text: as for `pli_analysis.inference.eval_tokens.sample_of`. Python source has further labels.
        blocks: maximum number of blocks of text.
        at: step of the checkpoint, or its name; None for the last one.
        on_progress: called with (labels done, in total).

    Raises:
        BadInput: if there is no checkpoint of the step, there are fewer than two blocks of text, the tokenizer cannot
            be read, no label has two classes, or the outputs are not finite.
    """
    import pandas as pd

    checkpoint = run.at(at)
    rows = _rows(run, checkpoint, text, blocks, KEPT, _of_label, on_progress)
    who, lineage = (run.name, str(checkpoint.name), checkpoint.step), checkpoint.lineage
    where = [(INPUT, None, None, None), *(position_of(lineage, id, checkpoint.step) for id in lineage.stack)]
    table = pd.DataFrame([(*who, label, *where[state], *row) for label, state, *row in rows], columns=COLUMNS)
    return table.astype({col.INDEX: "Int64", col.AGE: "Int64", col.IS_INSERTED: "boolean"})  # empty for the input


def gains(run: Run, text: Path | eval_tokens.Text | None, blocks: int, at: int | CheckpointName | None) -> pd.Series:
    """Return the mean gain of each layer over labels, by layer id: a third of the work of `probe`, or less.

    Arguments and errors are those of `probe`.
    """
    import pandas as pd

    checkpoint = run.at(at)
    rows = _rows(run, checkpoint, text, blocks, KEPT_GAINS, _gains_of_label, lambda done, total: None)
    found = pd.DataFrame(rows, columns=[col.LABEL, col.INDEX, col.GAIN])
    means = found.groupby(col.INDEX)[col.GAIN].mean()
    return pd.Series({id: means[1 + index] for index, id in enumerate(checkpoint.lineage.stack)})


def _rows(
    run: Run,
    checkpoint: Checkpoint,
    text: Path | eval_tokens.Text | None,
    blocks: int,
    folder: str,
    of_label: OfLabel,
    on_progress: Callable[[int, int], None],
) -> list[list[Any]]:
    """Return label, number of the state, and what `of_label` yields, for each label and state.

    Args:
        folder: cache folder of the rows.
        of_label: yields a row for each state.
    """
    sample = eval_tokens.sample_of(run, text, blocks)
    ids = token_text.ids_of(run, sample)
    labels = labels_of(token_text.texts_of(run, text, ids), ids, _is_python(run, text))
    inputs = sample.content + b"".join(name.encode() + values.tobytes() for name, values in labels.items())

    def measure() -> Iterator[tuple[Any, ...]]:
        is_fitted = _fitted_blocks(sample, str(text or run.path))
        kept = eval_tokens.spread(sample.tokens, MOST_TOKENS)
        states = checkpoint_model.outputs_of(checkpoint, "states", sample.tokens, kept)
        if not all(np.isfinite(values).all() for values in states):
            raise BadInput(
                f"{checkpoint.path}: the outputs of its layers are not finite, so nothing can be read from them"
            )
        yield from _measured(states, labels, ids, kept.numpy(), is_fitted, sample.documents, of_label, on_progress)

    rows = rows_of(folder, checkpoint, inputs, measure)
    if not rows:
        raise BadInput(
            f"{text or run.path}: no label of its tokens has two classes with {RAREST} tokens; give more text"
        )
    return rows


def _is_python(run: Run, text: Path | eval_tokens.Text | None) -> bool:
    """Return whether the text is Python source: whether most of its files, or of the run's corpus, end in .py."""
    source = str(run.section("data").get("source", "")) if text is None else str(text)
    if text is None and source == "python":
        return True
    files = [Path(source)] if Path(source).is_file() else [file for file in Path(source).rglob("*") if file.is_file()]
    return sum(file.suffix.lower() in (".py", ".pyi") for file in files) > len(files) / 2


def _fitted_blocks(sample: Sample, where: str) -> np.ndarray:
    """Return which blocks probes are fitted on, (blocks,) bool: about half, in whole documents, at random."""
    units = _units(sample.documents)
    chance = np.random.default_rng(SEED)
    order = chance.permutation(np.unique(units))
    if len(order) < 2:
        raise BadInput(f"{where}: has one block of text, and probes need two; give more, or more --blocks")
    sizes = np.bincount(units)[order]
    count = int(np.searchsorted(sizes.cumsum(), len(units) / 2)) + 1
    count = min(max(count, 2), len(order) - 2) if len(order) >= FEWEST else 1
    return np.isin(units, order[:count])


def _units(documents: np.ndarray) -> np.ndarray:
    """Return the sampling unit of each block: its document, or the block itself, if there are few documents."""
    return documents if len(np.unique(documents)) >= FEWEST else np.arange(len(documents))


def _measured(
    states: list[np.ndarray],
    labels: dict[str, np.ndarray],
    ids: np.ndarray,
    kept: np.ndarray,
    is_fitted: np.ndarray,
    documents: np.ndarray,
    of_label: OfLabel,
    on_progress: Callable[[int, int], None],
) -> Iterator[tuple[Any, ...]]:
    """Yield label, number of the state, and what `of_label` yields.

    Args:
        states: for the input of the first layer and the output of each layer, (tokens, width).
        labels: name → classes of all tokens, (blocks, block_size) int.
        ids: (blocks, block_size) int, the tokens.
        kept: (blocks, block_size) bool: the tokens that `states` has.
        is_fitted: (blocks,) bool.
        documents: (blocks,) int.
        of_label: yields a row for each state.
    """
    fit, units = (np.broadcast_to(each[:, None], ids.shape)[kept] for each in (is_fitted, _units(documents)))
    for number, (name, all_classes) in enumerate(labels.items()):
        on_progress(number, len(labels))
        classes = _frequent(all_classes[kept], fit)
        if len(np.unique(classes[fit & (classes != NONE)])) < 2 or not (~fit & (classes != NONE)).any():
            continue
        controls = _control(classes, ids[kept])
        halves = [
            Half([values[half] for values in states], classes[half], controls[half], units[half])
            for half in (fit & (classes != NONE), ~fit & (classes != NONE))
        ]
        for state, row in enumerate(of_label(*halves)):
            yield (name, state, *row)
    on_progress(len(labels), len(labels))


def _frequent(classes: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Renumber the classes that are frequent enough where probes are fitted; the others are −1."""
    counts = np.bincount(classes[fit & (classes != NONE)], minlength=int(classes.max(initial=0)) + 1)
    frequent = np.flatnonzero(counts >= RAREST)
    numbers = np.full(len(counts) + 1, NONE)  # the last one is for −1
    numbers[frequent] = np.arange(len(frequent))
    return numbers[classes]


def _control(classes: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return random labels: one for each token of the vocabulary, distributed as the labels are."""
    distribution = np.bincount(classes[classes != NONE]) / (classes != NONE).sum()
    of_each = np.random.default_rng(SEED).choice(len(distribution), size=int(ids.max()) + 1, p=distribution)
    return of_each[ids]


def _of_label(fit: Half, measured: Half) -> Iterator[tuple[Any, ...]]:
    """Yield the columns from `accuracy` on, for each state."""
    number, below = int(fit.classes.max()) + 1, None
    majority = float((measured.classes == np.bincount(fit.classes).argmax()).mean())
    _, units = np.unique(measured.units, return_inverse=True)
    counts = np.bincount(units)
    clusters = np.arange(len(counts))
    for before, after in zip(fit.states, measured.states, strict=True):
        right = _right(before, fit, after, measured)
        accuracy = clustered(np.bincount(units, right), counts, clusters)
        low, high = np.clip(accuracy.interval(), 0, 1).tolist()
        control = _control_accuracy(before, fit, after, measured)
        gain = (np.nan,) * 3
        if below is not None:
            change = clustered(np.bincount(units, right - below), counts, clusters)
            gain = change.value, *change.interval()
        bits = classifier.code_length(before, fit.classes, number)
        selectivity = accuracy.value - control
        yield (accuracy.value, low, high, majority, selectivity, *gain, bits, number, len(right), len(counts))
        below = right


def _gains_of_label(fit: Half, measured: Half) -> Iterator[tuple[Any, ...]]:
    """Yield the gain of each state; NaN for the first."""
    below: np.ndarray | float = np.nan
    for before, after in zip(fit.states, measured.states, strict=True):
        right = _right(before, fit, after, measured)
        yield (float((right - below).mean()),)
        below = right


def _right(before: np.ndarray, fit: Half, after: np.ndarray, measured: Half) -> np.ndarray:
    """Return 1 for each measured token whose label a probe predicts, else 0, as float."""
    return (classifier.fitted(before, fit.classes).predict(after) == measured.classes).astype(float)


def _control_accuracy(before: np.ndarray, fit: Half, after: np.ndarray, measured: Half) -> float:
    """Return the accuracy of a probe on the control task."""
    if len(np.unique(fit.controls)) < 2:
        return float((measured.controls == fit.controls[0]).mean())
    return float((classifier.fitted(before, fit.controls).predict(after) == measured.controls).mean())
