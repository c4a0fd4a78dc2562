"""Learning rates by step, as CosyVoice's recipes have them; see `loop.py` for one that follows a clock.

rate = WarmupRate(1e-3, warmup=2500)
for step in range(...): set_rate(optimizer, rate(step)); ...
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class WarmupRate:
    """Linear to `peak` in `warmup` steps, then with the inverse square root of the step (Vaswani et al. 2017)."""

    peak: float
    warmup: int = 2500

    def __call__(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        count = step + 1
        return self.peak * self.warmup**0.5 * min(count**-0.5, count * self.warmup**-1.5)


@dataclass(frozen=True)
class HoldRate:
    """Linear to `peak` in `warmup` steps, `hold` steps there, then with the inverse square root; from `steps` on, and
    never below, `least` (Squeezeformer: Kim et al. 2022)."""

    peak: float
    warmup: int
    hold: int
    steps: int
    least: float = 0.0

    def __call__(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        if step > self.steps:
            return self.least
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        if step <= self.warmup + self.hold:
            return self.peak
        return max(self.least, self.peak * (self.warmup / (step - self.hold)) ** 0.5)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of an optimiser this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
