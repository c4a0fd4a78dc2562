"""The table of what an official `cosyvoice*.yaml` may name: each a record of its arguments, nothing that computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from fireside.models.config import MelConfig, VocoderConfig
from fireside.models.official_encoder import Arguments, ConformerEncoder, TransformerEncoder, UpsampleConformerEncoder
from fireside.models.official_flow import (
    CausalConditionalCFM,
    CausalConditionalDecoder,
    CausalMaskedDiffWithDiT,
    CausalMaskedDiffWithXvec,
    ConditionalCFM,
    ConditionalDecoder,
    DictConfig,
    DiT,
    InterpolateRegulator,
    MaskedDiffWithXvec,
    PreLookaheadLayer,
)
from fireside.models.official_lm import CosyVoice3LM, Qwen2Encoder, Qwen2LM, RasSampling, TransformerLM
from fireside.models.official_vocoder import official_vocoder


class F0Predictor(Arguments):
    """Both f0 predictors."""

    num_class: Literal[1] = 1
    in_channels: int
    cond_channels: int


class _AnyVocoder(BaseModel):
    """Checked by `official_vocoder`, argument by argument."""

    model_config = ConfigDict(extra="allow", frozen=True)

    f0_predictor: F0Predictor

    def _config(self, causal: bool) -> VocoderConfig:
        return official_vocoder(self.model_extra or {}, self.f0_predictor.cond_channels, causal=causal)


class HiFTGenerator(_AnyVocoder):
    """CosyVoice 1 and 2."""

    def config(self) -> VocoderConfig:
        """As ours."""
        return self._config(causal=False)


class CausalHiFTGenerator(_AnyVocoder):
    """CosyVoice 3."""

    def config(self) -> VocoderConfig:
        """As ours."""
        return self._config(causal=True)


class MelSpectrogram(Arguments):
    """`matcha.utils.audio.mel_spectrogram`."""

    n_fft: int
    num_mels: int
    sampling_rate: int
    hop_size: int
    win_size: int
    fmin: float = 0.0
    fmax: Annotated[float | None, BeforeValidator(lambda value: None if value == "None" else value)] = None
    center: Literal[False] = False

    def config(self) -> MelConfig:
        """As ours."""
        return MelConfig(
            sample_rate=self.sampling_rate,
            n_fft=self.n_fft,
            hop_length=self.hop_size,
            win_length=self.win_size,
            n_mels=self.num_mels,
            fmin=self.fmin,
            fmax=self.fmax,
        )


class TrainingOnly(BaseModel):
    """Something that speaking does not need; its arguments are not looked at."""

    model_config = ConfigDict(extra="ignore", frozen=True)


_PROCESSORS = (
    "parquet_opener", "tokenize", "filter", "resample", "truncate", "compute_fbank", "compute_whisper_fbank",
    "compute_f0", "parse_embedding", "shuffle", "sort", "batch", "padding", "individual_file_opener",
    "static_batch", "dynamic_batch",
)  # fmt: skip
_TRAINING = (
    "cosyvoice.hifigan.hifigan.HiFiGan",
    "cosyvoice.hifigan.discriminator.MultipleDiscriminator",
    "cosyvoice.hifigan.discriminator.MultiResolutionDiscriminator",
    "cosyvoice.hifigan.discriminator.MultiResSpecDiscriminator",
    "matcha.hifigan.models.MultiPeriodDiscriminator",
    "whisper.tokenizer.get_tokenizer",
    "cosyvoice.tokenizer.tokenizer.get_tokenizer",
    "cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer",
    "torchaudio.functional.compute_kaldi_pitch",
    *(f"cosyvoice.dataset.processor.{name}" for name in _PROCESSORS),
)
CLASSES: Mapping[str, type[BaseModel]] = {
    "cosyvoice.llm.llm.TransformerLM": TransformerLM,
    "cosyvoice.llm.llm.Qwen2LM": Qwen2LM,
    "cosyvoice.llm.llm.CosyVoice3LM": CosyVoice3LM,
    "cosyvoice.llm.llm.Qwen2Encoder": Qwen2Encoder,
    "cosyvoice.transformer.encoder.ConformerEncoder": ConformerEncoder,
    "cosyvoice.transformer.encoder.TransformerEncoder": TransformerEncoder,
    "cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder": UpsampleConformerEncoder,
    "cosyvoice.transformer.upsample_encoder.PreLookaheadLayer": PreLookaheadLayer,
    "cosyvoice.utils.common.ras_sampling": RasSampling,
    "cosyvoice.flow.flow.MaskedDiffWithXvec": MaskedDiffWithXvec,
    "cosyvoice.flow.flow.CausalMaskedDiffWithXvec": CausalMaskedDiffWithXvec,
    "cosyvoice.flow.flow.CausalMaskedDiffWithDiT": CausalMaskedDiffWithDiT,
    "cosyvoice.flow.flow_matching.ConditionalCFM": ConditionalCFM,
    "cosyvoice.flow.flow_matching.CausalConditionalCFM": CausalConditionalCFM,
    "cosyvoice.flow.length_regulator.InterpolateRegulator": InterpolateRegulator,
    "cosyvoice.flow.decoder.ConditionalDecoder": ConditionalDecoder,
    "cosyvoice.flow.decoder.CausalConditionalDecoder": CausalConditionalDecoder,
    "cosyvoice.flow.DiT.dit.DiT": DiT,
    "omegaconf.DictConfig": DictConfig,
    "cosyvoice.hifigan.generator.HiFTGenerator": HiFTGenerator,
    "cosyvoice.hifigan.generator.CausalHiFTGenerator": CausalHiFTGenerator,
    "cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor": F0Predictor,
    "cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor": F0Predictor,
    "matcha.utils.audio.mel_spectrogram": MelSpectrogram,
    "matcha.utils.audio.mel_spectrogram_without_norm": TrainingOnly,
    **dict.fromkeys(_TRAINING, TrainingOnly),
}
