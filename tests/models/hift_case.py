"""What the vocoder's tests share."""

from __future__ import annotations

from fireside.models.config import VocoderConfig


def vocoder_config(ctor: dict) -> VocoderConfig:
    """Our config from the original's constructor arguments."""
    ctor = dict(ctor)
    istft = ctor.pop("istft_params")
    return VocoderConfig(
        sample_rate=ctor.pop("sampling_rate"),
        n_mels=ctor.pop("in_channels"),
        f0_channels=ctor.pop("f0_cond_channels"),
        istft_n_fft=istft["n_fft"],
        istft_hop=istft["hop_len"],
        **ctor,
    )
