"""Builds the flow of a golden case from the case's own sizes, and small random flows for other tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fireside.models.config import DiTConfig, FlowConfig
from fireside.models.flow import CausalFlow


def flow_config(ctor: Mapping[str, int], n_mels: int) -> FlowConfig:
    """The typed configuration behind a golden case's constructor record."""
    return FlowConfig(
        speech_vocab_size=ctor["vocab"],
        n_mels=n_mels,
        speaker_dim=ctor["spk_dim"],
        lookahead_channels=ctor["la_ch"],
        chunk_tokens=ctor["chunk"],
        dit=DiTConfig(
            dim=ctor["dim"],
            depth=ctor["depth"],
            heads=ctor["heads"],
            dim_head=ctor["dim_head"],
            ff_mult=ctor["ff_mult"],
        ),
    )


def load_flow(ctor: Mapping[str, int], weights: Mapping[str, Tensor]) -> CausalFlow:
    """A golden case's flow with its weights, loaded strictly under their official names."""
    flow = CausalFlow(flow_config(ctor, weights["decoder.estimator.proj_out.bias"].numel()))
    flow.load_state_dict(dict(weights), strict=True)
    return flow.eval()


def randomise(module: nn.Module, seed: int, spread: float = 0.05) -> None:
    """Give every zero-initialised parameter a random value, so that no path of the network is silent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))


def small_flow(seed: int = 0, **changes: object) -> CausalFlow:
    """A small flow with random weights and hearth's proportions; `changes` go to FlowConfig."""
    dit = DiTConfig(dim=32, depth=2, heads=2, dim_head=16, ff_mult=2, conv_pos_kernel=7, conv_pos_groups=4)
    fields: dict[str, object] = {
        "speech_vocab_size": 50,
        "n_mels": 20,
        "speaker_dim": 12,
        "lookahead_channels": 24,
        "chunk_tokens": 5,
        "dit": dit,
        "steps": 4,
        "full_mask_offline": False,
        "start_noise": "lazy",
        "mel_mean": -1.0,
        "mel_std": 2.0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = CausalFlow(FlowConfig.model_validate({**fields, **changes})).eval()
    randomise(flow, seed, 0.2)
    return flow.requires_grad_(False)
