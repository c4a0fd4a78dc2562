"""Arguments of the flows that official YAMLs name, as our configuration."""

from __future__ import annotations

from typing import Any, Literal

from fireside.errors import ConfigError
from fireside.models.config import (
    DiTConfig,
    FlowConfig,
    MelConfig,
    RegulatedFlowConfig,
    UNetConfig,
    UpsamplingFlowConfig,
)
from fireside.models.official_encoder import Arguments, ConformerEncoder, UpsampleConformerEncoder

CHUNK_TOKENS = 25
"""Of a file that does not say it."""


class CfmParameters(Arguments):
    """Of flow matching."""

    sigma_min: float = 1e-6
    solver: Literal["euler"]
    t_scheduler: Literal["cosine"]
    training_cfg_rate: float
    inference_cfg_rate: float
    reg_loss_type: str = "l1"


class DictConfig(Arguments):
    """`omegaconf.DictConfig`."""

    content: CfmParameters


class ConditionalDecoder(Arguments):
    """U-Net. `causal` is how the first CosyVoice 2 said CausalConditionalDecoder."""

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    dropout: float = 0.0
    attention_head_dim: int
    n_blocks: int
    num_mid_blocks: int
    num_heads: int
    act_fn: Literal["gelu"]
    causal: bool = False

    def config(self) -> UNetConfig:
        """As ours."""
        return UNetConfig(
            channels=self.channels,
            blocks=self.n_blocks,
            mid_blocks=self.num_mid_blocks,
            heads=self.num_heads,
            dim_head=self.attention_head_dim,
            causal=self.causal,
        )


class CausalConditionalDecoder(ConditionalDecoder):
    """U-Net of CosyVoice 2; static_chunk_size in mel frames."""

    causal: Literal[True] = True
    static_chunk_size: int = 0
    num_decoding_left_chunks: int = -1  # the original does not use it


class DiT(Arguments):
    """Estimator of CosyVoice 3; static_chunk_size in mel frames."""

    dim: int
    depth: int
    heads: int
    dim_head: int
    ff_mult: int
    mel_dim: int
    mu_dim: int
    spk_dim: int
    out_channels: int
    dropout: float = 0.0
    static_chunk_size: int
    num_decoding_left_chunks: int = -1


class _Cfm(Arguments):
    in_channels: int
    n_spks: Literal[1]
    spk_emb_dim: int
    cfm_params: DictConfig


class ConditionalCFM(_Cfm):
    """Solver of CosyVoice 1."""

    estimator: ConditionalDecoder


class CausalConditionalCFM(_Cfm):
    """Solver of CosyVoice 2 and 3."""

    estimator: DiT | CausalConditionalDecoder | ConditionalDecoder


class InterpolateRegulator(Arguments):
    """Length regulator of CosyVoice 1: a layer for each ratio."""

    channels: int
    sampling_ratios: tuple[Literal[1], ...]
    out_channels: int | None = None
    groups: Literal[1] = 1


class PreLookaheadLayer(Arguments):
    """Of CosyVoice 3's flow."""

    in_channels: int
    channels: int
    pre_lookahead_len: int


class _AnyFlowArguments(Arguments):
    input_size: int
    output_size: int
    spk_embed_dim: int
    output_type: Literal["mel"]
    vocab_size: int
    input_frame_rate: Literal[25, 50]
    only_mask_loss: bool = True

    def _shared(self, cfm: CfmParameters) -> dict[str, Any]:
        return {
            "speech_vocab_size": self.vocab_size,
            "n_mels": self.output_size,
            "speaker_dim": self.spk_embed_dim,
            "cfg_rate": cfm.inference_cfg_rate,
            "train_cfg_drop": cfm.training_cfg_rate,
            "sigma_min": cfm.sigma_min,
        }


class MaskedDiffWithXvec(_AnyFlowArguments):
    """CosyVoice 1."""

    encoder: ConformerEncoder
    length_regulator: InterpolateRegulator
    decoder: ConditionalCFM

    def config(self, mel: MelConfig) -> RegulatedFlowConfig:
        """As ours."""
        return RegulatedFlowConfig(
            **self._shared(self.decoder.cfm_params.content),
            token_rate=self.input_frame_rate,
            sample_rate=mel.sample_rate,
            hop_length=mel.hop_length,
            encoder=self.encoder.config(),
            regulator_layers=len(self.length_regulator.sampling_ratios),
            unet=self.decoder.estimator.config(),
        )


class CausalMaskedDiffWithXvec(_AnyFlowArguments):
    """CosyVoice 2."""

    token_mel_ratio: int = 2
    pre_lookahead_len: int = 3
    encoder: UpsampleConformerEncoder
    decoder: CausalConditionalCFM

    def config(self) -> UpsamplingFlowConfig:
        """As ours."""
        unet = self.decoder.estimator
        if isinstance(unet, DiT):
            raise ConfigError("CosyVoice 2's flow has a U-Net, not a DiT; get the YAML again.")
        chunk = self.encoder.static_chunk_size
        if not chunk and isinstance(unet, CausalConditionalDecoder):
            chunk = unet.static_chunk_size // self.token_mel_ratio
        chunk = chunk or CHUNK_TOKENS
        return UpsamplingFlowConfig(
            **self._shared(self.decoder.cfm_params.content),
            token_mel_ratio=self.token_mel_ratio,
            pre_lookahead_len=self.pre_lookahead_len,
            chunk_tokens=chunk,
            encoder=self.encoder.config().model_copy(update={"chunk": chunk}),
            unet=unet.config(),
        )


class CausalMaskedDiffWithDiT(_AnyFlowArguments):
    """CosyVoice 3."""

    token_mel_ratio: int
    pre_lookahead_len: int
    pre_lookahead_layer: PreLookaheadLayer
    decoder: CausalConditionalCFM

    def config(self) -> FlowConfig:
        """As ours."""
        dit = self.decoder.estimator
        if not isinstance(dit, DiT):
            raise ConfigError("CosyVoice 3's flow has a DiT, not a U-Net; get the YAML again.")
        return FlowConfig(
            **self._shared(self.decoder.cfm_params.content),
            token_mel_ratio=self.token_mel_ratio,
            pre_lookahead_len=self.pre_lookahead_len,
            lookahead_channels=self.pre_lookahead_layer.channels,
            chunk_tokens=dit.static_chunk_size // self.token_mel_ratio,
            dit=DiTConfig(dim=dit.dim, depth=dit.depth, heads=dit.heads, dim_head=dit.dim_head, ff_mult=dit.ff_mult),
        )
