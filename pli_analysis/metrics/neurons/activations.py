"""Activations of FFN units: the input of the FFN's output projection, some blocks of text at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pli_analysis.inference import checkpoint_model
from pli_analysis.metrics.ablation.interventions import ffn_output, removed
from pli_analysis.runs.checkpoint import require_parts
from pli_train.core.anatomy.axes import factors
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pli_analysis.runs.checkpoint import Checkpoint

AT_ONCE = 1024
"""Maximum number of tokens in one forward pass, unless a block has more."""


def require_units(checkpoint: Checkpoint) -> None:
    """Raise BadInput if the family's table names no output projection of the FFN whose inputs are its units."""
    require_parts(checkpoint, "ffn")
    table = checkpoint.anatomy
    output = [*table.identity.get("zero", [])][1:2]  # after that of attention
    _, axes = table.tensors.get(f"{output[0]}.weight" if output else "", ("", ""))
    if sorted(factors(axes)) != ["model", "unit"]:
        raise BadInput(
            f"{checkpoint.path}: the FFN of a {table.model_type} has no single output projection, so the activations "
            "of its units cannot be read; `pli-analyze ablation` measures the FFN as a whole"
        )


def activations(
    checkpoint: Checkpoint,
    layers: Sequence[str],
    tokens: Tensor,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[dict[str, Tensor]]:
    """Yield the activations of the units of some layers, for some blocks at a time, in the order of the text.

    An activation is what the output projection reads: after the nonlinearity and, where the FFN is gated, after the
    product with the gate. Units that only pad a layer are left out.

    Args:
        layers: layer ids.
        tokens: (blocks, block_size).
        on_progress: called with (blocks done, in total).

    Yields:
        Layer id → (tokens, units) float32, for the tokens of at most `AT_ONCE` tokens' blocks, one block after another.

    Raises:
        BadInput: if the family's FFN is not supported, or activations are not finite.
    """
    import torch

    require_units(checkpoint)
    model, anatomy, lineage = checkpoint_model.model_of(checkpoint, head=False), checkpoint.anatomy, checkpoint.lineage
    stack = checkpoint_model.stack_of(model, anatomy)
    read: dict[str, list[Tensor]] = {}

    def keeper(layer: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: read.setdefault(layer, []).append(inputs[0])

    with ExitStack() as hooks, torch.inference_mode():
        for layer in layers:
            module = ffn_output(stack[lineage.index(layer)], anatomy)
            hooks.enter_context(removed(module.register_forward_pre_hook(keeper(layer))))
        done = 0
        for some in tokens.to(model.device).split(max(1, AT_ONCE // tokens.shape[1])):
            on_progress(done, len(tokens))
            read.clear()
            model(input_ids=some)
            # Some FFNs join blocks and tokens, and some read the tokens in several parts.
            found = {id: torch.cat(parts, dim=-2).flatten(0, -2) for id, parts in read.items()}
            if not all(bool(values.isfinite().all()) for values in found.values()):
                raise BadInput(f"{checkpoint.path}: the activations of its FFN units are not finite")
            yield {id: values[:, : lineage.shape(id)[1]].cpu() for id, values in found.items()}
            done += len(some)
        on_progress(done, len(tokens))
