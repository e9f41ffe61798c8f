"""Lenses: what the model would predict from the output of each layer.

Columns of the table, one row per lens and layer:
    run, checkpoint, step
    lens        `logit`: the model's own head reads the output of the layer instead of that of the last layer
                (nostalgebraist 2020)
                `tuned`: it reads an affine map of the output, fitted to the output of the last layer (Belrose et al.
                2023, arXiv:2303.08112; here fitted by ridge regression)
    layer, index, age   layer id, its index in the stack at this step, and steps since its birth
    loss, loss_low, loss_high   mean loss of these predictions in nats per token, with a 95 % confidence interval:
                Student's t over the sampled blocks
    kl          mean KL(p‖q) in nats, from the model's predictions p to those of the lens q; 0 for the last layer
    agreement   share of tokens for which the most likely prediction is that of the model
    decided     share of tokens whose prediction depth is this layer: the lowest layer such that, there and at all
                layers above, the most likely prediction is that of the model
    predicted_tokens, blocks, documents     number of predicted tokens, blocks and documents

The logit lens applies to residual streams: the output of a layer and that of the last one share a basis. Where they do
not, its loss is high although the output contains the information; the tuned lens shows it. The tuned lens is fitted on
half of the blocks, and both lenses are measured on the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.inference.block_losses import finite_losses
from pli_analysis.inference.devices import double
from pli_analysis.metrics.ablation.interventions import output_replaced
from pli_analysis.metrics.lineage import position_of
from pli_analysis.metrics.row_cache import rows_of
from pli_train.core.masking import IGNORED

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor
    from transformers import PreTrainedModel

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_train.core.run_format.run_folder import CheckpointName

LOGIT, TUNED = "logit", "tuned"
COLUMNS = [col.RUN, col.CHECKPOINT, col.STEP, col.LENS, col.LAYER, col.INDEX, col.AGE]
COLUMNS += [col.LOSS, col.LOSS_LOW, col.LOSS_HIGH, col.KL, col.AGREEMENT, col.DECIDED]
COLUMNS += [col.PREDICTED_TOKENS, col.BLOCKS, col.DOCUMENTS]
RIDGE = 1e-3
"""Penalty of the ridge regression, relative to the mean variance of the inputs times the number of tokens."""
KEPT = "lens-1/"
"""Cache folder of results. Increase the number when their values change."""


def lens(
    run: Run,
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    at: int | CheckpointName | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measure what the model would predict from the output of each layer.

    Args:
        text: as for `pli_analysis.inference.eval_tokens.sample_of`.
        blocks: maximum number of blocks of text; half of them fit the tuned lens, the others are measured.
        at: step of the checkpoint, or its name; None for the last one.
        on_progress: called with (batches of blocks done, in total).

    Raises:
        BadInput: if there is no checkpoint of the step, there are fewer than two blocks of text, the loss is not
            finite, or the checkpoint has no language-model head.
    """
    import pandas as pd

    checkpoint = run.at(at)
    halves = eval_tokens.halves_of(run, text, blocks, "lenses need")
    content = b"".join(half.content for half in halves)
    rows = rows_of(KEPT, checkpoint, content, lambda: _measured(checkpoint, *halves, on_progress))
    who, lineage = (run.name, str(checkpoint.name), checkpoint.step), checkpoint.lineage
    found = [(*who, name, *position_of(lineage, layer, checkpoint.step)[:3], *row) for name, layer, *row in rows]
    return pd.DataFrame(found, columns=COLUMNS)


