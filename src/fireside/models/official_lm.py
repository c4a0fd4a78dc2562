"""Arguments of the language models that official YAMLs name, as our configuration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fireside.errors import ConfigError
from fireside.models.config import LayoutConfig, LMConfig, SamplingConfig, TransformerLMConfig
from fireside.models.official_encoder import Arguments, ConformerEncoder, TransformerEncoder

COSYVOICE3_SILENT = (1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323)
"""Silent and breath tokens of CosyVoice 3; so many in a row are spoken:"""
COSYVOICE3_SILENT_RUN = 5

V2_CONTROL = 3
"""Control ids of CosyVoice 2's head: eos, an unused one, fill."""
V3_CONTROL = 200


class RasSampling(Arguments):
    """`cosyvoice.utils.common.ras_sampling`."""

    top_p: float = 0.8
    top_k: int = 25
    win_size: int = 10
    tau_r: float = 0.1

    def config(self) -> SamplingConfig:
        """As ours."""
        return SamplingConfig(top_p=self.top_p, top_k=self.top_k, window=self.win_size, tau=self.tau_r)


class _AnyLM(Arguments):
    llm_input_size: int
    llm_output_size: int
    speech_token_size: int
    length_normalized_loss: bool = True
    lsm_weight: float = 0.0
    sampling: RasSampling = RasSampling()


class TransformerLM(_AnyLM):
    """CosyVoice 1."""

    text_encoder_input_size: int
    text_token_size: int
    spk_embed_dim: int = 192
    text_encoder: ConformerEncoder
    llm: TransformerEncoder

    def config(self) -> TransformerLMConfig:
        """As ours."""
        if self.text_encoder.input_size != self.text_encoder_input_size or self.llm.input_size != self.llm_input_size:
            raise ConfigError("The LM's sizes and those of its encoders differ; get the YAML again.")
        return TransformerLMConfig(
            text_vocab_size=self.text_token_size,
            speech_vocab_size=self.speech_token_size,
            speaker_dim=self.spk_embed_dim,
            text_encoder=self.text_encoder.config(),
            decoder=self.llm.config(),
            sampling=self.sampling.config(),
        )


class Qwen2Encoder(Arguments):
    """The backbone; its sizes stand in the `config.json` of CosyVoice-BlankEN."""

    pretrain_path: str


class Qwen2Sizes(BaseModel):
    """What is needed of a Qwen2 `config.json`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_type: Literal["qwen2"]
    hidden_act: Literal["silu"] = "silu"
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    num_key_value_heads: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    vocab_size: int
    use_sliding_window: Literal[False] = False


class Qwen2LM(_AnyLM):
    """CosyVoice 2."""

    mix_ratio: tuple[int, int] = (5, 15)
    llm: Qwen2Encoder

    def config(self, sizes: Qwen2Sizes) -> LMConfig:
        """As ours."""
        return self._config(sizes, False, control="separate", head_bias=True, num_control=V2_CONTROL)

    def _config(self, sizes: Qwen2Sizes, instruct_first: bool, **differences: Any) -> LMConfig:
        if sizes.hidden_size != self.llm_input_size or sizes.hidden_size != self.llm_output_size:
            raise ConfigError("CosyVoice-BlankEN/config.json is of another size than the YAML's LM: get both again.")
        config = LMConfig(
            hidden_size=sizes.hidden_size,
            num_layers=sizes.num_hidden_layers,
            num_heads=sizes.num_attention_heads,
            num_kv_heads=sizes.num_key_value_heads,
            intermediate_size=sizes.intermediate_size,
            text_vocab_size=sizes.vocab_size,
            speech_vocab_size=self.speech_token_size,
            rope_theta=sizes.rope_theta,
            rms_norm_eps=sizes.rms_norm_eps,
            sampling=self.sampling.config(),
        )
        layout = LayoutConfig(
            mix_text=self.mix_ratio[0], mix_speech=self.mix_ratio[1], mix_instruct_first=instruct_first
        )
        return config.model_copy(update={**differences, "layout": layout})


class CosyVoice3LM(Qwen2LM):
    """CosyVoice 3."""

    def config(self, sizes: Qwen2Sizes) -> LMConfig:
        """As ours."""
        silent = {"silent_tokens": COSYVOICE3_SILENT, "max_silent_run": COSYVOICE3_SILENT_RUN}
        return self._config(sizes, True, num_control=V3_CONTROL, **silent)
