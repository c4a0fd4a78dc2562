"""Typed configuration of a model folder. Unknown keys are refused by name; every size of a network stands here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fireside.errors import ConfigError


class Config(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplingConfig(Config):
    """Repetition-aware sampling: a nucleus draw, and a draw from everything when the token was seen lately.

    The drawn id is drawn again when it occurs at least `window * tau` times among the last `window` generated ids.
    """

    top_p: float = 0.8
    top_k: int = 25
    window: int = 10
    tau: float = 0.1


class LayoutConfig(Config):
    """How text and speech share the LM's sequence.

    plain: all text, then all speech. mix: `text` text tokens, then `speech` speech tokens, in turn (CosyVoice 2 and
    3 while text streams in). block: whole words of at least `min_block` text tokens, each followed by its own
    speech, the text `lookahead` blocks ahead (hearth).
    """

    kind: Literal["plain", "block"] = "plain"
    mix_text: int = 5
    mix_speech: int = 15
    mix_min_ratio: float = 3.0
    min_block: int = 5
    lookahead: int = 1


class LMConfig(Config):
    """Qwen2 decoder over text tokens and 25 Hz speech tokens, with one embedding for speech and control ids.

    Control ids follow the speech ids: sos = speech_vocab_size, then eos, task, fill (CosyVoice 3's order).
    """

    hidden_size: int = 896
    num_layers: int = 24
    num_heads: int = 14
    num_kv_heads: int = 2
    intermediate_size: int = 4864
    text_vocab_size: int = 151936
    speech_vocab_size: int = 6561
    num_control: int = 200
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    min_ratio: float = 2.0
    max_ratio: float = 20.0
    silent_tokens: tuple[int, ...] = Field(default=(), description="speech tokens that are silence or breath")
    layout: LayoutConfig = LayoutConfig()
    sampling: SamplingConfig = SamplingConfig()


class DiTConfig(Config):
    """Diffusion transformer that estimates the flow's velocity, frame by frame at mel_rate."""

    dim: int = 1024
    depth: int = 22
    heads: int = 16
    dim_head: int = 64
    ff_mult: int = 2
    conv_pos_kernel: int = 31
    conv_pos_groups: int = 16


class FlowConfig(Config):
    """Speech tokens to mel by flow matching; `chunk_tokens` is the width of the chunk mask in speech tokens."""

    speech_vocab_size: int = 6561
    n_mels: int = 80
    speaker_dim: int = 192
    token_mel_ratio: int = 2
    pre_lookahead_len: int = 3
    lookahead_channels: int = 1024
    chunk_tokens: int = 25
    dit: DiTConfig = DiTConfig()
    steps: int = 10
    cfg_rate: float = 0.7
    train_cfg_drop: float = 0.2
    sigma_min: float = 1e-6
    full_mask_offline: bool = Field(default=True, description="one-shot synthesis uses the full mask (official models)")
    start_noise: Literal["official", "lazy"] = Field(default="official", description="see engine/noise.py")
    mel_mean: float = Field(default=0.0, description="subtracted from the natural-log mel before the flow; official: 0")
    mel_std: float = Field(default=1.0, gt=0, description="divides the natural-log mel before the flow; official: 1")

    @property
    def chunk_frames(self) -> int:
        """Width of the chunk mask in mel frames."""
        return self.chunk_tokens * self.token_mel_ratio


class VocoderConfig(Config):
    """Causal HiFT: mel to f0, harmonic source, and an ISTFT decoder. Names follow the official constructor."""

    sample_rate: int = 24000
    n_mels: int = 80
    base_channels: int = 512
    nb_harmonics: int = 8
    nsf_alpha: float = 0.1
    nsf_sigma: float = 0.003
    nsf_voiced_threshold: float = 10.0
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernel_sizes: tuple[int, ...] = (16, 11, 7)
    istft_n_fft: int = 16
    istft_hop: int = 4
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    source_resblock_kernel_sizes: tuple[int, ...] = (7, 7, 11)
    source_resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    lrelu_slope: float = 0.1
    audio_limit: float = 0.99
    conv_pre_look_right: int = 4
    f0_channels: int = 512
    f0_float64: bool = Field(default=True, description="predict f0 in float64 at inference (official models)")
    source_phase: Literal["frame", "sample"] = Field(
        default="frame", description="the sines' phase moves once per mel frame (official) or at every sample"
    )
    istft_phase: Literal["sine", "angle"] = Field(
        default="sine", description="the spectrum's phase: sine of the network's output (official), or itself"
    )

    @property
    def hop_length(self) -> int:
        """Samples per mel frame."""
        return math.prod(self.upsample_rates) * self.istft_hop


class DiscriminatorConfig(Config):
    """Discriminators of vocoder training, at the official sizes: periods of the waveform, and spectrograms."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    n_ffts: tuple[int, ...] = (1024, 2048, 512)
    hops: tuple[int, ...] = (120, 240, 50)
    win_lengths: tuple[int, ...] = (600, 1200, 240)
    spectrum_channels: int = 32
    log_magnitude: bool = Field(
        default=False, description="judge log magnitudes, where quiet high bands count too (official: linear)"
    )


class TokenizerConfig(Config):
    """FSQ speech tokenizer: Whisper log-mel (16 kHz, 128 bins, 100 Hz) to 25 Hz ids, with a phone CTC head."""

    n_mels: int = 128
    dim: int = 256
    heads: int = 4
    layers_before: int = 4
    layers_after: int = 2
    ff_mult: int = 3
    conv_kernel: int = 15
    fsq_levels: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    ctc_vocab_size: int = 200


class SpeakerConfig(Config):
    """CAM++ speaker encoder: Kaldi fbank (16 kHz, 80 bins, mean-subtracted) to a 192-d embedding.

    The defaults are the sizes of 3D-Speaker's CAM++ (`campplus.onnx` of the official model folders).
    """

    feat_dim: int = 80
    embedding_dim: int = 192
    growth_rate: int = 32
    bn_size: int = Field(default=4, description="channels of a dense layer's bottleneck, as a multiple of growth_rate")
    init_channels: int = 128
    head_channels: int = 32
    head_blocks: tuple[int, ...] = Field(default=(2, 2), description="residual blocks per stage; each halves the bins")
    block_layers: tuple[int, ...] = (12, 24, 16)
    block_dilations: tuple[int, ...] = (1, 2, 2)
    context_frames: int = Field(
        default=100, description="frames (after the stride of 2) per segment of the mask's context"
    )


class MelConfig(Config):
    """Mel spectrogram of the flow and the vocoder."""

    sample_rate: int = 24000
    n_fft: int = 1920
    hop_length: int = 480
    win_length: int = 1920
    n_mels: int = 80
    fmin: float = 0.0
    fmax: float | None = None


class ModelConfig(Config):
    """A whole model folder: `fireside.yaml`."""

    format: Literal[1] = 1
    name: str = "model"
    languages: tuple[str, ...] = ("en", "zh")
    frontend: Literal["phones"] = "phones"
    default_voice: str = "default"
    mel: MelConfig = MelConfig()
    lm: LMConfig = LMConfig()
    flow: FlowConfig = FlowConfig()
    vocoder: VocoderConfig = VocoderConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    speaker: SpeakerConfig = SpeakerConfig()

    @model_validator(mode="after")
    def _parts_agree(self) -> ModelConfig:
        codes = 1
        for level in self.tokenizer.fsq_levels:
            codes *= level
        if not (self.lm.speech_vocab_size == self.flow.speech_vocab_size == codes):
            raise ValueError("lm, flow and tokenizer must agree on the number of speech tokens")
        return self


def read_config(path: Path) -> ModelConfig:
    """Read `fireside.yaml`. Raises ConfigError that names the key and the problem."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return ModelConfig.model_validate(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        problem = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise ConfigError(f"{path}: {key}: {problem}; correct or remove it.") from error
