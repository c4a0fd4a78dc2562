"""Cross-fades of pieces that overlap, as CosyVoice 1 and 2 join what they cannot continue exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def hamming_window(length: int) -> Tensor:
    """Symmetric Hamming window, float64 `[length]`; laid over each other, its halves sum to about 1.08."""
    return torch.hamming_window(length, periodic=False, dtype=torch.float64)


def cross_fade(new: Tensor, old: Tensor) -> Tensor:
    """`new` `[..., n]` whose beginning rises while `old` `[..., m]`, m <= n, falls: `[..., n]`.

    The window's first half weighs the new piece, its second half the old one.
    """
    length = old.shape[-1]
    exact = torch.float32 if new.device.type == "mps" else torch.float64  # Apple's GPUs have no more
    rise, fall = hamming_window(2 * length).to(new.device, exact).chunk(2)
    mixed = new[..., :length].to(exact) * rise + old.to(exact) * fall
    return torch.cat([mixed.to(new.dtype), new[..., length:]], dim=-1)


@dataclass
class Overlap:
    """What one stream of pieces, each overlapping the one before, holds back: its last `length` values."""

    length: int
    held: Tensor | None = None

    def join(self, piece: Tensor, final: bool) -> Tensor:
        """What can be given out after a piece `[..., n]` that begins with a new version of what is held.

        Holds the piece's end back unless it is final. A shorter piece is held whole.
        """
        if self.held is not None:
            piece = cross_fade(piece, self.held)
        ready = piece.shape[-1] if final else max(0, piece.shape[-1] - self.length)
        self.held = None if final else piece[..., ready:].clone()
        return piece[..., :ready]
