"""CosyVoice 3's flow and hearth's: tokens -> embedding -> look-ahead layer -> each frame repeated -> `mu`, and a DiT.

Module names are those of the released CosyVoice 3 `flow.pt`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fireside.models.config import FlowConfig
from fireside.models.dit import DiT
from fireside.models.lookahead import LookaheadLayer
from fireside.models.matching import ChunkedFlow, FlowMatching


class CausalFlow(ChunkedFlow[DiT]):
    """The flow as a pure module: training loss and one-shot synthesis.

    adaptation [parts, dim]: where the configuration says that it adapts to voices, what its adaptive norms' biases
    differ by when it fits everybody (engine/adaptation.py); nothing here uses it.
    """

    config: FlowConfig
    adaptation: Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__(config, config.n_mels)
        self.pre_lookahead_layer = LookaheadLayer(config.n_mels, config.lookahead_channels, config.pre_lookahead_len)
        self.decoder = FlowMatching(DiT(config.dit, config.n_mels, config.chunk_frames))
        if config.adapt:
            self.register_buffer("adaptation", torch.zeros(config.dit.modulations, config.dit.dim))

    def upsample(self, features: Tensor) -> Tensor:
        """Token features [batch, tokens, n_mels] to mu [batch, n_mels, frames]."""
        return features.repeat_interleave(self.config.token_mel_ratio, dim=1).transpose(1, 2)

    def encode(
        self, tokens: Tensor, mask: Tensor | None = None, finalize: bool = True, chunked: bool = False
    ) -> Tensor:
        """See ChunkedFlow; there is no attention here, so the chunk mask makes no difference."""
        embedded = self.embed(tokens, mask)
        if finalize:
            return self.upsample(self.pre_lookahead_layer(embedded))
        ahead = self.config.pre_lookahead_len
        return self.upsample(self.pre_lookahead_layer(embedded[:, :-ahead], embedded[:, -ahead:]))
