"""Speaking rate by linear interpolation of the mel in time, a chunk at a time.

The joined output equals `F.interpolate(mel, scale_factor=1 / speed, mode="linear", align_corners=False,
recompute_scale_factor=False)` of the whole mel: output frame j lies at the input frame (j + 0.5) * speed -
0.5, held inside the true ends, and there are floor(frames / speed) of them. (The original fixes the output's
length first and derives the scale from it, which needs the whole mel; the two differ by less than one frame
over an utterance.)"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class SpeedState:
    """One utterance's interpolation.

    `kept` holds the input frames from index `start` on that are still needed.
    """

    speed: float
    kept: Tensor | None = None
    start: int = 0
    made: int = 0


def change_speed(state: SpeedState, mel: Tensor, final: bool) -> Tensor:
    """The output frames that the input so far decides.

    mel: [..., frames], the next input frames (may be none); returns [..., frames], the next output frames.
    Output waits for the right neighbour, at most one input frame; `final` gives out the rest."""
    if state.speed == 1.0:
        state.made += mel.shape[-1]
        return mel
    known = mel if state.kept is None else torch.cat([state.kept, mel], dim=-1)
    end = state.start + known.shape[-1]
    if final:
        stop = math.floor(end / state.speed + 1e-9)
    else:  # the last j whose right neighbour floor(position) + 1 is at most end - 1
        stop = max(state.made, math.ceil((end - 0.5) / state.speed - 0.5 - 1e-9))
    if stop <= state.made:
        state.kept = known
        return known[..., :0]
    index = torch.arange(state.made, stop, dtype=torch.float64)
    position = ((index + 0.5) * state.speed - 0.5).clamp(0, end - 1)
    left = position.floor().long()
    right = (left + 1).clamp(max=end - 1)
    weight = (position - left).to(known)
    output = known[..., left - state.start] * (1 - weight) + known[..., right - state.start] * weight
    state.made = stop
    following = max((stop + 0.5) * state.speed - 0.5, 0.0)
    drop = min(math.floor(following), end) - state.start
    state.kept = known[..., drop:]
    state.start += drop
    return output


def stretch(mel: Tensor, speed: float) -> Tensor:
    """A whole mel [n_mels, frames] at another rate, as the original has it: int(frames / speed) frames.

    The scale follows from the two lengths, so it differs from `change_speed` by less than a frame over all.
    """
    if speed == 1.0 or mel.shape[-1] == 0:
        return mel
    size = max(1, int(mel.shape[-1] / speed))
    return F.interpolate(mel[None], size=size, mode="linear")[0]
