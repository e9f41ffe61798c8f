"""Changes of a model's forward pass that are undone at the end of a `with` block.

transformers 5 has no `head_mask`, so heads are masked where their outputs enter the attention output projection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

    from pli_train.core.anatomy import Anatomy


def attention_output(layer: nn.Module, anatomy: Anatomy) -> nn.Module:
    """Return the attention output projection of a layer. Its input is the outputs of the heads, one after the other."""
    return layer.get_submodule(anatomy.identity["zero"][0])


def ffn_output(layer: nn.Module, anatomy: Anatomy) -> nn.Module:
    """Return the output projection of a layer's FFN."""
    return layer.get_submodule(anatomy.identity["zero"][1])


@contextmanager
def heads_masked(layer: nn.Module, anatomy: Anatomy, heads: Collection[int], count: int) -> Iterator[None]:
    """Set the outputs of some heads to zero. The bias of the output projection stays.

    Args:
        heads: numbers of the heads.
        count: number of heads of the layer, padding included.
    """

    def mask(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = inputs[0].unflatten(-1, (count, -1)).clone()
        values[..., list(heads), :] = 0
        return values.flatten(-2), *inputs[1:]

    with removed(attention_output(layer, anatomy).register_forward_pre_hook(mask)):
        yield


@contextmanager
def ffn_masked(layer: nn.Module, anatomy: Anatomy) -> Iterator[None]:
    """Set the output of a layer's FFN to zero, its bias included."""
    with removed(
        ffn_output(layer, anatomy).register_forward_hook(lambda _, inputs, output: output.new_zeros(output.shape))
    ):
        yield


@contextmanager
def skipped(layer: nn.Module) -> Iterator[None]:
    """Let a layer return its input."""

    def skip(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        return _with_hidden(output, inputs[0] if inputs else named["hidden_states"])

    with removed(layer.register_forward_hook(skip, with_kwargs=True)):
        yield


@contextmanager
def output_replaced(layer: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Let a layer return these hidden states."""
    with removed(layer.register_forward_hook(lambda _, inputs, output: _with_hidden(output, hidden))):
        yield


@contextmanager
def rearranged(stack: nn.ModuleList, order: Sequence[int], config: PretrainedConfig) -> Iterator[None]:
    """Replace the layer at each index by the one at index `order[index]`; a layer may occur several times.

    The types of layers in the config move too, as models read them by index to choose attention masks.
    """
    layers, types = list(stack), getattr(config, "layer_types", None)
    for index, source in enumerate(order):
        stack[index] = layers[source]
    if types is not None:
        config.layer_types = [types[source] for source in order]
    try:
        yield
    finally:
        for index, layer in enumerate(layers):
            stack[index] = layer
        if types is not None:
            config.layer_types = types


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    """Return what a layer returned, with other hidden states."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@contextmanager
def removed(hook: Any) -> Iterator[None]:
    """Remove a hook at the end."""
    try:
        yield
    finally:
        hook.remove()
