"""Builds the flows of CosyVoice 1's and 2's golden cases from the cases' own sizes, and small random ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from flow_cases import randomise
from torch import Tensor

from fireside.models.config import EncoderConfig, RegulatedFlowConfig, UNetConfig, UpsamplingFlowConfig
from fireside.models.unet_flow import RegulatedFlow, UpsamplingFlow


def unet_config(ctor: Mapping[str, Any], causal: bool) -> UNetConfig:
    """The typed configuration behind a golden case's constructor record, whichever names it uses."""
    return UNetConfig(
        channels=tuple(ctor["channels"]),
        blocks=ctor["n_blocks"],
        mid_blocks=ctor.get("num_mid_blocks", ctor.get("mid")),
        heads=ctor.get("num_heads", ctor.get("heads")),
        dim_head=ctor.get("attention_head_dim", ctor.get("head_dim")),
        causal=causal,
    )


def upsampling_config(ctor: Mapping[str, Any]) -> UpsamplingFlowConfig:
    """CosyVoice 2's flow at a case's sizes."""
    dim = ctor["enc_dim"]
    encoder = EncoderConfig(
        input_dim=dim,
        dim=dim,
        heads=ctor["enc_heads"],
        ff_dim=ctor["enc_linear"],
        layers=ctor["enc_blocks"],
        chunk=ctor["chunk"],
    )
    return UpsamplingFlowConfig(
        speech_vocab_size=ctor["vocab"],
        speaker_dim=ctor["spk_dim"],
        chunk_tokens=ctor["chunk"],
        encoder=encoder,
        unet=unet_config(ctor, causal=True),
    )


def regulated_config(ctor: Mapping[str, Any]) -> RegulatedFlowConfig:
    """CosyVoice 1's flow at a case's sizes."""
    dim = ctor["fenc"]
    encoder = EncoderConfig(input_dim=dim, dim=dim, heads=ctor["fheads"], ff_dim=ctor["flin"], layers=ctor["fblocks"])
    return RegulatedFlowConfig(
        speech_vocab_size=ctor["fvocab"],
        speaker_dim=ctor["spk_dim"],
        encoder=encoder,
        unet=unet_config(ctor, causal=False),
    )


def load_upsampling(ctor: Mapping[str, Any], weights: Mapping[str, Tensor]) -> UpsamplingFlow:
    """A CosyVoice 2 case's flow with its weights, loaded strictly under their official names."""
    flow = UpsamplingFlow(upsampling_config(ctor))
    flow.load_state_dict(dict(weights), strict=True)
    return flow.eval()


def load_regulated(ctor: Mapping[str, Any], weights: Mapping[str, Tensor]) -> RegulatedFlow:
    """A CosyVoice 1 case's flow with its weights, loaded strictly under their official names."""
    flow = RegulatedFlow(regulated_config(ctor))
    flow.load_state_dict(dict(weights), strict=True)
    return flow.eval()


def small_upsampling_flow(seed: int = 0, **changes: object) -> UpsamplingFlow:
    """A small CosyVoice 2 flow with random weights; `changes` go to its configuration."""
    fields: dict[str, object] = {
        "speech_vocab_size": 50,
        "n_mels": 20,
        "speaker_dim": 12,
        "chunk_tokens": 5,
        "encoder": EncoderConfig(input_dim=24, dim=24, heads=2, ff_dim=32, layers=2, chunk=5),
        "up_layers": 1,
        "unet": UNetConfig(channels=(32,), blocks=1, mid_blocks=1, heads=2, dim_head=16),
        "steps": 2,
        "start_noise": "lazy",
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = UpsamplingFlow(UpsamplingFlowConfig.model_validate({**fields, **changes})).eval()
    randomise(flow, seed, 0.2)
    return flow.requires_grad_(False)


def small_regulated_flow(seed: int = 0, **changes: object) -> RegulatedFlow:
    """A small CosyVoice 1 flow with random weights; `changes` go to its configuration."""
    fields: dict[str, object] = {
        "speech_vocab_size": 50,
        "n_mels": 16,
        "speaker_dim": 12,
        "encoder": EncoderConfig(input_dim=24, dim=24, heads=2, ff_dim=32, layers=1),
        "unet": UNetConfig(channels=(16, 16), blocks=1, mid_blocks=1, heads=2, dim_head=8, causal=False),
        "steps": 3,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = RegulatedFlow(RegulatedFlowConfig.model_validate({**fields, **changes})).eval()
    randomise(flow, seed, 0.2)
    return flow.requires_grad_(False)
