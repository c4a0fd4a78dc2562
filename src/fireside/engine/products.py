"""Matrix products with weights that are held in the form they are read in: reading them is what decoding costs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Literal["float", "int8"]
"""float: in the computing type; int8: one byte a weight and one scale a row, computed with in bfloat16."""

Held = Literal["float", "int8", "half"]
"""As Weights; half: two bytes a weight, computed with in float32, for weights that this changes nothing of."""

PACKED_ROWS = 24
"""Above so many rows it is faster to unpack int8 weights and multiply in bfloat16 than to multiply them packed."""

# FBGEMM's kernels, x86 only. torch will drop these two functions one day; `torch.ops.quantized.linear_dynamic_fp16`
# computes the same numbers, but takes 7 us longer for each product, 0.2 ms for each of hearth's ids.
_PACK: Any = getattr(torch, "fbgemm_pack_gemm_matrix_fp16", None)
_MULTIPLY: Any = getattr(torch, "fbgemm_linear_fp16_weight_fp32_activation", None)


def halves(weights: Iterable[Tensor]) -> bool:
    """Whether weights can be held as half: float32 on a processor that multiplies so, each exact in half precision.

    A float32 product with such weights reads half the bytes, and every row of it has accumulators of its own: what a
    row gives does not depend on how many there are.
    """
    if _MULTIPLY is None or "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    return all(
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.equal(weight.detach().half().float(), weight.detach())
        for weight in weights
    )


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

    weights, biases: [out_i, in] and [out_i] of each; dtype: the type of x and of the result. nbytes: what is read for
    a product.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None] = (),
        dtype: torch.dtype = torch.float32,
        kind: Held = "float",
    ) -> None:
        given = [bias.detach() for bias in biases if bias is not None]
        self.bias = torch.cat(given).to(dtype) if given else None
        self.scale: Tensor | None = None
        self.packed: Tensor | None = None
        if kind == "half":
            joined = torch.cat([weight.detach() for weight in weights])
            self.packed = _packed(joined)
            self.nbytes = joined.nbytes // 2
            if self.bias is None:
                self.bias = torch.zeros(len(joined))
            return
        if kind == "float" and weights[0].dtype == dtype:
            self.weight = join(weights) if len(weights) > 1 else weights[0].detach()
        else:
            stacked = torch.cat([weight.detach().to(dtype if kind == "float" else torch.float32) for weight in weights])
            self.weight = stacked
        if kind == "int8":
            self.weight, self.scale = quantise(self.weight)
        self.nbytes = self.weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] of the computing type -> [..., out] of the same."""
        if self.packed is not None:
            y: Tensor = _MULTIPLY(x, self.packed, self.bias)
            return y
        if self.scale is None:
            return F.linear(x, self.weight, self.bias)
        if x.device.type == "cpu" and x.numel() // x.shape[-1] <= PACKED_ROWS:
            flat = x.reshape(-1, x.shape[-1])
            y = torch._weight_int8pack_mm(flat, self.weight, self.scale).view(*x.shape[:-1], -1)
        else:
            y = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias


def _packed(weight: Tensor) -> Tensor:
    """Weights [out, in] in the order in which the half-precision product reads them."""
    with warnings.catch_warnings():  # torch says once, of either function, that it will go one day
        warnings.simplefilter("ignore")
        packed: Tensor = _PACK(weight)
        _MULTIPLY(torch.zeros(1, weight.shape[1]), packed, torch.zeros(len(weight)))
    return packed


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [out, in] -> int8 [out, in] and bfloat16 scales [out]: weight is about int8 * scale.

    The scale is rounded up to bfloat16 before the weights are divided by it, so that its rounding costs nothing.
    """
    scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.bfloat16).tiny)
    rounded = scale.bfloat16()
    rounded = torch.where(rounded.float() < scale, rounded * (1 + 2**-7), rounded)
    return (weight / rounded.float()[:, None]).round().clamp(-127, 127).to(torch.int8), rounded
