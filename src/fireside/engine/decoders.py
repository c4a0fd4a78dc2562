"""From an LM to its decoder."""

from __future__ import annotations

import torch

from fireside.engine.decoder import Decoder
from fireside.engine.lm import LMDecoder
from fireside.engine.products import Weights
from fireside.engine.transformer_lm import TransformerLMDecoder
from fireside.models.lm import LM
from fireside.models.transformer_lm import TransformerLM


def make_decoder(
    lm: LM | TransformerLM,
    slots: int = 8,
    max_len: int = 2048,
    dtype: torch.dtype = torch.float32,
    weights: Weights = "float",
    compile: bool = False,
) -> Decoder:
    """The decoder that walks with this LM; see Decoder and LMDecoder for the options."""
    if isinstance(lm, TransformerLM):
        return TransformerLMDecoder(lm, slots, max_len, dtype=dtype, weights=weights, compile=compile)
    return LMDecoder(lm, slots, max_len, dtype=dtype, weights=weights, compile=compile)
