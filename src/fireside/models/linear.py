"""Linear layers for inference on CPUs: oneDNN's float32 product, which on some processors is twice as fast as the one
that torch takes (AMD EPYC with AVX-512: some 190 against 95 GFLOP/s a core, 100 to 800 rows)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_ROWS = 16  # below, reading the weights is the cost, and both products are alike
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear, of the same shapes and to float32 rounding."""
    if (
        _ONEDNN is None
        or x.dtype != torch.float32
        or weight.dtype != torch.float32
        or x.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or x.numel() < LEAST_ROWS * x.shape[-1]
    ):
        return F.linear(x, weight, bias)
    return _ONEDNN(x, weight, bias, "none", [], "")


class Linear(nn.Linear):
    """nn.Linear by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        return linear(input, self.weight, self.bias)
