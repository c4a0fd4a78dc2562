"""Arguments of the encoders that official YAMLs name, as our configuration.

A choice that no released model makes (another input layer, another activation) is refused by name rather than
computed wrongly; so it is in all records of constructor arguments (`official_lm`, `official_flow`, `official_classes`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from fireside.models.config import EncoderConfig


class Arguments(BaseModel):
    """Arguments of a constructor; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Dropouts(Arguments):
    """Probabilities of training, which change nothing at inference."""

    dropout_rate: float = 0.0
    positional_dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0


class _RelativeEncoder(_Dropouts):
    """What the encoders share."""

    input_size: int
    output_size: int
    attention_heads: int
    linear_units: int
    num_blocks: int
    pos_enc_layer_type: Literal["rel_pos_espnet"]
    selfattention_layer_type: Literal["rel_selfattn"]
    normalize_before: Literal[True] = True
    static_chunk_size: int = 0
    use_dynamic_chunk: bool = False
    use_dynamic_left_chunk: bool = False
    gradient_checkpointing: bool = False

    def _config(self, block: Literal["conformer", "transformer"], chunk: int) -> EncoderConfig:
        relu = block == "transformer"
        return EncoderConfig(
            input_dim=self.input_size,
            dim=self.output_size,
            heads=self.attention_heads,
            ff_dim=self.linear_units,
            layers=self.num_blocks,
            block=block,
            activation="relu" if relu else "swish",
            input_relu=relu,
            chunk=chunk,
        )


class ConformerEncoder(_RelativeEncoder):
    """Text encoder of CosyVoice 1, flow encoder of CosyVoice 1."""

    input_layer: Literal["linear"]
    use_cnn_module: Literal[False]
    macaron_style: Literal[False]

    def config(self) -> EncoderConfig:
        """As ours."""
        return self._config("conformer", self.static_chunk_size)


class UpsampleConformerEncoder(ConformerEncoder):
    """Flow encoder of CosyVoice 2."""


class TransformerEncoder(_RelativeEncoder):
    """LM of CosyVoice 1."""

    input_layer: Literal["linear_legacy"]

    def config(self) -> EncoderConfig:
        """As ours."""
        return self._config("transformer", self.static_chunk_size)
