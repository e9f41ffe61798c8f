"""A pretended GPU: tensors in the memory of the CPU that follow the rules of a device, so that tests need no GPU.

The rules are those of MPS, which are the strictest: an operation on tensors of two devices is an error (except for
single numbers and indices), so is float64, and values reach numpy only through the CPU.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("mps")
READ = {"tolist", "item", "__float__", "__int__", "__bool__", "__index__"}
"""Methods that copy numbers to Python."""
INDEXING = {"aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_"}


class OnDevice(torch.Tensor):
    """A tensor on the pretended device."""

    device = property(lambda self: DEVICE)

    @staticmethod
    def __new__(cls, values):
        if values.dtype == torch.float64:
            raise TypeError("the device has no float64")
        made = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device="cpu"
        )
        made.values = values
        return made

    def __tensor_flatten__(self):
        return ["values"], None

    @staticmethod
    def __tensor_unflatten__(inner, _, size, stride):
        return OnDevice(inner["values"])

    def __repr__(self):
        return f"OnDevice({self.values})"

    def numpy(self, **_):
        raise TypeError("a tensor on a device has no numpy array")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor) and each.dim()]
        if str(func.overloadpacket) not in INDEXING and not all(isinstance(each, cls) for each in tensors):
            raise RuntimeError(f"{func}: its tensors are on two devices")
        args, kwargs = tree_map(lambda each: each.values if isinstance(each, cls) else each, (args, kwargs or {}))
        return tree_map(lambda each: cls(each) if isinstance(each, torch.Tensor) else each, func(*args, **kwargs))


class _Moved(torch.autograd.Function):
    """Copy a tensor to the device or to the CPU; its gradient goes the other way."""

    @staticmethod
    def forward(ctx, tensor, there):
        ctx.was_there = isinstance(tensor, OnDevice)
        return _copy(tensor, there)

    @staticmethod
    def backward(ctx, gradient):
        return _copy(gradient, ctx.was_there), None


def _copy(tensor, there):
    values = (tensor.values if isinstance(tensor, OnDevice) else tensor).detach().clone()
    return OnDevice(values) if there else values


class _Pretended(TorchFunctionMode):
    """Let torch create tensors on the device, and move tensors to it and back."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is torch.Tensor.to:
            return _to(*args, **kwargs)
        if func is torch.Tensor.cpu:
            return _to(args[0], "cpu")
        if name in READ and isinstance(args[0], OnDevice):
            return func(args[0].values)
        if name == "new_tensor" and isinstance(args[0], OnDevice):
            return OnDevice(func(args[0].values, *args[1:], **kwargs))
        if kwargs.get("device") is not None:
            made = func(*args, **kwargs | {"device": None})
            return _Moved.apply(made, torch.device(kwargs["device"]) == DEVICE)
        return func(*args, **kwargs)


def _to(tensor, *args, **kwargs):
    if args and isinstance(args[0], torch.Tensor):
        device, dtype = args[0].device, args[0].dtype
    else:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    narrow = dtype if dtype not in (None, tensor.dtype) else None
    if narrow and device == DEVICE:  # float64 becomes float32 before it is moved
        tensor, narrow = tensor.type(narrow), None
    if device is not None and (device == DEVICE) != isinstance(tensor, OnDevice):
        tensor = _Moved.apply(tensor, device == DEVICE)
    return tensor if narrow is None else tensor.type(narrow)


@contextmanager
def pretended(patch):
    """Run models on the pretended device within the `with` block; yield a list with an item for each model moved.

    Args:
        patch: `pytest.MonkeyPatch`.
    """
    from pli_analysis.inference import devices

    moved = []

    def device():
        moved.append(DEVICE)
        return DEVICE

    with patch.context() as patched, _Pretended():
        patched.setattr(devices, "device", device)
        patched.setattr(torch, "inference_mode", torch.no_grad)  # tensors of a subclass refuse inference mode
        yield moved
