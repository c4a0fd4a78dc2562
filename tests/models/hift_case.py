"""What the vocoder's tests share."""

from __future__ import annotations

from fireside.models.config import VocoderConfig
from fireside.models.official_vocoder import official_vocoder


def vocoder_config(ctor: dict) -> VocoderConfig:
    """Our config from the original's constructor arguments; only the causal vocoder has a look-ahead to set."""
    arguments = {key: value for key, value in ctor.items() if key != "f0_cond_channels"}
    causal = ctor.get("conv_pre_look_right") is not None
    return official_vocoder(arguments, ctor["f0_cond_channels"], causal=causal)


def official_small(version: int, **changes) -> VocoderConfig:
    """CosyVoice 1, 2 or 3's vocoder, with few channels."""
    old = {"upsample_rates": (8, 8), "upsample_kernel_sizes": (16, 16)}
    old |= {"source_resblock_kernel_sizes": (7, 11), "source_resblock_dilation_sizes": ((1, 3, 5), (1, 3, 5))}
    arguments = {"sampling_rate": 22050 if version == 1 else 24000, "in_channels": 20, "base_channels": 32}
    arguments |= old if version == 1 else {}
    return official_vocoder(arguments, 24, causal=version == 3).model_copy(update=changes)
