"""Integrated gradients of a block along a path of embeddings, and what each layer adds on this path.

The path x(α) = x' + α (x − x') leads from baseline embeddings x' to those of the block, x. F is the log-probability of
the right tokens, summed over the block. With integrals over α from 0 to 1:

    integrated gradients of the embeddings      ∫ ∂F/∂x · dx        (Sundararajan et al. 2017, arXiv:1703.01365)
    conductance of a layer's output h           ∫ ∂F/∂h · dh        (Dhamdhere et al. 2018, arXiv:1805.12233)
    conductance of a layer's update             ∫ ∂F/∂h · d(h − g)  for the input g of the layer

Everything passes through the output of each layer, so its conductance is F(x) − F(x') for every layer: completeness.
The update is what the layer adds to its input; h = g + update, so the rest of F(x) − F(x') passes the layer unchanged.
The update of a layer that returns its input is 0, and so is its conductance.

Integrals are sums over the trapezoids between points of the path. They need the states at the points and the gradients
of F there, and no derivative of the states with respect to α.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pli_analysis.inference.block_losses import losses_of
from pli_analysis.inference.checkpoint_model import AT_ONCE, hidden_of
from pli_analysis.inference.devices import double
from pli_analysis.metrics.ablation.interventions import output_replaced, removed
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


class Block(NamedTuple):
    """A block of tokens, and the path to its embeddings.

    Attributes:
        tokens, labels: (block_size,) int64; label −100 where nothing is predicted.
        baseline, embedded: (block_size, width): both ends of the path.
    """

    tokens: Tensor
    labels: Tensor
    baseline: Tensor
    embedded: Tensor


class Points(NamedTuple):
    """A model at some points of a path. Parts are the embeddings and the layers, from the bottom to the top.

    Attributes:
        values: (points,) float64: F.
        outputs, updates: (parts, points, block_size, width): output of each part, and output − input. The input of the
            embeddings is 0.
        gradients: those of F with respect to the outputs.
    """

    values: Tensor
    outputs: Tensor
    updates: Tensor
    gradients: Tensor


class Conductance(NamedTuple):
    """Conductance of the parts of a model on one block.

    Attributes:
        outputs, updates: (parts, block_size) float64: conductance of each part's output and of its update, summed over
            units. The first part is the embeddings; both are their integrated gradients.
        difference: F(x) − F(x').
        steps: number of steps along the path.
        start, end: the model at both ends of the path, as `Points` with one point.
    """

    outputs: Tensor
    updates: Tensor
    difference: float
    steps: int
    start: Points
    end: Points

    @property
    def errors(self) -> Tensor:
        """Completeness errors, (parts,) float64: conductance of the output − F(x) + F(x')."""
        return self.outputs.sum(dim=1) - self.difference


def conductance(model: PreTrainedModel, stack: nn.ModuleList, block: Block, steps: int) -> Conductance:
    """Integrate over a path with this number of steps of equal length.

    Raises:
        BadInput: if a layer runs more than once in a forward pass.
    """
    import torch

    last: Points | None = None
    outputs, updates = (torch.zeros(len(stack) + 1, len(block.tokens), dtype=torch.float64) for _ in range(2))
    start = None
    for alphas in torch.linspace(0, 1, steps + 1).to(block.embedded.device).split(AT_ONCE):
        found = at_points(model, stack, block, block.baseline.lerp(block.embedded, alphas[:, None, None]))
        start = start or _point(found, 0)
        joined = found if last is None else Points(*(_joined(*pair) for pair in zip(last, found, strict=True)))
        outputs += _trapezoids(joined.gradients, joined.outputs)
        updates += _trapezoids(joined.gradients, joined.updates)
        last = _point(found, -1)
    assert start is not None and last is not None
    return Conductance(outputs, updates, float(last.values - start.values), steps, start, last)


def complete_conductance(
    model: PreTrainedModel, stack: nn.ModuleList, block: Block, allowed: float, fewest: int, most: int
) -> Conductance:
    """Double the number of steps until completeness holds for all parts.

    Args:
        allowed: largest completeness error, in nats.
        fewest, most: number of steps to begin and to end with; the error may be larger after `most` steps.
    """
    found = conductance(model, stack, block, fewest)
    while found.steps < most and float(found.errors.abs().max()) > allowed:
        found = conductance(model, stack, block, min(2 * found.steps, most))
    return found


def difference(model: PreTrainedModel, block: Block) -> float:
    """Return F(x) − F(x') of a block."""
    import torch

    ends = torch.stack([block.baseline, block.embedded])
    with torch.no_grad(), output_replaced(model.get_input_embeddings(), ends):
        start, end = log_probabilities(model, block, 2).tolist()
    return end - start


def at_points(model: PreTrainedModel, stack: nn.ModuleList, block: Block, embedded: Tensor) -> Points:
    """Run a model on embeddings, and differentiate F with respect to the output of each part.

    Args:
        embedded: (points, block_size, width).
    """
    import torch

    embedded = embedded.detach().requires_grad_()
    with recorded(stack) as states, output_replaced(model.get_input_embeddings(), embedded):
        values = log_probabilities(model, block, len(embedded))
    if len(states) != len(stack):
        raise BadInput(
            f"{type(model).__name__}: its layers do not run once each in a forward pass, so their conductance is not "
            "defined"
        )
    outputs = [embedded, *(output for _, output in states)]
    gradients = torch.autograd.grad(values.sum(), outputs)
    updates = [embedded, *(output - input for input, output in states)]
    return Points(values.detach(), *(torch.stack(list(kept)).detach() for kept in (outputs, updates, gradients)))


def log_probabilities(model: PreTrainedModel, block: Block, copies: int) -> Tensor:
    """Return F for copies of a block, whose states differ if hooks change them: (copies,) float64."""
    return -losses_of(model, block.tokens.expand(copies, -1), block.labels.expand(copies, -1)).cpu().double()


@contextmanager
def recorded(stack: nn.ModuleList) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record input and output of each layer, in the order in which layers run."""
    states: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        states.append((inputs[0] if inputs else named["hidden_states"], hidden_of(output)))

    with ExitStack() as hooks:
        for layer in stack:
            hooks.enter_context(removed(layer.register_forward_hook(keep, with_kwargs=True)))
        yield states


def _point(points: Points, index: int) -> Points:
    """Return one of the points, with its dimension."""
    chosen = slice(index, None) if index < 0 else slice(index, index + 1)
    return Points(points.values[chosen], *(kept[:, chosen] for kept in points[1:]))


def _joined(before: Tensor, after: Tensor) -> Tensor:
    """Concatenate along the points."""
    import torch

    return torch.cat([before, after], dim=0 if before.dim() == 1 else 1)


def _trapezoids(gradients: Tensor, states: Tensor) -> Tensor:
    """Return Σ over neighboring points of mean gradient × change of the states, summed over units.

    Args:
        gradients, states: (parts, points, block_size, width).

    Returns:
        (parts, block_size) float64.
    """
    means = double(gradients[:, 1:] + gradients[:, :-1]) / 2
    return (means * double(states).diff(dim=1)).sum(dim=(1, 3)).cpu()
