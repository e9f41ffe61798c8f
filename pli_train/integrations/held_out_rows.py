"""Sample held-out tokens from an evaluation data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pli_train.core.masking import IGNORED
from pli_train.core.randomness import derive
from pli_train.core.sampling import Design
from pli_train.data.objective import Batch, Objective, row_losses

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

MLM_PROBABILITY = 0.15
"""Fraction of positions to mask in rows that are not masked yet, as in Hugging Face's collator."""
AT_ONCE = 8
"""Rows per batch."""


class Row(NamedTuple):
    """A row of a data set: its index, token ids (tokens,), and what to predict at each position (tokens,)."""

    position: int
    inputs: np.ndarray
    labels: np.ndarray


def drawn(
    dataset: Any, most: int, task: str, vocabulary: int, tokenizer: PreTrainedTokenizerBase | None, seed: int
) -> dict[str, np.ndarray] | None:
    """Sample rows as the arrays of `probe.safetensors` (see `run_folder`); each row counts as a document.

    Rows have `input_ids` and optionally `labels` and `attention_mask`, as for Hugging Face's models. With causal-lm,
    shorter rows are padded at the end with ignored labels. With masked-lm, only rows of the most common length without
    padding are used; if they are not masked, the mask token comes from `tokenizer`.

    Args:
        dataset: has `__getitem__` and `__len__`; streams are not sampled.
        most: maximum number of rows.
        task: `causal-lm` or `masked-lm`.
        vocabulary: size of the model's vocabulary.
        tokenizer: needed only for masked-lm rows that are not masked.
        seed: of the sample and the masks.

    Returns:
        The arrays; None if the data set has no rows of token ids, or no labels to predict.
    """
    if task not in ("causal-lm", "masked-lm") or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return None
    locations = np.random.default_rng(derive(seed, "held out")).permutation(len(dataset))[:most].tolist()
    rows = [row for position in locations if (row := _row(position, dataset[position], task, vocabulary)) is not None]
    rows = _filled(rows) if task == "causal-lm" else _masked(rows, tokenizer, seed)
    if not any((row.labels != IGNORED).any() for row in rows):
        return None
    columns = {
        "inputs": np.stack([row.inputs for row in rows]),
        "labels": np.stack([row.labels for row in rows]),
        "block": np.array([row.position for row in rows]),
        "document": np.array([row.position for row in rows]),
        "stratum": np.zeros(len(rows)),
        "strata": np.array([len(dataset)]),
    }
    return {name: values.astype(np.int32) for name, values in columns.items()}


@torch.inference_mode()
def loss(model: nn.Module, task: str, held_out: Mapping[str, np.ndarray]) -> float:
    """Return the mean loss of a model on sampled rows, in nats per prediction, without dropout.

    Args:
        model: a Hugging Face model; its training mode does not change.
        task: as for `drawn`.
        held_out: from `drawn`.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    batches = []
    for start in range(0, len(held_out["inputs"]), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        inputs, labels = (torch.from_numpy(held_out[name][rows]).long() for name in ("inputs", "labels"))
        batch = Batch.of(task, inputs, labels).rows(0, len(inputs), device)
        batches.append(torch.stack(row_losses(model, batch)).cpu().double().numpy())
    model.train(training)
    sums, counts = np.concatenate(batches, axis=1)
    return Design(held_out["stratum"], held_out["strata"]).mean(sums, counts).value


def _row(position: int, row: Any, task: str, vocabulary: int) -> Row | None:
    """Return a row with shifted labels, or None if it is not a valid row of tokens."""
    if not isinstance(row, Mapping) or "input_ids" not in row:
        return None
    inputs = np.asarray(row["input_ids"])
    labels, mask = (np.asarray(inputs if row.get(name) is None else row[name]) for name in ("labels", "attention_mask"))
    if inputs.ndim != 1 or not inputs.size or not labels.shape == mask.shape == inputs.shape:
        return None
    if not all(np.issubdtype(array.dtype, np.integer) for array in (inputs, labels)):
        return None
    real = np.ones(len(inputs), bool) if row.get("attention_mask") is None else mask != 0
    end = len(inputs) if task == "masked-lm" else int(np.flatnonzero(real)[-1:].sum()) + 1
    if not real[:end].all() or not 0 <= inputs.min() <= inputs.max() < vocabulary or labels.max() >= vocabulary:
        return None
    if task == "masked-lm":
        return Row(position, inputs, labels)
    # Causal models shift labels themselves; here they are shifted in advance.
    return Row(position, inputs[:end], np.append(labels[1:end], IGNORED))


def _filled(rows: list[Row]) -> list[Row]:
    """Pad rows to one length. In causal models, padding at the end does not affect earlier positions."""
    length = max((len(row.inputs) for row in rows), default=0)
    more = [(0, length - len(row.inputs)) for row in rows]
    return [
        Row(row.position, np.pad(row.inputs, pad, "edge"), np.pad(row.labels, pad, constant_values=IGNORED))
        for row, pad in zip(rows, more, strict=True)
    ]


def _masked(rows: list[Row], tokenizer: PreTrainedTokenizerBase | None, seed: int) -> list[Row]:
    """Return rows of the most common length, masked if they are not yet; none without a mask token."""
    (length, _), *_ = Counter(len(row.inputs) for row in rows).most_common(1) or [(0, 0)]
    rows = [row for row in rows if len(row.inputs) == length]
    if any((row.labels != row.inputs).any() for row in rows):
        return rows
    if tokenizer is None or tokenizer.mask_token_id is None:
        return []
    objective = Objective("masked-lm", tokenizer, MLM_PROBABILITY)
    masked = [
        objective.batch(row.inputs[None].astype(np.int64), derive(seed, "eval mask", row.position)) for row in rows
    ]
    return [
        Row(row.position, batch.inputs[0].numpy(), batch.labels[0].numpy())
        for row, batch in zip(rows, masked, strict=True)
    ]
