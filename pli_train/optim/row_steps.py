"""Adam's step count for each row of a tensor.

PyTorch's Adam has one count of updates per parameter, `step`. A row that was added to an older tensor, or that was
frozen for some steps, has had fewer updates. With the bias correction of the tensor's count, the first update of a new
row could be (1 − β1) / √(1 − β2) times the learning rate, 3.2 times with the usual betas. In a separate parameter, its
first update is at most the learning rate (Kingma and Ba 2015, arXiv:1412.6980, section 2.1).

So the optimizer's state of such a tensor also has the count of each row, and after each update the rows whose count
differs from the tensor's are corrected to the update that their own bias correction gives. Moments need no correction.
The counts are stored and not computed from the lineage, because updates may be skipped (by a GradScaler, say), and an
optimizer may be older than the run. A tensor without row counts has had the same number of updates in all rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Adam

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

ROWS = "rows"
"""Key of the row counts in a parameter's state, as `{"step": counts}`.

The inner name must be `step`: `Optimizer.load_state_dict` casts all other tensors to the dtype of the parameter, and
bfloat16 cannot count beyond 256.
"""


def counted(optimizer: Optimizer) -> bool:
    """Return whether rows can have their own counts: with Adam, AdamW and their subclasses."""
    return isinstance(optimizer, Adam)


def of(state: dict[str, Any], shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the number of updates of each row, float32.

    Args:
        state: the optimizer's state of one parameter; empty before its first update.
        shape: of the result: that of the parameter, with 1 for each axis but that of the rows.
        device: of the parameter.
    """
    if ROWS in state:
        # `load_state_dict` does not move them to the parameter's device, as with Adam's own unfused `step`.
        return state[ROWS]["step"].to(device)
    step = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32, device=device)
    return step.expand(*shape).clone()


def keep(state: dict[str, Any], counts: Tensor) -> None:
    """Store row counts in a parameter's state, unless all equal the tensor's count."""
    state.pop(ROWS, None)
    if bool((counts != torch.as_tensor(state["step"], device=counts.device)).any()):
        state[ROWS] = {"step": counts}


@torch.no_grad()
def correct(parameter: nn.Parameter, state: dict[str, Any], group: dict[str, Any], updates: Tensor) -> None:
    """Correct the last update of Adam to the bias correction of each row's own count.

    This does not depend on weight decay, so it is correct for Adam and AdamW. Rows whose count equals the tensor's do
    not change.

    Args:
        parameter: after the update.
        state: after the update, with the rows' counts.
        group: group of the parameter, with `lr`, `betas` and `eps` of the update.
        updates: number of updates, a scalar: 1, or 0 if the optimizer skipped the update.
    """
    counts, step = state[ROWS]["step"], torch.as_tensor(state["step"], device=parameter.device)
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    first = state["exp_avg"].to(dtype)
    root = state.get("max_exp_avg_sq", state["exp_avg_sq"]).to(dtype).sqrt()
    excess = first / _denominator(root, group, step)
    excess.addcdiv_(first, _denominator(root, group, counts), value=-1)
    excess *= group["lr"] * updates * (counts != step)
    parameter.add_(excess)


def _denominator(root: Tensor, group: dict[str, Any], count: Tensor) -> Tensor:
    """Return what Adam divides the first moment by, for a learning rate of 1, after `count` updates.

    Args:
        root: the square root of the second moment.
    """
    bias1, bias2 = (_bias(beta, count.to(root.dtype)) for beta in group["betas"])
    return torch.addcmul(group["eps"] * bias1, root, bias1 / bias2.sqrt())


def _bias(beta: float, count: Tensor) -> Tensor:
    """Return 1 − βⁿ without cancellation. A count of 0 is treated as 1."""
    return -torch.expm1(count.clamp(min=1) * (math.log(beta) if beta else -math.inf))
