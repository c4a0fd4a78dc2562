"""Which stages render a model's speech: chunk by chunk for streamed requests, in one go for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fireside.engine.fading_vocoder import FadingVocoder
from fireside.engine.flow import IncrementalFlow
from fireside.engine.noise import start_noise
from fireside.engine.render import ChunkHops, FlowStage, OverlapHops, Renderer, Schedule, VocoderStage, Whole
from fireside.engine.unet_flow import IncrementalUNetFlow
from fireside.engine.vocoder import IncrementalVocoder
from fireside.engine.whole import WholeFlow
from fireside.engine.windowed_flow import WindowedFlow
from fireside.engine.windowed_vocoder import WindowedVocoder
from fireside.models.config import ChunkedFlowConfig, RegulatedFlowConfig
from fireside.models.flow import CausalFlow
from fireside.models.unet_flow import RegulatedFlow, UpsamplingFlow

if TYPE_CHECKING:
    from fireside.models.checkpoint import ModelFolder
    from fireside.models.hift import HiFT

AnyFlow = CausalFlow | UpsamplingFlow | RegulatedFlow


def vocoder_stage(vocoder: HiFT, exact: bool = False, compile: bool = False) -> VocoderStage[Any]:
    """What makes a vocoder's waveform in pieces: as one shot would, or with the cross-fades of CosyVoice 1 and 2.

    exact: where the released models cross-fade, wait for what is to come instead (some 0.4 s). compile: record what
    has a few sizes, which exact windows have not.
    """
    if vocoder.config.causal:
        return IncrementalVocoder(vocoder, compile)
    return WindowedVocoder(vocoder) if exact else FadingVocoder(vocoder, compile)


def flow_stage(flow: AnyFlow, storage: torch.dtype | None = None, compile: bool = False) -> FlowStage[Any]:
    """What makes a flow's mel in pieces.

    storage: the type that the past is kept in; None is that of the weights. compile: at fixed sizes, where pieces have
    any (CosyVoice 1's windows have none).
    """
    if isinstance(flow, RegulatedFlow):
        return WindowedFlow(flow)
    if isinstance(flow, UpsamplingFlow):
        return IncrementalUNetFlow(flow, storage=storage, compile=compile)
    return IncrementalFlow(flow, storage=storage, compile=compile)


def whole_flow(flow: AnyFlow) -> WholeFlow:
    """What makes a flow's mel in one go, under the full mask."""
    config = flow.config

    def noise(prompt_frames: int, tokens: int) -> Tensor:
        return start_noise(config, 0, prompt_frames + config.frames(tokens))

    return WholeFlow(flow, noise, flow.spk_embed_affine_layer.weight.device)


def schedule(flow: ChunkedFlowConfig | RegulatedFlowConfig, fades: bool) -> Schedule:
    """How a streamed request's tokens are cut.

    fades: a vocoder that cross-fades lets the cuts be heard, so it gets the hops that it was released with; others
    get the first sound sooner.
    """
    if isinstance(flow, RegulatedFlowConfig):
        return OverlapHops()
    if fades:
        return ChunkHops(flow.chunk_tokens, flow.pre_lookahead_len, hops=(1, 2, 4), as_released=True)
    if flow.full_mask_offline:  # what was released is given the prompt as it is, and says what it always said
        return ChunkHops(flow.chunk_tokens, flow.pre_lookahead_len)
    return ChunkHops(flow.chunk_tokens, flow.pre_lookahead_len, aligned=True, first=2)


def streaming_renderer(
    model: ModelFolder, vocoder: VocoderStage[Any], storage: torch.dtype | None = None, compile: bool = False
) -> Renderer[Any, Any]:
    """Renders chunk by chunk, so that a chunk costs a chunk; storage, compile: see flow_stage."""
    cuts = schedule(model.config.flow, isinstance(vocoder, FadingVocoder))
    return Renderer(flow_stage(model.flow, storage, compile), vocoder, cuts)


def whole_renderer(model: ModelFolder, vocoder: VocoderStage[Any]) -> Renderer[Any, Any] | None:
    """Renders all at once under the full mask, as released models do; None for models without that mask."""
    if not model.config.flow.full_mask_offline:
        return None
    return Renderer(whole_flow(model.flow), vocoder, Whole())
