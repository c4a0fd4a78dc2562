"""Matrix products with weights that are held once, in the form they are read in: reading them is what decoding
costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Literal["float", "int8"]
"""float: in the computing type; int8: one byte a weight and one scale a row, computed with in bfloat16."""

PACKED_ROWS = 24
"""Above so many rows it is faster to unpack int8 weights and multiply in bfloat16 than to multiply them packed."""


def join(parts: Sequence[Tensor]) -> Tensor:
    """Weights [out_i, in] (or biases) one below the other, as one tensor.

    The parts become views of it, so that nothing is held twice; parts that are already so are taken as they are.
    """
    if _adjacent(parts):
        first = parts[0].detach()
        return first.as_strided((sum(len(part) for part in parts), *first.shape[1:]), first.stride())
    joined = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, joined.split([len(part) for part in parts]), strict=True):
        part.data = view
    return joined


def _adjacent(parts: Sequence[Tensor]) -> bool:
    at = parts[0].data_ptr()
    for part in parts:
        if part.data_ptr() != at or not part.is_contiguous():
            return False
        at += part.nbytes
    return all(part.untyped_storage().data_ptr() == parts[0].untyped_storage().data_ptr() for part in parts)


class Product:
    """x -> x W^T (+ bias), from weights of one or several layers that read the same input.

    weights, biases: [out_i, in] and [out_i] of each; dtype: the type of x and of the result.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None] = (),
        dtype: torch.dtype = torch.float32,
        kind: Weights = "float",
    ) -> None:
        if kind == "float" and weights[0].dtype == dtype:
            self.weight = join(weights) if len(weights) > 1 else weights[0].detach()
        else:
            stacked = torch.cat([weight.detach().to(dtype if kind == "float" else torch.float32) for weight in weights])
            self.weight = stacked
        self.scale: Tensor | None = None
        if kind == "int8":
            self.weight, self.scale = quantise(self.weight)
        given = [bias.detach() for bias in biases if bias is not None]
        self.bias = torch.cat(given).to(dtype) if given else None

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] of the computing type -> [..., out] of the same."""
        if self.scale is None:
            return F.linear(x, self.weight, self.bias)
        if x.device.type == "cpu" and x.numel() // x.shape[-1] <= PACKED_ROWS:
            flat = x.reshape(-1, x.shape[-1])
            y = torch._weight_int8pack_mm(flat, self.weight, self.scale).view(*x.shape[:-1], -1)
        else:
            y = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias

    @property
    def nbytes(self) -> int:
        """What is read for a product, in bytes."""
        return self.weight.nbytes


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [out, in] -> int8 [out, in] and bfloat16 scales [out]: weight is about int8 * scale.

    The scale is rounded up to bfloat16 before the weights are divided by it, so that its rounding costs nothing.
    """
    scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.bfloat16).tiny)
    rounded = scale.bfloat16()
    rounded = torch.where(rounded.float() < scale, rounded * (1 + 2**-7), rounded)
    return (weight / rounded.float()[:, None]).round().clamp(-127, 127).to(torch.int8), rounded
