"""The look-ahead of a flow's token features: how speech that is not there yet is seen a little way ahead."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOOKAHEAD_HISTORY = 2  # hidden frames that the second convolution sees to the left


class LookaheadLayer(nn.Module):
    """Lets every token see a few tokens ahead, and two hidden frames back; with a residual connection."""

    def __init__(self, channels: int, hidden: int, lookahead: int) -> None:
        super().__init__()
        self.lookahead = lookahead
        self.conv1 = nn.Conv1d(channels, hidden, lookahead + 1)
        self.conv2 = nn.Conv1d(hidden, channels, LOOKAHEAD_HISTORY + 1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x [batch, tokens, channels] to the same shape.

        context: the `lookahead` tokens that follow x, [batch, lookahead, channels]; None at the end of
        speech.
        """
        following = x.new_zeros(x.shape[0], self.lookahead, x.shape[2]) if context is None else context
        return self.piece(torch.cat([x, following], dim=1), 0, x.shape[1])

    def piece(self, x: Tensor, before: int, tokens: int) -> Tensor:
        """The layer's output for `tokens` positions out of the middle of a sequence.

        x: [batch, before + tokens + lookahead, channels] with `before` of the preceding tokens in front: two,
        or as many as there are.
        """
        hidden = F.pad(F.leaky_relu(self.conv1(x.transpose(1, 2))), (LOOKAHEAD_HISTORY - before, 0))
        return self.conv2(hidden).transpose(1, 2) + x[:, before : before + tokens]
