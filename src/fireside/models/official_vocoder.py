"""From the arguments of the official HiFT constructors to our typed config.

`HiFTGenerator` is the vocoder of CosyVoice 1 and 2, `CausalHiFTGenerator` that of CosyVoice 3. What they do
differently follows from which of the two it is and, as in the original, from the sample rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fireside.errors import ConfigError
from fireside.models.config import VocoderConfig

_OLD_RATE = 22050  # CosyVoice 1
_RENAMED = {"sampling_rate": "sample_rate", "in_channels": "n_mels"}


def official_vocoder(arguments: Mapping[str, Any], f0_channels: int, *, causal: bool) -> VocoderConfig:
    """Our config of an official vocoder.

    arguments: what the YAML gives the generator, without `f0_predictor`, whose `cond_channels` is
    `f0_channels`. causal: whether it is the CausalHiFTGenerator. Raises ConfigError that names the argument.
    """
    given = {_RENAMED.get(name, name): value for name, value in arguments.items()}
    istft = given.pop("istft_params", {"n_fft": 16, "hop_len": 4})
    if not isinstance(istft, Mapping) or set(istft) != {"n_fft", "hop_len"}:
        raise ConfigError("The vocoder's istft_params must have n_fft and hop_len, and nothing else.")
    if not causal:
        given.pop("conv_pre_look_right", None)  # an argument of the causal one
        old = given.get("sample_rate") == _OLD_RATE
        given |= {
            "causal": False,
            "fade_frames": 20 if old else 8,
            "source_phase": "sample" if old else "line",
            "source_band_limit": False,
            "source_random_start": old,
            "source_noise": "gaussian",
        }
    given |= {"istft_n_fft": istft["n_fft"], "istft_hop": istft["hop_len"], "f0_channels": f0_channels}
    try:
        return VocoderConfig.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        problem = "is not known" if first["type"] == "extra_forbidden" else f"is wrong: {first['msg']}"
        raise ConfigError(f"The vocoder's argument {name} {problem}; is this a CosyVoice YAML?") from error
