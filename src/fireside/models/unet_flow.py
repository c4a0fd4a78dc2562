"""CosyVoice 1's and 2's flows: a Conformer encoder over the tokens, and a U-Net.

Module names are those of the released `flow.pt` files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fireside.models.config import RegulatedFlowConfig, UpsamplingFlowConfig
from fireside.models.conformer import Encoder
from fireside.models.flow_encoder import UpsamplingEncoder
from fireside.models.length_regulator import LengthRegulator
from fireside.models.linear import Linear
from fireside.models.matching import ChunkedFlow, Flow, FlowBatch, FlowDraws, FlowMatching
from fireside.models.unet import UNet

OVERLAP_FRAMES = 34  # by which the windows of a CosyVoice 1 stream overlap: its 20 tokens


class UpsamplingFlow(ChunkedFlow[UNet]):
    """CosyVoice 2's flow as a pure module: training loss and one-shot synthesis."""

    config: UpsamplingFlowConfig

    def __init__(self, config: UpsamplingFlowConfig) -> None:
        super().__init__(config, config.encoder.input_dim)
        self.encoder = UpsamplingEncoder(config)
        self.encoder_proj = Linear(config.encoder.dim, config.n_mels)
        self.decoder = FlowMatching(UNet(config.unet, config.n_mels, config.chunk_frames))

    def encode(
        self, tokens: Tensor, mask: Tensor | None = None, finalize: bool = True, chunked: bool = False
    ) -> Tensor:
        """See ChunkedFlow."""
        embedded, context = self.embed(tokens, mask), None
        if not finalize:
            ahead = self.config.pre_lookahead_len
            embedded, context = embedded[:, :-ahead], embedded[:, -ahead:]
        return self.encoder_proj(self.encoder(embedded, mask, context, chunked)).mT


@dataclass(frozen=True)
class WindowPast:
    """What the next window of a CosyVoice 1 stream takes over: start noise and mu, [1, n_mels, frames] each, of the
    prompt and of this window's last OVERLAP_FRAMES, which are the next one's first."""

    noise: Tensor
    mu: Tensor


class RegulatedFlow(Flow[UNet]):
    """CosyVoice 1's flow as a pure module: training loss and one-shot synthesis. Every frame sees all others."""

    config: RegulatedFlowConfig

    def __init__(self, config: RegulatedFlowConfig) -> None:
        super().__init__(config, config.encoder.input_dim)
        self.encoder = Encoder(config.encoder)
        self.encoder_proj = Linear(config.encoder.dim, config.n_mels)
        self.decoder = FlowMatching(UNet(config.unet, config.n_mels))
        self.length_regulator = LengthRegulator(config.n_mels, config.regulator_layers)

    def features(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens [batch, tokens] to features [batch, tokens, n_mels]; mask: bool, False where padded, or None."""
        return self.encoder_proj(self.encoder(self.embed(tokens, mask), mask))

    def loss(self, batch: FlowBatch, draws: FlowDraws) -> dict[str, Tensor]:
        """See matching_loss. `batch.frames` must be given."""
        if batch.frames is None:
            raise ValueError("the rows' mel frames are no multiple of their tokens: FlowBatch.frames is needed")
        mu = self.length_regulator(self.features(batch.tokens, batch.token_mask), batch.frames).mT.float()
        mask = torch.arange(mu.shape[2], device=mu.device) < batch.frames[:, None, None]
        return self.matching_loss(mu, mask.to(mu.dtype), batch, draws, chunked=False)

    @torch.inference_mode()
    def window(
        self,
        tokens: Tensor,
        prompt_tokens: Tensor,
        prompt_mel: Tensor,
        embedding: Tensor,
        noise: Tensor,
        past: WindowPast | None = None,
        *,
        steps: int | None = None,
        cfg_rate: float | None = None,
    ) -> tuple[Tensor, WindowPast]:
        """The mel of one window of a stream, [1, n_mels, config.frames(T)], natural log, and what the next takes over.

        tokens [1, T], which begin with the overlap of the window before; past: what that one left, None in the first
        window; the rest as in `inference`. The windows' mels do not continue each other exactly: every frame sees
        its whole window. The original therefore blends them over the overlap.
        """
        count, prompt = prompt_tokens.shape[1], prompt_mel.shape[2]
        features = self.features(torch.cat([prompt_tokens, tokens], dim=1))
        mu = self.length_regulator.inference(features[:, :count], features[:, count:], prompt, self.config.frames)
        mu = mu.mT.float().contiguous()
        noise = noise[:, :, : mu.shape[2]].float()
        if past is not None:
            kept = min(past.mu.shape[2], mu.shape[2])
            mu = torch.cat([past.mu[:, :, :kept], mu[:, :, kept:]], dim=2)
            noise = torch.cat([past.noise[:, :, :kept], noise[:, :, kept:]], dim=2)
        mel = self.solve(mu, prompt_mel, embedding, noise, chunked=False, steps=steps, cfg_rate=cfg_rate)
        keep_noise, keep_mu = (
            torch.cat([part[:, :, :prompt], part[:, :, -OVERLAP_FRAMES:]], dim=2) for part in (noise, mu)
        )
        return mel, WindowPast(keep_noise, keep_mu)

    def inference(
        self,
        tokens: Tensor,
        prompt_tokens: Tensor,
        prompt_mel: Tensor,
        embedding: Tensor,
        noise: Tensor,
        *,
        chunked: bool | None = None,
        steps: int | None = None,
        cfg_rate: float | None = None,
    ) -> Tensor:
        """Mel of `tokens` in one shot: [1, n_mels, config.frames(T)], natural log.

        tokens [1, T], prompt_tokens [1, P]; prompt_mel [1, n_mels, frames of the prompt]; embedding [1,
        speaker_dim]; noise [1, n_mels, at least all frames], standard normal. There is no chunk mask to ask for.
        """
        if chunked:
            raise ValueError("this flow has no chunk mask: every frame sees all others")
        mel, _ = self.window(tokens, prompt_tokens, prompt_mel, embedding, noise, steps=steps, cfg_rate=cfg_rate)
        return mel
