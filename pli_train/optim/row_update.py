"""Update a tensor whose rows have different learning rates or step counts.

Some rows may be frozen, some may have a lower learning rate than their group, and some may have had fewer updates than
their tensor (see `row_steps`). The optimizer updates the whole tensor; afterwards the affected rows are corrected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pli_train.optim import row_steps

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


class RowUpdate:
    """Save a parameter before the optimizer's step, and correct its rows after it.

    Args:
        optimizer: holds the parameter.
        group: group of the parameter, with the learning rate of this update.
        parameter: with its gradient, which is zero in frozen rows.
        update_scale: factor of the update, 0 for frozen: one number, or a CPU tensor with one number per row, shaped
            to broadcast.
    """

    def __init__(
        self, optimizer: Optimizer, group: dict[str, Any], parameter: nn.Parameter, update_scale: float | Tensor
    ) -> None:
        state, device = optimizer.state.get(parameter, {}), parameter.device
        frozen = update_scale == 0 if isinstance(update_scale, torch.Tensor) else torch.tensor(False)
        self._optimizer, self._group, self._parameter = optimizer, group, parameter
        self._update_scale = update_scale.to(device) if isinstance(update_scale, torch.Tensor) else update_scale
        self._frozen = frozen.to(device) if frozen.any() else None
        self._weights = None if isinstance(update_scale, float) and update_scale == 1 else parameter.detach().clone()
        self._moments = {e: value.clone() for e, value in self._shaped(state) if self._frozen is not None}
        self._step = torch.as_tensor(state.get("step", 0.0)).clone()
        separate = row_steps.ROWS in state or self._frozen is not None
        self._counts = row_steps.of(state, frozen.shape, device) if separate and row_steps.counted(optimizer) else None

    @torch.no_grad()
    def finish(self) -> None:
        """Correct the update of each row. Call this after the optimizer's step and before the learning rate changes."""
        state = self._optimizer.state.get(self._parameter, {})
        if self._frozen is not None:
            self._put_back_moments(state, self._frozen)
        if self._counts is not None and "step" in state:
            self._count(state, self._counts)
        if self._weights is not None:
            self._slow_down(self._weights)

    def _put_back_moments(self, state: dict[str, Any], frozen: Tensor) -> None:
        # Adam's moments decay even if the gradient is zero. Before the first update there are none: use zeros.
        for entry, value in self._shaped(state):
            value.copy_(torch.where(frozen, self._moments.get(entry, torch.zeros_like(value)), value))

    def _count(self, state: dict[str, Any], counts: Tensor) -> None:
        updates = (state["step"] - self._step).to(counts.device)
        learning = 1.0 if self._frozen is None else (~self._frozen).to(counts.dtype)
        state[row_steps.ROWS] = {"step": counts + updates * learning}
        row_steps.correct(self._parameter, state, self._group, updates)

    def _slow_down(self, weights: Tensor) -> None:
        parameter, update_scale = self._parameter, self._update_scale
        slow = weights + update_scale * (parameter - weights)
        if isinstance(update_scale, torch.Tensor):
            # Exact copies, as rounding must not change rows with scale 0 or 1.
            slow = torch.where(update_scale == 0, weights, torch.where(update_scale == 1, parameter, slow))
        parameter.copy_(slow)

    def _shaped(self, state: dict[str, Any]) -> list[tuple[str, Tensor]]:
        """Return the entries of a state that have the parameter's shape."""
        shape = self._parameter.shape
        return [(e, value) for e, value in state.items() if isinstance(value, torch.Tensor) and value.shape == shape]
