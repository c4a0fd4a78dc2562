"""Work at a few fixed sizes, so that it can be recorded once and replayed: on an NVIDIA GPU as a CUDA graph.

A GPU that Python tells every small operation waits for Python most of the time. A recording is told once, but it reads
and writes the same memory every time: it is a function of buffers that stay where they are. What differs from request
to request, as how long its past is, is a number in a buffer, from which a mask is made; sizes are rounded up to a few
(see `bucket`), so that few recordings are made. The same functions run on every device. Where there is no CUDA they are
called as they are, which is how they are tested.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

WARM_UP = 2  # calls before a recording: the first compile, and choose kernels

Result = TypeVar("Result")


def bucket(size: int, least: int, most: int) -> int:
    """The least of `least`, 2 * `least`, 4 * `least` ... and `most` that holds `size`, which is at most `most`."""
    room = least
    while room < size:
        room *= 2
    return min(room, most)


class Recorder:
    """Runs functions of fixed buffers, each recorded under a key when it is first called.

    Such a function must give the same when it is called again, and its result is valid until the next call of any.
    lock: hold it from filling the buffers until the result was taken out.
    """

    def __init__(self, device: torch.device) -> None:
        self.lock = threading.Lock()
        self._device = device
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._records = device.type == "cuda" and torch.cuda.is_available()
        # Recordings are never replayed at once, so they share their memory.
        self._pool = torch.cuda.graph_pool_handle() if self._records else None

    def run(self, key: Hashable, function: Callable[[], Result]) -> Result:
        """What the function gives; key: of the function and of all its sizes."""
        if not self._records:
            return function()
        if key not in self._graphs:
            self._graphs[key] = self._record(function)
        graph, result = self._graphs[key]
        graph.replay()
        return result

    def _record(self, function: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
        with torch.cuda.device(self._device):
            side, here = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(here)
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    function()
            here.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads go on meanwhile, at work of their own.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = function()
        return graph, result


class Replayed:
    """A function of tensors alone, recorded for each set of shapes: for the first `most` that come, others are computed
    as ever. What it gives is the caller's."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], device: torch.device, most: int = 8) -> None:
        self._function, self._most = function, most
        self._recorder = Recorder(device)
        self._rooms: dict[tuple[torch.Size, ...], list[Tensor]] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's results; the inputs' types and device are the same in every call."""
        key = tuple(each.shape for each in inputs)
        with self._recorder.lock:
            if key not in self._rooms:
                if len(self._rooms) == self._most:
                    return self._function(*inputs)
                self._rooms[key] = [torch.empty_like(each) for each in inputs]
            for room, given in zip(self._rooms[key], inputs, strict=True):
                room.copy_(given)
            results = self._recorder.run(key, partial(self._function, *self._rooms[key]))
            return tuple(result.clone() for result in results)
