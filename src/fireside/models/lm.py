"""The language model: text and speech ids in one sequence, speech ids out (hearth's, CosyVoice 2's and 3's LM)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.errors import ModelError
from fireside.models.config import LMConfig
from fireside.models.layout import ControlIds
from fireside.models.qwen2 import Drop, Qwen2Decoder

UNUSED = ("llm.model.lm_head.weight",)
"""In the released checkpoints, tied to the text embedding and never used."""


class _Nest(nn.Module):
    """A level of the released names, `llm.model.model`: it only holds what is below."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class LM(nn.Module):
    """A Qwen2 decoder with an embedding for speech and control ids, and a head over them.

    Ids as in `layout.py`: >= 0 speech or control, ~t for the text id t.
    """

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.control = ControlIds.of(config)
        self.llm = _Nest(_Nest(Qwen2Decoder(config)))
        self.speech_embedding = nn.Embedding(self.control.end, config.hidden_size)
        self.llm_embedding = nn.Embedding(2, config.hidden_size) if config.control == "separate" else None
        self.llm_decoder = nn.Linear(config.hidden_size, self.control.end, bias=config.head_bias)

    @property
    def decoder(self) -> Qwen2Decoder:
        """The stack under its nested name."""
        decoder = self.llm.get_submodule("model.model")
        assert isinstance(decoder, Qwen2Decoder)
        return decoder

    def speech_table(self) -> Tensor:
        """The rows of the ids >= 0: speech, control, and what has an embedding of its own behind them."""
        if self.llm_embedding is None:
            return self.speech_embedding.weight
        return torch.cat((self.speech_embedding.weight, self.llm_embedding.weight))

    def embed(self, ids: Tensor) -> Tensor:
        """Ids [...] -> embeddings [..., hidden]."""
        speech = F.embedding(ids.clamp(min=0), self.speech_table())
        text = self.decoder.embed_tokens((~ids).clamp(min=0))
        return torch.where((ids < 0)[..., None], text, speech)

    def forward(self, ids: Tensor, drop: Drop | None = None) -> Tensor:
        """Ids [batch, length], padded on the right with any id -> hidden states after the final norm."""
        return self.decoder(self.embed(ids), drop)

    def load_released(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict strictly by our names, which are the released ones; the unused text head is
        dropped.

        Raises ModelError that names missing, unknown or mis-shaped tensors.
        """
        kept = {name: value for name, value in state.items() if name not in UNUSED}
        try:
            self.load_state_dict(kept)
        except RuntimeError as error:
            raise ModelError(f"These weights do not fit the LM's configuration: {error}") from error
