"""Causal convolutions that run over a whole signal or over its pieces, with the same code and result."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize


class Tails:
    """What the convolutions of one stream still need of their past inputs. A request owns it, no module."""

    def __init__(self) -> None:
        self._kept: dict[nn.Module, Tensor] = {}

    def get(self, module: nn.Module) -> Tensor | None:
        """The tail that `module` left, None before its first call."""
        return self._kept.get(module)

    def at(self, module: nn.Module) -> Tensor:
        """The tail that `module` left, which has been called before."""
        return self._kept[module]

    def put(self, module: nn.Module, tail: Tensor) -> None:
        """Keep `tail` for the next call. Copied, so that it does not hold the whole chunk's memory."""
        self._kept[module] = tail.clone()

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.numel() * t.element_size() for t in self._kept.values())


class CausalConv1d(nn.Conv1d):
    """Convolution that sees `left` zeros before the signal and nothing after it.

    Input `[batch, channels, n]`. Given `Tails`, the input continues the stream's earlier inputs, and the
    output continues its earlier outputs: joined outputs equal the output of the joined inputs. Look-ahead is
    the caller's: with `left=0` the first output needs `kernel_size` inputs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        dilation: int = 1,
        stride: int = 1,
        left: int | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation, stride=stride)
        self.left = (kernel_size - 1) * dilation if left is None else left

    def forward(self, input: Tensor, tails: Tails | None = None) -> Tensor:
        """Convolve, keeping the inputs that later outputs need in `tails`."""
        past = None if tails is None else tails.get(self)
        if past is not None:
            x = torch.cat([past, input], dim=-1)
        else:
            x = F.pad(input, (self.left, 0)) if self.left else input
        if tails is not None:
            span = (self.kernel_size[0] - 1) * self.dilation[0] + 1
            used = ((x.shape[-1] - span) // self.stride[0] + 1) * self.stride[0]
            tails.put(self, x[..., used:])
        return super().forward(x)


class CausalUpsample1d(CausalConv1d):
    """Repeats every input `factor` times, then convolves causally.

    Computed at the input's rate: taps that fall on the same repeated input are summed first, one kernel per
    output phase, which costs `factor` times fewer products than convolving the repeated signal for long
    kernels.
    """

    phase_map: Tensor
    frozen_kernels: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, factor: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.factor = factor
        self.left = (kernel_size - 2) // factor + 1 if kernel_size > 1 else 0
        phase, tap = torch.arange(factor)[:, None], torch.arange(kernel_size)
        slot = torch.div(phase - (kernel_size - 1) + tap, factor, rounding_mode="floor") + self.left
        # [tap, phase * slots]: which input a tap reads
        self.register_buffer(
            "phase_map", F.one_hot(slot, self.left + 1).float().transpose(0, 1).flatten(1), persistent=False
        )
        self.register_buffer("frozen_kernels", None, persistent=False)

    def freeze(self) -> None:
        """Keep the kernels of the phases, for weights that no longer change."""
        self.frozen_kernels = self._kernels().detach()

    def _kernels(self) -> Tensor:
        """One kernel per output channel and phase: `[out_channels * factor, in_channels, left + 1]`."""
        kernels = (self.weight @ self.phase_map).unflatten(-1, (self.factor, self.left + 1))
        return kernels.permute(0, 2, 1, 3).flatten(0, 1)

    def forward(self, input: Tensor, tails: Tails | None = None) -> Tensor:
        """`[batch, channels, n]` to `[batch, out_channels, n * factor]`."""
        past = None if tails is None else tails.get(self)
        x = F.pad(input, (self.left, 0)) if past is None else torch.cat([past, input], dim=-1)
        if tails is not None:
            tails.put(self, x[..., x.shape[-1] - self.left :])
        out, count = self.out_channels, input.shape[-1]
        kernels = self._kernels() if self.frozen_kernels is None else self.frozen_kernels
        bias = None if self.bias is None else self.bias.repeat_interleave(self.factor)
        phases = F.conv1d(x, kernels, bias).view(-1, out, self.factor, count)
        return phases.transpose(2, 3).reshape(-1, out, count * self.factor)


def weight_norm(module: nn.Module) -> nn.Module:
    """Weight normalisation (Salimans & Kingma 2016), in the official checkpoints' parametrised form."""
    return parametrizations.weight_norm(module)


def fold_weight_norm(root: nn.Module) -> None:
    """Replace every normalised weight below `root` by its value; does nothing where there is none."""
    for module in root.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def adapt_weight_norm(root: nn.Module, state: dict[str, Tensor], prefix: str = "") -> None:
    """Bring the convolution weights in `state` to the form that `root` has now, in place.

    Files hold a weight as `parametrizations.weight.original0/1`, as `weight_g`/`weight_v`, or folded as
    `weight`; a module has it normalised or folded. Norms are over all dimensions but the first.
    """
    for name, module in root.named_modules():
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d):
            continue
        key = f"{prefix}{name}."
        g = _pop_first(state, f"{key}parametrizations.weight.original0", f"{key}weight_g")
        v = _pop_first(state, f"{key}parametrizations.weight.original1", f"{key}weight_v")
        whole = state.pop(f"{key}weight", None)
        normalised = parametrize.is_parametrized(module, "weight")
        if whole is not None:
            g, v = _norm(whole), whole
        elif g is not None and v is not None:
            whole = v * (g / _norm(v))
        else:
            continue  # the strict load names what is missing
        if normalised:
            state[f"{key}parametrizations.weight.original0"] = g
            state[f"{key}parametrizations.weight.original1"] = v
        else:
            state[f"{key}weight"] = whole


def _norm(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)


def _pop_first(state: dict[str, Tensor], *keys: str) -> Tensor | None:
    found = [state.pop(key) for key in keys if key in state]
    return found[0] if found else None
