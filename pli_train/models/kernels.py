"""Faster kernels: fused activations, and layers compiled one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation

from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

UNFUSED = (NewGELUActivation, FastGELUActivation)
"""Implementations of GELU's tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415) as eight operations in memory."""
COMPILATIONS = 256
"""Maximum number of compiled variants of a layer (numbers of heads and units, training and evaluation). With torch's
default of 8, compilation would stop silently during a run."""


def fuse(model: nn.Module) -> None:
    """Replace a model's GELU activations with fused ones, in place. Results are equal up to rounding."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, UNFUSED):
                setattr(module, name, GELUTanh())


def compile_layers(layers: Iterable[nn.Module]) -> None:
    """Compile each layer of a stack at its first call.

    Layers of the same shape share compiled code, because parameters are arguments, so inserted layers reuse it. The
    rest of the model is not compiled, so growth does not invalidate it. Layers that are already compiled are skipped.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILATIONS)
    for layer in layers:
        if layer._compiled_call_impl is None:
            layer.compile(dynamic=False)


def require_compiler(device: torch.device) -> None:
    """Raise BadInput if there is no compiler for `device`."""
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        if device.type == "cuda":
            import triton  # noqa: F401
        else:
            from torch._inductor.cpp_builder import get_cpp_compiler

            get_cpp_compiler()
    except ImportError:
        raise BadInput("train.compile: compiling for a GPU needs the package triton: pip install triton") from None
    except InvalidCxxCompiler:
        raise BadInput("train.compile: no C++ compiler found: install g++, or set CXX") from None
