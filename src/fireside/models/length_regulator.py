"""From speech tokens' rate to mel frames' rate, where one is no multiple of the other (CosyVoice 1).

Linear interpolation in time, then a few convolutions. At inference the prompt and the speech are interpolated each on
its own, so that the border between them falls on a frame, and of longer speech the first and the last EDGE_TOKENS too:
a stream's windows overlap by as many, whose frames then depend on them alone. Names are the official ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EDGE_TOKENS = 20


def resize(x: Tensor, frames: int) -> Tensor:
    """Linear interpolation of x [batch, tokens, channels] to [batch, frames, channels]."""
    if frames == 0 or x.shape[1] == 0:
        return x.new_zeros(x.shape[0], frames, x.shape[2])
    return F.interpolate(x.mT, size=frames, mode="linear").mT


class LengthRegulator(nn.Module):
    """Interpolation and `layers` convolutions, each normalised over all frames and channels."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for _ in range(layers):
            stack += [nn.Conv1d(channels, channels, 3, padding=1), nn.GroupNorm(1, channels), nn.Mish()]
        self.model = nn.Sequential(*stack, nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Training: x [batch, tokens, channels], padding included, to [batch, longest of `lengths`, channels].

        lengths: int [batch], mel frames of each row; later frames are zero.
        """
        frames = int(lengths.max())
        valid = torch.arange(frames, device=x.device) < lengths[:, None]
        return self.model(resize(x, frames).mT).mT * valid[..., None]

    def inference(self, prompt: Tensor, speech: Tensor, prompt_frames: int, frames: Callable[[int], int]) -> Tensor:
        """prompt [1, P, channels] and speech [1, T, channels] to [1, prompt_frames + frames(T), channels].

        frames: mel frames of a number of tokens.
        """
        edge, tokens = EDGE_TOKENS, speech.shape[1]
        parts = [resize(prompt, prompt_frames)]
        if tokens > 2 * edge:
            parts += [
                resize(speech[:, :edge], frames(edge)),
                resize(speech[:, edge:-edge], frames(tokens) - 2 * frames(edge)),
                resize(speech[:, -edge:], frames(edge)),
            ]
        else:
            parts.append(resize(speech, frames(tokens)))
        joined = torch.cat(parts, dim=1)
        return joined if joined.shape[1] == 0 else self.model(joined.mT).mT
