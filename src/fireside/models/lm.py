"""The language model: text and speech ids in one sequence, speech ids out (CosyVoice 3's LM)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

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
    """A Qwen2 decoder with one embedding for speech and control ids, and a head without bias over them.

    Ids as in `layout.py`: >= 0 speech or control, ~t for the text id t.
    """

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.control = ControlIds.after(config.speech_vocab_size, config.num_control)
        self.llm = _Nest(_Nest(Qwen2Decoder(config)))
        self.speech_embedding = nn.Embedding(self.control.end, config.hidden_size)
        self.llm_decoder = nn.Linear(config.hidden_size, self.control.end, bias=False)

    @property
    def decoder(self) -> Qwen2Decoder:
        """The stack under its nested name."""
        decoder = self.llm.get_submodule("model.model")
        assert isinstance(decoder, Qwen2Decoder)
        return decoder

    def embed(self, ids: Tensor) -> Tensor:
        """Ids [...] -> embeddings [..., hidden]."""
        speech = self.speech_embedding(ids.clamp(min=0))
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
