"""Direct preference optimisation (arXiv 2305.18290, with label smoothing as in cDPO; IPO: arXiv 2310.12036): speech
that was preferred becomes likelier than speech that was rejected, measured against a frozen reference model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fireside.models.layout import IGNORE


def sequence_log_probabilities(logits: Tensor, targets: Tensor, asked: Tensor | None = None) -> Tensor:
    """Mean log-probability of each row's targets: logits [batch, length, ids], targets [batch, length] -> [batch].

    asked: which positions count, bool [batch, length]; by default those that have a target. (The original counts
    exactly the others, so that what it optimises has nothing to do with what is said.)
    """
    if asked is None:
        asked = targets != IGNORE
    said = logits.float().log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return torch.where(asked, said, 0.0).sum(-1) / asked.sum(-1).clamp(min=1)


@dataclass(frozen=True)
class Preference:
    """loss: a scalar; rewards: beta times how much likelier than to the reference, [batch], without gradient."""

    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor

    @property
    def accuracy(self) -> Tensor:
        """Share of pairs whose chosen speech is rewarded more."""
        return (self.chosen_rewards > self.rejected_rewards).float().mean()


def preference_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.01,
    label_smoothing: float = 0.0,
    kind: Literal["sigmoid", "ipo"] = "sigmoid",
) -> Preference:
    """The loss of pairs, from log-probabilities [batch] of `sequence_log_probabilities`.

    beta: how strongly the reference holds; label_smoothing: the share of pairs that are taken to be swapped
    (sigmoid only).
    """
    margin = (chosen - rejected) - (reference_chosen - reference_rejected)
    if kind == "ipo":
        losses = (margin - 1 / (2 * beta)) ** 2
    else:
        preferred, swapped = F.logsigmoid(beta * margin), F.logsigmoid(-beta * margin)
        losses = -(1 - label_smoothing) * preferred - label_smoothing * swapped
    return Preference(
        losses.mean(),
        beta * (chosen - reference_chosen).detach(),
        beta * (rejected - reference_rejected).detach(),
    )
