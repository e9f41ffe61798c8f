"""Modules on the way from a layer to the logits as linear maps: norms and nonlinear functions are frozen.

A norm is linear for a given scale, so its scale is frozen at that of the token (Elhage et al. 2021, A Mathematical
Framework for Transformer Circuits). A nonlinear function y = f(x) of single units is frozen at its factor
(y − f(0)) ÷ x (for GELU and similar functions this freezes the gate: Ali et al. 2022, arXiv:2202.07304). With frozen
factors, the output is exactly the sum of what each part of the input contributes, plus the biases on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis.inference.devices import double

if TYPE_CHECKING:
    from torch import Tensor

    from pli_analysis.metrics.attribution.passes import Pass


def pulled_back(direction: Tensor, used: Pass) -> tuple[Tensor, Tensor]:
    """Return a direction at the input of a module such that its product with the input is that at the output − bias.

    Args:
        direction: (tokens, output width) float64.
        used: the pass of the module.

    Returns:
        The direction, (tokens, input width), and the product of the given direction with the module's bias, (tokens,).
    """
    weight = getattr(used.module, "weight", None)
    if weight is not None and weight.dim() == 2:
        return _through_matrix(direction, used)
    if _is_norm(used):
        return _through_norm(direction, used)
    bias = _at_zero(used)
    return direction * _factor(double(used.output) - bias, double(used.input)), direction @ bias


def through_gap(direction: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Pull a direction back through what a model computes between two modules, unit by unit.

    Args:
        direction: (tokens, width) float64.
        before, after: (tokens, width): the output of one module, and the input of the next.
    """
    return direction if before is after else direction * _factor(double(after), double(before))


def _factor(output: Tensor, input: Tensor) -> Tensor:
    """Return output ÷ input; 0 where the input is 0."""
    return (output / input.masked_fill(input == 0, 1)).masked_fill(input == 0, 0)


def _through_matrix(direction: Tensor, used: Pass) -> tuple[Tensor, Tensor]:
    """Pull back through an affine map, whichever way its class stores the matrix."""
    import torch

    bias, pull = torch.func.vjp(used.module, torch.zeros_like(used.input))[:2]
    return double(pull(direction.to(bias))[0]), (direction * double(bias)).sum(dim=-1)


def _at_zero(used: Pass) -> Tensor:
    """Return the output for an input of zeros: a bias, (width,) float64."""
    import torch

    values: Tensor = used.module(torch.zeros_like(used.input[:1]))
    return double(values[0])


def _alternating(used: Pass) -> Tensor:
    """Return an input of 1 and −1, (1, width)."""
    import torch

    signs = torch.ones_like(used.input[:1])
    signs[:, 1::2] = -1
    return signs


def _is_norm(used: Pass) -> bool:
    """Return whether a module's output does not change with the scale of its input."""
    probe = _alternating(used)
    return used.input.shape == used.output.shape and bool(
        used.module(4 * probe).isclose(used.module(probe), rtol=1e-3, atol=1e-6).all()
    )


def _through_norm(direction: Tensor, used: Pass) -> tuple[Tensor, Tensor]:
    """Pull back through a norm: subtract the mean, if it does; multiply by its weight; divide by the token's scale."""
    bias, signs = _at_zero(used), _alternating(used)
    is_centered = bool(used.module(signs + 1).isclose(used.module(signs), rtol=1e-3, atol=1e-6).all())

    def centered(values: Tensor) -> Tensor:
        values = double(values)
        return values - values.mean(dim=-1, keepdim=True) if is_centered else values

    weight = _factor(double(used.module(signs)) - bias, centered(signs))
    expected = centered(used.input) * weight  # the output, but for the token's scale and the bias
    scale = _factor(((double(used.output) - bias) * expected).sum(-1), expected.square().sum(-1))
    return centered(direction * weight * scale[:, None]), direction @ bias
