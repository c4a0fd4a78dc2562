"""Typed configuration of a model folder. Unknown keys are refused by name; every size of a network stands here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from fireside.errors import ConfigError


class Config(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplingConfig(Config):
    """Repetition-aware sampling: a nucleus draw, and a draw from everything when the token was seen lately.

    The drawn id is drawn again when it occurs at least `window * tau` times among the last `window` generated ids.
    """

    top_p: float = Field(default=0.8, gt=0, le=1)
    top_k: int = Field(default=25, ge=1)
    window: int = Field(default=10, ge=1)
    tau: float = Field(default=0.1, ge=0, description="above 1 no id is drawn again")


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
    mix_instruct_first: bool = Field(
        default=True, description="mix: an instruction stands behind sos as a whole, or opens the text (CosyVoice 2)"
    )
    min_block: int = 5
    lookahead: int = 1


class ProofreadConfig(Config):
    """How the speech of a block is checked before it is taken (hearth).

    It is said at most `tries` times (`first_tries` where somebody waits for a first sound, if that is fewer), and taken
    at once when it is understood at `good` nats a phone.
    """

    tries: int = Field(default=1, ge=1)
    first_tries: int = Field(default=1 << 16, ge=1)
    good: float = 0.3


class LMConfig(Config):
    """Qwen2 decoder over text tokens and 25 Hz speech tokens (hearth, CosyVoice 2 and 3).

    control, shared: control ids follow the speech ids in one embedding, sos = speech_vocab_size, then eos, task,
    fill (CosyVoice 3's order); separate: sos and task are the two rows of an embedding of their own, eos =
    speech_vocab_size and fill = speech_vocab_size + 2 (CosyVoice 2). head_bias: the head over speech and control
    ids has a bias.
    """

    kind: Literal["qwen2"] = "qwen2"
    control: Literal["shared", "separate"] = "shared"
    head_bias: bool = False
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
    max_silent_run: int = Field(
        default=0, ge=0, description="silent tokens in a row that are spoken, the rest left out; 0: all of them"
    )
    layout: LayoutConfig = LayoutConfig()
    sampling: SamplingConfig = SamplingConfig()
    proofread: ProofreadConfig = ProofreadConfig()


class EncoderConfig(Config):
    """Transformer encoder with relative positions: CosyVoice 1's text encoder and LM, the flow encoders of 1 and 2.

    block: which names the norms of a block carry. input_relu: ReLU behind the input layer. chunk: positions see
    their own chunk of so many positions and everything before it; 0 sees everything, 1 is causal.
    """

    input_dim: int = 512
    dim: int = 1024
    heads: int = 16
    ff_dim: int = 4096
    layers: int = 6
    block: Literal["conformer", "transformer"] = "conformer"
    activation: Literal["swish", "relu"] = "swish"
    input_relu: bool = False
    chunk: int = Field(default=0, ge=0)


class TransformerLMConfig(Config):
    """CosyVoice 1's LM: text encoder and decoder with relative positions over 50 Hz speech tokens.

    eos = speech_vocab_size; sos and task are the rows of an embedding of their own.
    """

    kind: Literal["transformer"] = "transformer"
    text_vocab_size: int = 51866
    speech_vocab_size: int = 4096
    speaker_dim: int = 192
    text_encoder: EncoderConfig = EncoderConfig(chunk=1)
    decoder: EncoderConfig = EncoderConfig(
        input_dim=1024, layers=14, block="transformer", activation="relu", input_relu=True, chunk=1
    )
    min_ratio: float = 2.0
    max_ratio: float = 20.0
    silent_tokens: tuple[int, ...] = ()
    max_silent_run: int = Field(default=0, ge=0)
    sampling: SamplingConfig = SamplingConfig()

    @property
    def layout(self) -> LayoutConfig:
        """All text, then all speech: the only way of this model."""
        return LayoutConfig(kind="plain")


class DiTConfig(Config):
    """Diffusion transformer that estimates the flow's velocity, frame by frame at mel_rate."""

    dim: int = 1024
    depth: int = 22
    heads: int = 16
    dim_head: int = 64
    ff_mult: int = 2
    conv_pos_kernel: int = 31
    conv_pos_groups: int = 16

    @property
    def modulations(self) -> int:
        """Scales, shifts and gates of all adaptive norms, each a vector of `dim`: 6 of a block, 2 behind the last."""
        return 6 * self.depth + 2


class UNetConfig(Config):
    """U-Net of residual convolutions and transformer blocks over mel frames, which estimates the flow's velocity.

    channels: a level's width each, from the top down; every level but the last halves the frame rate. causal:
    convolutions see the past only and every frame is normalised alone (CosyVoice 2), else group norms over time.
    """

    channels: tuple[int, ...] = Field(default=(256,), min_length=1)
    blocks: int = Field(default=4, description="transformer blocks behind every residual block")
    mid_blocks: int = Field(default=12, description="residual blocks at the bottom")
    heads: int = 8
    dim_head: int = 64
    causal: bool = True


class AnyFlowConfig(Config):
    """What every flow has: speech tokens to mel, from noise in `steps` Euler steps with guidance."""

    speech_vocab_size: int = 6561
    n_mels: int = 80
    speaker_dim: int = 192
    steps: int = 10
    cfg_rate: float = 0.7
    train_cfg_drop: float = 0.2
    sigma_min: float = 1e-6
    mel_mean: float = Field(default=0.0, description="subtracted from the natural-log mel before the flow; official: 0")
    mel_std: float = Field(default=1.0, gt=0, description="divides the natural-log mel before the flow; official: 1")
    full_mask_offline: bool = Field(default=True, description="one-shot synthesis uses the full mask (official models)")
    start_noise: Literal["official", "lazy"] = Field(default="official", description="see engine/noise.py")


class ChunkedFlowConfig(AnyFlowConfig):
    """A flow that can run chunk by chunk; `chunk_tokens` is the width of the chunk mask in speech tokens."""

    token_mel_ratio: int = 2
    pre_lookahead_len: int = 3
    chunk_tokens: int = 25
    calibrate: bool = Field(
        default=False,
        description="bring the mel to the levels of the recording that a voice is made of, see engine/calibration.py "
        "(hearth; official: false)",
    )

    @property
    def chunk_frames(self) -> int:
        """Width of the chunk mask in mel frames."""
        return self.chunk_tokens * self.token_mel_ratio

    def frames(self, tokens: int) -> int:
        """Mel frames of so many speech tokens."""
        return tokens * self.token_mel_ratio


class FlowConfig(ChunkedFlowConfig):
    """CosyVoice 3's flow and hearth's: a look-ahead layer and a diffusion transformer."""

    kind: Literal["dit"] = "dit"
    lookahead_channels: int = 1024
    dit: DiTConfig = DiTConfig()
    adapt: bool = Field(
        default=False,
        description="fit the biases of its adaptive norms to the recording that a voice is made of, see "
        "engine/adaptation.py (hearth; official: false)",
    )

    @model_validator(mode="after")
    def _adapts_as_a_whole(self) -> FlowConfig:
        if self.adapt and (self.full_mask_offline or not self.calibrate):
            raise ValueError("a flow that adapts to voices needs full_mask_offline: false and calibrate: true")
        return self


class UpsamplingFlowConfig(ChunkedFlowConfig):
    """CosyVoice 2's flow: an encoder that doubles the rate, and a causal U-Net.

    encoder: the blocks before the up-sampling; up_layers: those behind it, of the same sizes.
    """

    kind: Literal["upsampling"] = "upsampling"
    encoder: EncoderConfig = EncoderConfig(dim=512, heads=8, ff_dim=2048, chunk=25)
    up_layers: int = 4
    unet: UNetConfig = UNetConfig()

    @model_validator(mode="after")
    def _chunks_agree(self) -> UpsamplingFlowConfig:
        if self.token_mel_ratio != 2:
            raise ValueError("the encoder of an upsampling flow makes 2 mel frames of a token")
        if self.encoder.chunk != self.chunk_tokens:
            raise ValueError("chunk_tokens and the encoder's chunk must be equal")
        if not self.unet.causal or len(self.unet.channels) != 1:
            raise ValueError("an upsampling flow needs a causal U-Net of one level")
        return self


class RegulatedFlowConfig(AnyFlowConfig):
    """CosyVoice 1's flow: an encoder, a length regulator and a U-Net, all of which see the whole utterance.

    token_rate: speech tokens a second; sample_rate and hop_length: of the mel. The original draws fresh noise for every
    call, so none is official.
    """

    kind: Literal["regulated"] = "regulated"
    speech_vocab_size: int = 4096
    start_noise: Literal["official", "lazy"] = "lazy"
    token_rate: int = 50
    sample_rate: int = 22050
    hop_length: int = 256
    encoder: EncoderConfig = EncoderConfig(dim=512, heads=8, ff_dim=2048)
    regulator_layers: int = 4
    unet: UNetConfig = UNetConfig(channels=(256, 256), causal=False)

    def frames(self, tokens: int) -> int:
        """Mel frames of so many speech tokens."""
        return int(tokens / self.token_rate * self.sample_rate / self.hop_length)


class VocoderConfig(Config):
    """HiFT: mel to f0, harmonic source, and an ISTFT decoder. Names follow the official constructor.

    The defaults are CosyVoice 3's; `models/official_vocoder.py` says what CosyVoice 1 and 2 do otherwise. causal:
    looks at the past but for `conv_pre_look_right` frames (hearth, CosyVoice 3); else centred convolutions and
    transposed ones (CosyVoice 1 and 2).
    """

    causal: bool = True
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
    f0_float64: bool = Field(default=True, description="predict f0 in float64 at inference, as CosyVoice 3 does")
    fade_frames: int = Field(
        default=0, ge=0, description="frames that streamed chunks share and cross-fade, where not causal"
    )
    source_phase: Literal["frame", "line", "sample"] = Field(
        default="frame",
        description="the sines' phase is stepped once per mel frame (CosyVoice 3), drawn as straight lines between "
        "the frames' centres (CosyVoice 2), or summed up sample by sample (CosyVoice 1, hearth)",
    )
    source_band_limit: bool = Field(
        default=True, description="with source_phase sample: no harmonics above half the sample rate (official: false)"
    )
    source_random_start: bool = Field(
        default=False, description="overtones start at random phases (CosyVoice 1), or all sines at 0"
    )
    source_noise: Literal["uniform", "gaussian", "shared"] = Field(
        default="uniform",
        description="the source's noise: uniform in [0, 1) (CosyVoice 3), standard normal (CosyVoice 1, 2), or "
        "standard normal and the same for all harmonics (hearth, which has many)",
    )
    istft_phase: Literal["sine", "angle"] = Field(
        default="sine", description="the spectrum's phase: sine of the network's output (official), or itself"
    )
    source_gains: bool = Field(
        default=False,
        description="add the source's own spectrum, times gains that the network gives (hearth; official: false)",
    )

    @model_validator(mode="after")
    def _pieces_join(self) -> VocoderConfig:
        if self.causal and self.source_phase == "line":
            raise ValueError("a causal vocoder cannot draw the source's phase towards the frame that follows")
        return self

    @property
    def ahead(self) -> int:
        """Mel frames behind the last one asked for that the decoder must be given."""
        return self.conv_pre_look_right if self.causal else 0

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

    kind: Literal["fsq"] = "fsq"
    n_mels: int = 128
    dim: int = 256
    heads: int = 4
    layers_before: int = 4
    layers_after: int = 2
    ff_mult: int = 3
    conv_kernel: int = 15
    fsq_levels: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    ctc_vocab_size: int = 200


class OnnxTokenizerConfig(Config):
    """An official speech tokenizer, run by ONNX Runtime: Whisper log-mel to ids at `token_rate`.

    max_seconds: the longest recording it takes at once; longer ones go through it in pieces.
    """

    kind: Literal["onnx"] = "onnx"
    file: str = "speech_tokenizer_v2.onnx"
    n_mels: int = 128
    token_rate: Literal[25, 50] = 25
    max_seconds: float = Field(default=30.0, ge=10)


class SpeakerConfig(Config):
    """CAM++ speaker encoder: Kaldi fbank (16 kHz, 80 bins, mean-subtracted) to a 192-d embedding.

    The defaults are the sizes of 3D-Speaker's CAM++ (`campplus.onnx` of the official model folders).
    """

    kind: Literal["campplus"] = "campplus"
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


class OnnxSpeakerConfig(Config):
    """An official speaker encoder, run by ONNX Runtime."""

    kind: Literal["onnx"] = "onnx"
    file: str = "campplus.onnx"
    embedding_dim: int = 192


class MelConfig(Config):
    """Mel spectrogram of the flow and the vocoder."""

    sample_rate: int = 24000
    n_fft: int = 1920
    hop_length: int = 480
    win_length: int = 1920
    n_mels: int = 80
    fmin: float = 0.0
    fmax: float | None = None


def _variant(default: str) -> Discriminator:
    """Tells the variants of a part apart by `kind`; a part that does not say is of the default one."""

    def kind(value: Any) -> str:
        own = value.get("kind", default) if isinstance(value, dict) else getattr(value, "kind", default)
        return f"{_VARIANT}{own}"

    return Discriminator(kind)


_VARIANT = "kind:"
LMVariant = Annotated[
    Annotated[LMConfig, Tag("kind:qwen2")] | Annotated[TransformerLMConfig, Tag("kind:transformer")],
    _variant("qwen2"),
]
FlowVariant = Annotated[
    Annotated[FlowConfig, Tag("kind:dit")]
    | Annotated[UpsamplingFlowConfig, Tag("kind:upsampling")]
    | Annotated[RegulatedFlowConfig, Tag("kind:regulated")],
    _variant("dit"),
]
TokenizerVariant = Annotated[
    Annotated[TokenizerConfig, Tag("kind:fsq")] | Annotated[OnnxTokenizerConfig, Tag("kind:onnx")],
    _variant("fsq"),
]
SpeakerVariant = Annotated[
    Annotated[SpeakerConfig, Tag("kind:campplus")] | Annotated[OnnxSpeakerConfig, Tag("kind:onnx")],
    _variant("campplus"),
]

Mode = Literal["sft", "zero_shot", "cross_lingual", "instruct", "instruct2", "convert", "bistream"]
"""What a model can be asked for, in the original's words: sft, a named voice without a prompt; instruct, a style
told to a named voice (CosyVoice 1); instruct2, a style told to the voice of a recording."""


class ModelConfig(Config):
    """A whole model folder: `fireside.yaml`."""

    format: Literal[1] = 1
    name: str = "model"
    languages: tuple[str, ...] = ("en", "zh")
    frontend: Literal["phones", "cosyvoice1", "cosyvoice2", "cosyvoice3"] = "phones"
    modes: tuple[Mode, ...] = ("sft", "zero_shot", "cross_lingual", "instruct", "convert")
    default_voice: str = "default"
    join: Literal["reader", "plain"] = Field(
        default="reader", description="pieces of a text get a reader's pauses, or follow each other as they are made"
    )
    mel: MelConfig = MelConfig()
    lm: LMVariant = LMConfig()
    flow: FlowVariant = FlowConfig()
    vocoder: VocoderConfig = VocoderConfig()
    tokenizer: TokenizerVariant = TokenizerConfig()
    speaker: SpeakerVariant = SpeakerConfig()

    @property
    def token_rate(self) -> float:
        """Speech tokens per second of audio."""
        if isinstance(self.flow, RegulatedFlowConfig):
            return self.flow.token_rate
        return self.mel.sample_rate / self.mel.hop_length / self.flow.token_mel_ratio

    @model_validator(mode="after")
    def _parts_agree(self) -> ModelConfig:
        codes = self.flow.speech_vocab_size
        if isinstance(self.tokenizer, TokenizerConfig):
            codes = math.prod(self.tokenizer.fsq_levels)
        if not (self.lm.speech_vocab_size == self.flow.speech_vocab_size == codes):
            raise ValueError("lm, flow and tokenizer must agree on the number of speech tokens")
        if not self.mel.n_mels == self.flow.n_mels == self.vocoder.n_mels:
            raise ValueError("mel, flow and vocoder must agree on the number of mel bins")
        if self.mel.sample_rate != self.vocoder.sample_rate or self.mel.hop_length != self.vocoder.hop_length:
            raise ValueError("mel and vocoder must agree on the sample rate and the hop length")
        return self


def read_config(path: Path) -> ModelConfig:
    """Read `fireside.yaml`. Raises ConfigError that names the key and the problem."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return ModelConfig.model_validate(raw)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}; correct or remove it.") from error


def first_problem(error: ValidationError) -> str:
    """The first thing that a validation found wrong, as 'key: what'."""
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"] if not str(part).startswith(_VARIANT)]
    problem = first["msg"]
    if first["type"] == "extra_forbidden":
        problem = "unknown key"
    elif first["type"] == "union_tag_invalid":
        problem = f"unknown {first['ctx']['tag']}, not one of {first['ctx']['expected_tags']}".replace(_VARIANT, "")
    return f"{'.'.join(parts) or '(top level)'}: {problem}"
