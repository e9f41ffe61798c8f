"""Infidelity and sensitivity of attributions (Yeh et al. 2019, arXiv:1901.09392).

Infidelity: the update of a layer is set back to that of the baseline at random tokens S, each with probability ½. The
attribution Φ predicts that F changes by Σ Φ over S. Infidelity is the mean squared error of the prediction.

Sensitivity: largest ‖Φ(y) − Φ(x)‖ ÷ ‖Φ(x)‖ over some embeddings y near x; y − x is uniform between ± `RADIUS` times the
root mean square of x − x'.

F, Φ, x and x' are those of `pli_analysis.metrics.attribution.path_integral`. Φ is the conductance of a part's update at
each token of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis.metrics.ablation.interventions import output_replaced
from pli_analysis.metrics.attribution.path_integral import conductance, log_probabilities

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from transformers import PreTrainedModel

    from pli_analysis.metrics.attribution.path_integral import Block, Conductance

SETS = 16
"""Random sets of tokens for infidelity."""
NEARBY = 4
"""Embeddings near those of a block for sensitivity."""
RADIUS = 0.02
NEGLIGIBLE = 1e-5
"""Attributions smaller than this share of those of the embeddings are rounding errors, without a relative change."""


def prediction_errors(
    model: PreTrainedModel, stack: nn.ModuleList, block: Block, found: Conductance, chance: Generator
) -> tuple[Tensor, Tensor]:
    """Set updates back to those of the baseline at random sets of tokens.

    Args:
        found: conductance on the block.

    Returns:
        Errors of the changes of F that the attributions predict, and the changes: (parts, sets) float64.
    """
    import torch

    sets = torch.rand(SETS, len(block.tokens), generator=chance) < 0.5
    change = found.end.updates - found.start.updates
    reset = sets[..., None].to(change.device)
    measured = []
    with torch.no_grad():
        for part, module in enumerate([model.get_input_embeddings(), *stack]):
            with output_replaced(module, found.end.outputs[part] - reset * change[part]):
                measured.append(found.end.values - log_probabilities(model, block, SETS))
    changes = torch.stack(measured)
    return found.updates @ sets.double().T - changes, changes


def max_sensitivity(
    model: PreTrainedModel, stack: nn.ModuleList, block: Block, found: Conductance, chance: Generator
) -> Tensor:
    """Return the sensitivity of each part, (parts,) float64; NaN for parts whose attributions are negligible.

    Args:
        found: conductance on the block; as many steps are used near it.
    """
    import torch

    radius = RADIUS * (block.embedded - block.baseline).square().mean().sqrt()
    norms = found.updates.norm(dim=1)
    largest = torch.zeros_like(norms)
    for _ in range(NEARBY):
        noise = (torch.rand(block.embedded.shape, generator=chance) * 2 - 1).to(radius.device)
        near = block._replace(embedded=block.embedded + radius * noise)
        moved = conductance(model, stack, near, found.steps).updates - found.updates
        largest = torch.maximum(largest, moved.norm(dim=1))
    return (largest / norms).where(norms > NEGLIGIBLE * norms[0], torch.nan)
