"""Linear layers for inference on CPUs: oneDNN's float32 product, which on some processors is twice as fast as the one
that torch takes (AMD EPYC with AVX-512: some 190 against 95 GFLOP/s a core, 100 to 800 rows)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_ROWS = 16  # below, reading the weights is the cost, and both products are alike
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


_REORDER = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None) if _ONEDNN is not None else None

_ROWS = 128  # of the products that a layout is chosen for; others fare as well with it


def laid_out(weight: Tensor) -> Tensor | None:
    """A weight [out, in] in the order in which oneDNN reads it, which else it brings it into for every product: with
    two threads a quarter of the time of 60 rows. None where there is no such order."""
    if _REORDER is None or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    ordered: Tensor = _REORDER(weight.detach(), _ROWS)
    return ordered


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, ordered: Tensor | None = None) -> Tensor:
    """F.linear, of the same shapes and to float32 rounding. ordered: the weight as `laid_out` has it, if it was."""
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
    return _ONEDNN(x, weight if ordered is None else ordered, bias, "none", [], "")


class Linear(nn.Linear):
    """nn.Linear by `linear`."""

    ordered: Tensor | None = None

    def lay_out(self) -> None:
        """Keep the weight in oneDNN's order, too; it may not change any more."""
        self.ordered = laid_out(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        return linear(input, self.weight, self.bias, self.ordered)