def _measured(
    checkpoint: Checkpoint, fitted_on: Sample, measured_on: Sample, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Any, ...]]:
    """Yield lens, layer and the columns from `loss` on."""
    import torch

    model, lineage = checkpoint_model.model_of(checkpoint), checkpoint.lineage
    fitted_on, measured_on = (sample.to(model.device) for sample in (fitted_on, measured_on))
    _, targets = finite_losses(checkpoint, model, measured_on)
    finite_losses(checkpoint, model, fitted_on)
    stack = checkpoint_model.stack_of(model, checkpoint.anatomy)
    with torch.inference_mode():
        maps = _fitted(model, stack, fitted_on)
        read = {name: [_Reading() for _ in stack] for name in (LOGIT, TUNED)}
        batches = list(zip(*(t.split(checkpoint_model.AT_ONCE) for t in measured_on[:2]), strict=True))
        for number, (inputs, labels) in enumerate(batches):
            on_progress(number, len(batches))
            hidden, logits = _outputs(model, stack, inputs)
            truth = _Truth(logits, labels)
            for name, readings in read.items():
                for index, reading in enumerate(readings):
                    seen = hidden[index] if name == LOGIT else maps[index](hidden[index])
                    with output_replaced(stack[-1], seen):
                        reading.add(model(input_ids=inputs).logits, truth)
        on_progress(len(batches), len(batches))
    counts = int(targets.sum()), len(measured_on.tokens), len(np.unique(measured_on.documents))
    for name, readings in read.items():
        decided = decisions(np.array([np.concatenate(reading.agrees) for reading in readings]))
        for index, (id, reading) in enumerate(zip(lineage.stack, readings, strict=True)):
            loss = measured_on.design.mean(np.array(reading.losses), targets)
            agreement = float(np.concatenate(reading.agrees).mean())
            kl = reading.kl / max(counts[0], 1)
            yield (name, id, loss.value, *loss.interval(), kl, agreement, float(decided[index]), *counts)


def decisions(agrees: np.ndarray) -> np.ndarray:
    """Return the share of tokens whose prediction depth is each layer.

    Args:
        agrees: (layers, tokens) bool: whether the most likely prediction is that of the model; true for the last layer.

    >>> decisions(np.array([[True, False, True], [False, False, True], [True, True, True]])).tolist()
    [0.3333333333333333, 0.0, 0.6666666666666666]
    """
    stays = np.logical_and.accumulate(agrees[::-1], axis=0)[::-1]
    return np.bincount(stays.argmax(axis=0), minlength=len(agrees)) / max(agrees.shape[1], 1)


class _Truth:
    """Labels and the model's own predictions at predicted positions."""

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        self.counts = (labels != IGNORED).sum(dim=1).tolist()
        self.where = (labels.flatten() != IGNORED).nonzero().flatten()
        self.log_p = self.of(logits)
        self.labels = labels.flatten()[self.where].to(self.log_p.device)

    def of(self, logits: Tensor) -> Tensor:
        """Return log-probabilities at predicted positions, in float64."""
        return double(logits.flatten(0, 1)[self.where]).log_softmax(-1)


class _Reading:
    """Predictions read from one layer: the loss of each block, the sum of KL, and which tokens agree."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.agrees: list[np.ndarray] = []
        self.kl = 0.0

    def add(self, logits: Tensor, truth: _Truth) -> None:
        """Add the predictions for some blocks."""
        log_q = truth.of(logits)
        each = -log_q.gather(1, truth.labels[:, None]).flatten()
        self.losses += [float(segment.sum()) for segment in each.split(truth.counts)]
        self.agrees.append((log_q.argmax(-1) == truth.log_p.argmax(-1)).cpu().numpy())
        self.kl += float((truth.log_p.exp() * (truth.log_p - log_q)).sum())


def _outputs(model: PreTrainedModel, stack: Any, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the output of each layer, (blocks, tokens, width), and the logits."""
    hidden: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output: hidden.append(checkpoint_model.hidden_of(output)))
        for layer in stack
    ]
    logits = model(input_ids=inputs).logits
    for hook in hooks:
        hook.remove()
    return hidden, logits


def _fitted(model: PreTrainedModel, stack: Any, sample: Sample) -> list[Callable[[Tensor], Tensor]]:
    """Fit an affine map from the output of each layer to that of the last one, by ridge regression."""
    import torch

    batches = [_outputs(model, stack, inputs)[0] for inputs in sample.tokens.split(checkpoint_model.AT_ONCE)]
    *below, last = (torch.cat([hidden[index].flatten(0, 1) for hidden in batches]) for index in range(len(stack)))
    return [*(_ridge(double(outputs), double(last)) for outputs in below), lambda hidden: hidden]


def _ridge(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the affine map x ↦ (x − E x) W + E y with the smallest squared error plus the penalty on W.

    Args:
        x, y: (tokens, width), float64.
    """
    import torch

    centers = x.mean(dim=0), y.mean(dim=0)
    x, y = x - centers[0], y - centers[1]
    gram = x.T @ x
    penalty = RIDGE * float(gram.diagonal().mean()) or 1.0  # outputs that are all the same predict nothing
    weights = torch.linalg.solve(gram + penalty * torch.eye(len(gram)).to(gram), x.T @ y)
    return lambda hidden: ((double(hidden) - centers[0]) @ weights + centers[1]).to(hidden)
