"""Drawing the next id: nucleus sampling with a second draw when the id was said lately (RAS, VALL-E 2,
2406.05370).

Every row draws from its own generator, so what a request says does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fireside.models.config import SamplingConfig


class Sampler(Protocol):
    """Chooses an id for one row."""

    def __call__(self, scores: Tensor, history: Sequence[int]) -> int:
        """scores: float32 log-probabilities [vocab], -inf where banned; history: the ids drawn so far."""


def nucleus(probabilities: Tensor, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """The likeliest ids whose sum first reaches top_p, at most top_k: (ids, probabilities), likeliest first.

    probabilities: float32 [vocab]. Equal ones keep the order of their ids; the id that crosses top_p is
    included.
    """
    values = probabilities.numpy()
    k = min(top_k, len(values))
    # The k likeliest come in no promised order among equals: sort all ids that are as likely as the last, by id.
    ids = np.flatnonzero(values >= np.partition(values, len(values) - k)[len(values) - k])
    ids = ids[np.argsort(-values[ids], kind="stable")[:k]]
    likely = values[ids]
    count = 1 + int(np.searchsorted(np.cumsum(likely[:-1], dtype=np.float32), np.float32(top_p)))
    return torch.from_numpy(ids[:count]), torch.from_numpy(likely[:count])


def draw(probabilities: Tensor, generator: torch.Generator) -> int:
    """One index, with the given (unnormalised) probabilities."""
    return int(torch.multinomial(probabilities, 1, replacement=True, generator=generator))


@dataclass(frozen=True)
class RepetitionAware:
    """A nucleus draw; when its id is among the last `window` ids at least `window * tau` times, a second
    draw.

    The second draw is from all other ids, in proportion to their probabilities.
    """

    config: SamplingConfig
    generator: torch.Generator

    def __call__(self, scores: Tensor, history: Sequence[int]) -> int:
        """See Sampler."""
        config = self.config
        ids, probabilities = nucleus(scores.softmax(0), config.top_p, config.top_k)
        token = int(ids[draw(probabilities, self.generator)])
        if history[-config.window :].count(token) < config.window * config.tau:
            return token
        others = scores.clone()
        others[token] = -torch.inf
        if bool(others.isinf().all()):
            return token
        return draw(others.softmax(0), self.generator)


def greedy(scores: Tensor, history: Sequence[int]) -> int:
    """The likeliest id."""
    return int(scores.argmax())
