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
"""The tanh form of GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415) as eight operations, each through memory."""
COMPILATIONS = 256
"""How many forms of a layer may be compiled: by its heads and units, in training and in evaluation. Torch's own limit
of 8 would end compilation in the middle of a run, without a word."""


def fuse(model: nn.Module) -> None:
    """Let every activation of a model be one operation, in place. Equal up to rounding; no parameter changes."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, UNFUSED):
                setattr(module, name, GELUTanh())


def compile_layers(layers: Iterable[nn.Module]) -> None:
    """Let each layer of a stack be compiled when it is first called.

    Layers of one shape share what was compiled, an inserted one too: its parameters are arguments. What surrounds the
    layers is not compiled, so growth does not touch it. A layer that is compiled already is left alone.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILATIONS)
    for layer in layers:
        if layer._compiled_call_impl is None:
            layer.compile(dynamic=False)


def require_compiler(device: torch.device) -> None:
    """Raise BadInput when nothing here can compile for `device`."""
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
        raise BadInput("train.compile: needs a C++ compiler, and none was found: install g++, or set CXX") from None
