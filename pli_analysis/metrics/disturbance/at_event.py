"""Compare two states of a model on the same tokens: outputs, losses, gradients.

Both states read the same blocks in eval mode and float32, side by side. Sums are in float64.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis.inference import checkpoint_model
from pli_analysis.inference.devices import double
from pli_analysis.inference.eval_tokens import IGNORED, Sample, spread
from pli_analysis.metrics.similarity import cka as measures
from pli_analysis.runs.ancestry import alive as alive_of
from pli_analysis.weights.content_hash import key_of
from pli_train.core import cache
from pli_train.core.anatomy.axes import growing, rows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_train.core.lineage import Lineage

POSITIONS = 16
"""Maximum number of positions of each sequence on which CKA is computed."""
ROWS = 1024
"""Predicted positions compared at a time: float64 logits of a large vocabulary take much memory."""
KEPT = "instant-5/"
"""Cache folder of comparisons. Increase the number when their values change."""


@dataclass(frozen=True)
class LayerChange:
    """Changes of a layer that both states have.

    Attributes:
        output_change: ‖h⁺ − h⁻‖ ÷ ‖h⁻‖ of its outputs h, over all tokens. Below an insertion it is 0, except for the
            layer right below an identity layer in a post-LN model, whose last norm moves to the new layer.
        cka_distance: 1 − debiased linear CKA of its outputs; NaN with fewer than four sequences.
        log_grad_norm_ratio: log(‖g⁺‖ ÷ ‖g⁻‖) of the gradient g with respect to the weights that both states have.
        grad_cosine_distance: 1 − cos(g⁺, g⁻).
    """

    output_change: float
    cka_distance: float
    log_grad_norm_ratio: float
    grad_cosine_distance: float


@dataclass(frozen=True)
class StateComparison:
    """Two states of a model compared on the same tokens.

    Attributes:
        loss_change: change of the mean loss of the text that the blocks were drawn from, in nats.
        loss_change_low, loss_change_high: its 95 % confidence interval: Student's t over the changes of the sampled
            blocks. Both equal `loss_change` if all of that text was read; NaN if one block represents several.
        blocks, documents: numbers of blocks and documents on which the loss is measured.
        kl: mean KL(p⁻‖p⁺) over predicted positions, in nats.
        flips: share of predicted positions whose most likely token changed.
        layers: by id, bottom to top in the order of the second state.
    """

    loss_change: float
    loss_change_low: float
    loss_change_high: float
    blocks: int
    documents: int
    kl: float
    flips: float
    layers: dict[str, LayerChange]


def compare(before: Checkpoint, after: Checkpoint, sample: Sample, blocks: int) -> StateComparison:
    """Compare two checkpoints, or return the cached comparison.

    Args:
        before, after: checkpoints of one model family; layers are matched by id.
        sample: blocks on which the loss is compared, of `pli_analysis.inference.eval_tokens.sample_of`.
        blocks: number of these blocks, from the first, on which layers are compared: gradients cost more than losses.

    Raises:
        BadInput: if the config and weights of a checkpoint do not form a model.
    """
    key = key_of(before, after, more=sample.content + str(blocks).encode())
    if key is not None and (kept := cache.get(KEPT + key)) is not None:
        document = json.loads(kept)
        layers = {id: LayerChange(*numbers) for id, numbers in document["layers"].items()}
        return StateComparison(**document["whole"], layers=layers)
    comparison = _compared(before, after, sample, blocks)
    if key is not None:
        whole = {name: value for name, value in vars(comparison).items() if name != "layers"}
        of_layers = {id: list(vars(change).values()) for id, change in comparison.layers.items()}
        cache.put(KEPT + key, json.dumps({"whole": whole, "layers": of_layers}).encode())
    return comparison


def _compared(before: Checkpoint, after: Checkpoint, sample: Sample, blocks: int) -> StateComparison:
    sides, losses = (_Side(before), _Side(after)), _Losses()
    sample = sample.to(sides[0].model.device)
    layers = _layers(*sides, losses, sample.first(blocks))
    for inputs, wanted in _batches(sample.tokens[blocks:], sample.labels[blocks:]):
        was, now = (side.read(inputs, wanted) for side in sides)
        losses.add(was, now, wanted)
    targets = (sample.labels != IGNORED).sum(dim=1).cpu().numpy()
    change = sample.design.mean(np.array(losses.changes), targets)
    kl, flips = (total / max(int(targets.sum()), 1) for total in (losses.kl, losses.flips))
    return StateComparison(
        change.value, *change.interval(), len(sample.tokens), len(np.unique(sample.documents)), kl, flips, layers
    )


def _layers(old: _Side, new: _Side, losses: _Losses, sample: Sample) -> dict[str, LayerChange]:
    """Return the change of each layer that both have, and add the changes of these blocks' losses to `losses`."""
    shared = new.checkpoint.lineage.shared(old.checkpoint.lineage)
    targets = max(int((sample.labels != IGNORED).sum()), 1)
    moved, size = (dict.fromkeys(shared, 0.0) for _ in range(2))
    kept = spread(sample.tokens, POSITIONS * len(sample.tokens))
    samples: list[dict[str, list[Tensor]]] = [{id: [] for id in shared} for _ in range(2)]
    for inputs, wanted, chosen in _batches(sample.tokens, sample.labels, kept):
        was, now = (side.learn(inputs, wanted, targets) for side in (old, new))
        losses.add(was, now, wanted)
        for id in shared:
            one, other = double(was.hidden[id]), double(now.hidden[id])
            moved[id] += float((other - one).square().sum())
            size[id] += float(one.square().sum())
            for kept_of, values in zip(samples, (was.hidden[id], now.hidden[id]), strict=True):
                kept_of[id].append(values[chosen])
    gradients = _gradients(old, new)
    return {
        id: LayerChange(
            (moved[id] / size[id]) ** 0.5 if size[id] > 0 else float("nan"),
            _cka_distance(samples[0][id], samples[1][id], len(sample.tokens)),
            *gradients[id],
        )
        for id in shared
    }


