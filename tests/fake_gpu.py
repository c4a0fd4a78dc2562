"""A GPU that is not there: tensors with a device, shapes and types but no numbers, on which operations run as on CUDA.

An operation on tensors of two devices raises, as it would on a GPU. Nothing here is computed, so what needs a number
(an id to draw, a wave to play) is out of reach: the code under test ends where tensors come back to the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fireside.engine import chunkwise, noise
from fireside.models.matching import euler_times, time_grid

GPU = torch.device("cuda", 0)


class _Operators(TorchFunctionMode):
    """What Python's own way of asks the CUDA runtime for the device first, which a torch without CUDA does not have, as
    operations like others: x[...], x[...] = y, ~x, tensor(), copy_ and contiguous."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__getitem__ and isinstance(args[0], FakeTensor):
            return _index(*args)
        if func is Tensor.__setitem__ and isinstance(args[0], FakeTensor):
            x, at, value = args
            if isinstance(value, Tensor):
                if value.ndim and value.device != x.device:
                    raise RuntimeError(f"values on {value.device} are written into a tensor on {x.device}")
                torch.broadcast_to(value, _index(x, at).shape)
            return None
        if func is Tensor.copy_ and isinstance(args[0], FakeTensor):
            torch.broadcast_to(args[1], args[0].shape)
            return args[0]
        if func is torch.tensor:  # whose numbers a fake tensor would keep, and compute with on that device
            with unset_fake_temporarily():
                made = func(*args, **{name: value for name, value in kwargs.items() if name != "device"})
            return torch.empty(made.shape, dtype=made.dtype, device=kwargs.get("device", "cpu"))
        if func is Tensor.__invert__:
            return torch.bitwise_not(*args)
        if func is Tensor.contiguous:
            return torch.clone(*args, memory_format=torch.contiguous_format)
        if func in _CONVOLUTIONS:
            return _of_shape(func, args, kwargs)
        return func(*args, **kwargs)


_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv_transpose1d)
"""Of which CUDA chooses the kernel by what is on the machine."""


def _of_shape(func: Any, args: Any, kwargs: Any) -> Tensor:
    """What a function of tensors that must be on one device, and of one type, gives."""
    tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    places = {(each.device, each.dtype) for each in tensors}
    if len(places) > 1:
        raise RuntimeError(f"{func.__name__} of tensors on {places}")

    def shape_only(value: Any) -> Any:
        return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, Tensor) else value

    with unset_fake_temporarily():
        made = func(*map(shape_only, args), **{name: shape_only(value) for name, value in kwargs.items()})
    return torch.empty(made.shape, dtype=made.dtype, device=tensors[0].device)


def _index(x: Tensor, at: Any) -> Tensor:
    parts = at if isinstance(at, tuple) else (at,)
    named = sum(part is not None and part is not Ellipsis for part in parts)
    masks = sum(part.ndim - 1 for part in parts if isinstance(part, Tensor) and part.dtype == torch.bool)
    dim = 0
    chosen: list[Tensor | None] = []
    for part in parts:
        if part is Ellipsis:
            dim += x.ndim - named - masks - sum(index is None for index in parts[: parts.index(part)])
        elif part is None:
            x = torch.ops.aten.unsqueeze(x, dim)
            dim += 1
        elif isinstance(part, slice):
            x = torch.ops.aten.slice(x, dim, part.start, part.stop, part.step or 1)
            dim += 1
        elif isinstance(part, Tensor | list):
            chosen += [None] * (dim - len(chosen)) + [torch.as_tensor(part)]
            dim += 1
        else:
            x = torch.ops.aten.select(x, dim, part)
    return torch.ops.aten.index(x, chosen) if chosen else x


def _real_times(grid: Tensor) -> tuple[Tensor, Tensor]:
    """The solver's times and widths, which are numbers in Python afterwards."""
    with unset_fake_temporarily():
        return euler_times(time_grid(len(grid) - 1))


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Within it every tensor is fake, and `GPU` is a device like any other."""
    noise._official_buffer.cache_clear()
    try:
        with (
            mock.patch.object(chunkwise, "euler_times", _real_times),
            mock.patch.object(nn.Module, "double", lambda module: _converted(module, None, *[torch.float64] * 2)),
            FakeTensorMode(allow_non_fake_inputs=True),
            _Operators(),
        ):
            yield
    finally:
        noise._official_buffer.cache_clear()


Module = TypeVar("Module", bound=nn.Module)


def on_gpu(module: Module, dtype: torch.dtype = torch.float32) -> Module:
    """A module that was made within `fake_gpu`, as a folder's parts are loaded: weights in dtype, tables in float32."""
    return _converted(module.eval(), GPU, dtype, None)


def _converted(module: Module, device: torch.device | None, weights: torch.dtype, tables: torch.dtype | None) -> Module:
    """As Module.to, which cannot move fake tensors; None leaves what there is."""
    for each in module.modules():
        for name, parameter in each.named_parameters(recurse=False):
            moved = parameter.detach().to(device=device, dtype=weights)
            setattr(each, name, nn.Parameter(moved, requires_grad=False))
        for name, buffer in each.named_buffers(recurse=False):
            setattr(each, name, buffer.to(device=device, dtype=tables))
    return module


def devices(value: Any) -> set[str]:
    """Where the tensors within a value are."""
    if isinstance(value, Tensor):
        return {value.device.type}
    if isinstance(value, dict):
        return devices(list(value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(devices(each) for each in value))
    return devices(vars(value)) if hasattr(value, "__dict__") else set()
