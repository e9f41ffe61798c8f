"""Update a tensor whose rows have different learning rates or step counts.

Some rows may be frozen, some may have a lower rate than the optimizer's learning rate, and some may have had fewer
updates than their tensor (see `row_steps`). The optimizer knows nothing of rows: it makes its update of the whole
tensor, and what it should not have done to single rows is put right afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pli_train.optim import row_steps

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


class RowUpdate:
    """What there was of a parameter right before the optimizer's step, and what is put right after it.

    Args:
        optimizer: PyTorch's, which holds the parameter.
        group: the parameter's, with the rates of this update.
        parameter: with its gradient; that of frozen rows is zero.
        update_scale: share of the update that is made, 0 for frozen: one number, or one for each row, on the CPU,
            shaped to broadcast.
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
        """Give each row the update that is its own. Call it after the optimizer's step, before the rates change."""
        state = self._optimizer.state.get(self._parameter, {})
        if self._frozen is not None:
            self._put_back_moments(state, self._frozen)
        if self._counts is not None and "step" in state:
            self._count(state, self._counts)
        if self._weights is not None:
            self._slow_down(self._weights)

    def _put_back_moments(self, state: dict[str, Any], frozen: Tensor) -> None:
        # Adam's moments decay under a zero gradient. In the first update of all there were none yet.
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
            # To the bit: rounding must move neither a frozen row nor a free one.
            slow = torch.where(update_scale == 0, weights, torch.where(update_scale == 1, parameter, slow))
        parameter.copy_(slow)

    def _shaped(self, state: dict[str, Any]) -> list[tuple[str, Tensor]]:
        """The entries of a state that have a number for each element."""
        shape = self._parameter.shape
        return [(e, value) for e, value in state.items() if isinstance(value, torch.Tensor) and value.shape == shape]