def _batches(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield a few blocks of each tensor at a time."""
    return (
        zip(*(tensor.split(checkpoint_model.AT_ONCE) for tensor in tensors), strict=True)
        if len(tensors[0])
        else iter(())
    )


@dataclass(frozen=True)
class _Read:
    """Results of one state on some blocks: losses and logits at predicted positions, and layer outputs by id."""

    losses: Tensor
    logits: Tensor
    hidden: dict[str, Tensor]


@dataclass
class _Losses:
    """Differences of two states' predictions: the change of each block's loss, the sum of KL, the number of flips."""

    changes: list[float] = field(default_factory=list)
    kl: float = 0.0
    flips: int = 0

    def add(self, was: _Read, now: _Read, labels: Tensor) -> None:
        """Add the results of both states on some blocks."""
        self.changes += _changes(was.losses, now.losses, labels)
        for p, q in _positions(was.logits, now.logits):
            self.kl += float((p.exp() * (p - q)).sum())
            self.flips += int((p.argmax(-1) != q.argmax(-1)).sum())


class _Side:
    """One of the two states: its model, with hooks that keep layer outputs, and gradients accumulated over blocks."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.model = checkpoint, checkpoint_model.model_of(checkpoint)
        self._outputs: dict[str, Tensor] = {}
        stack = checkpoint_model.stack_of(self.model, checkpoint.anatomy)
        for id, layer in zip(checkpoint.lineage.stack, stack, strict=True):
            layer.register_forward_hook(self._hook(id))

    def _hook(self, id: str) -> Any:
        def keep(_: nn.Module, inputs: Any, output: Any) -> None:
            self._outputs[id] = checkpoint_model.hidden_of(output).detach()

        return keep

    def read(self, inputs: Tensor, labels: Tensor) -> _Read:
        """Run the forward pass."""
        import torch

        with torch.inference_mode():
            return self._forward(inputs, labels)[1]

    def learn(self, inputs: Tensor, labels: Tensor, targets: int) -> _Read:
        """Run the forward and backward pass; the gradient is that of the mean loss over `targets` positions."""
        loss, results = self._forward(inputs, labels)
        (loss / targets).backward()
        return results

    def _forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, _Read]:
        """Return the sum of the losses, with its gradient, and the detached results."""
        from torch.nn.functional import cross_entropy

        locations = (labels.flatten() != IGNORED).nonzero().flatten()
        logits = self.model(input_ids=inputs).logits.flatten(0, 1)[locations].float()
        losses = cross_entropy(logits, labels.flatten()[locations], reduction="none")
        return losses.sum(), _Read(double(losses.detach()), logits.detach(), dict(self._outputs))

    def gradients(self, alive: Lineage) -> Iterator[tuple[str, str, Tensor]]:
        """Yield layer id, tensor name within the layer, and its gradient for the rows that exist in a lineage."""
        anatomy, sizes = self.checkpoint.anatomy, self.checkpoint.anatomy.sizes(self.checkpoint.config)
        for name, parameter in self.model.named_parameters():
            position = anatomy.locate(name)
            if parameter.grad is None or position is None:
                continue
            id, axes = self.checkpoint.lineage.stack[position[1]], anatomy.tensors.get(position[2], ("", ""))[1]
            if id in alive.stack:
                factor = growing(axes)
                count = alive_of(sizes, *alive.shape(id)).get(factor or "")
                seen = parameter.grad if count is None else rows(parameter.grad, axes, factor or "", sizes)[:count]
                yield id, position[2], seen


def _changes(was: Tensor, now: Tensor, labels: Tensor) -> list[float]:
    """Return the change of each block's loss, summed over its predicted positions."""
    counts = (labels != IGNORED).sum(dim=1).tolist()
    return [float(change.sum()) for change in (now - was).split(counts)]


def _positions(was: Tensor, now: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the log-probabilities of both states, some positions at a time."""
    for old, new in zip(was.split(ROWS), now.split(ROWS), strict=True):
        yield double(old).log_softmax(-1), double(new).log_softmax(-1)


def _cka_distance(was: list[Tensor], now: list[Tensor], sequences: int) -> float:
    """Return 1 − CKA, in batches of one token of each sequence."""
    import torch

    if sequences < measures.FEWEST:
        return float("nan")
    batches = [torch.cat(segments).cpu().numpy() for segments in (was, now)]
    return 1 - measures.cka(
        *(measures.u_centered(values.reshape(sequences, -1, values.shape[-1]).swapaxes(0, 1)) for values in batches)
    )


def _gradients(old: _Side, new: _Side) -> dict[str, tuple[float, float]]:
    """Return by layer id the log ratio of gradient norms and 1 − cosine, over the weights that both states have."""
    born = old.checkpoint.lineage
    known = {(id, name): gradient for id, name, gradient in old.gradients(born)}
    sums: dict[str, np.ndarray] = {id: np.zeros(3) for id in new.checkpoint.lineage.stack}
    for id, name, gradient in new.gradients(born):
        mine = known.get((id, name))
        if mine is not None and mine.shape == gradient.shape:
            a, b = double(mine), double(gradient)
            sums[id] += np.array([float((a * a).sum()), float((b * b).sum()), float((a * b).sum())])
    changes = {}
    for id, (was, now, both) in sums.items():
        known = was > 0 and now > 0
        ratio, distance = (np.log(now / was) / 2, 1 - both / (was * now) ** 0.5) if known else (np.nan, np.nan)
        changes[id] = float(ratio), float(distance)
    return changes
