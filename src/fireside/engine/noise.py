"""Start noise of the flow: a fixed function of the mel frame's index, counted from the start of the prompt.

Nothing here touches a global random generator, and no length is built in.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fireside.models.config import ChunkedFlowConfig, RegulatedFlowConfig

BLOCK_FRAMES = 64
OFFICIAL_FRAMES = 15000
OFFICIAL_MELS = 80


def lazy_noise(start: int, stop: int, n_mels: int) -> Tensor:
    """Standard normal noise of the frames start..stop: float32 [n_mels, stop - start], on the CPU.

    Made in blocks of frames, each from a generator seeded with the block's index, so that any stretch costs
    its own length only.
    """
    if stop <= start:
        return torch.zeros(n_mels, 0)
    first = start // BLOCK_FRAMES
    blocks = []
    for index in range(first, -(-stop // BLOCK_FRAMES)):
        generator = torch.Generator().manual_seed(index)
        blocks.append(torch.randn(n_mels, BLOCK_FRAMES, generator=generator))
    offset = first * BLOCK_FRAMES
    return torch.cat(blocks, dim=1)[:, start - offset : stop - offset]


@lru_cache(maxsize=1)
def _official_buffer() -> Tensor:
    """The noise every released CosyVoice 2 and 3 starts from: [80, 15000], the first draws of seed 0.

    Laid out mel bin by mel bin, so its first frames cannot be had without all of it; made when first asked
    for.
    """
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, OFFICIAL_MELS, OFFICIAL_FRAMES, generator=generator)[0]


def official_noise(start: int, stop: int, n_mels: int) -> Tensor:
    """The released models' noise for their first 300 s, and `lazy_noise` beyond: [n_mels, stop - start]."""
    if n_mels != OFFICIAL_MELS or start >= OFFICIAL_FRAMES:
        return lazy_noise(start, stop, n_mels)
    stored = _official_buffer()[:, start : min(stop, OFFICIAL_FRAMES)]
    if stop <= OFFICIAL_FRAMES:
        return stored
    return torch.cat([stored, lazy_noise(OFFICIAL_FRAMES, stop, n_mels)], dim=1)


def start_noise(config: ChunkedFlowConfig | RegulatedFlowConfig, start: int, stop: int) -> Tensor:
    """The noise a model was made for, of the frames start..stop: float32 [n_mels, stop - start]."""
    make = official_noise if config.start_noise == "official" else lazy_noise
    return make(start, stop, config.n_mels)
