"""Convolutions that see as far to the right as to the left, with zeros beyond the ends: CosyVoice 1 and 2.

They take the causal ones' place, so they are called alike; but they need whole signals, and keep no tails.
"""

from __future__ import annotations

from torch import Tensor, nn

from fireside.models.causal import Tails


class CentredConv1d(nn.Conv1d):
    """Convolution whose kernel lies centred on its output; of even kernels the larger half lies left.

    `[batch, channels, n]` to n outputs, or to n / stride of them when the kernel has twice the stride.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, dilation: int = 1, stride: int = 1
    ) -> None:
        padding = stride // 2 if stride > 1 else (kernel_size - 1) * dilation // 2
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation, stride=stride, padding=padding)

    def forward(self, input: Tensor, tails: Tails | None = None) -> Tensor:
        """Convolve a whole signal."""
        _only_whole(tails)
        return super().forward(input)


class CentredUpsample1d(nn.ConvTranspose1d):
    """Transposed convolution: `[batch, channels, n]` to `[batch, out_channels, n * factor]`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, factor: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=factor, padding=(kernel_size - factor) // 2)

    def forward(self, input: Tensor, tails: Tails | None = None) -> Tensor:  # type: ignore[override]
        """Upsample a whole signal."""
        _only_whole(tails)
        return super().forward(input)


def _only_whole(tails: Tails | None) -> None:
    if tails is not None:
        raise ValueError("centred convolutions run over whole signals; synthesise in windows instead")
