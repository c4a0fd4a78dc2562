"""CosyVoice 1's language model: encoded text and 50 Hz speech ids in one sequence, speech ids out.

    [sos] [speaker] encoded prompt text and text [task] speech (eos)

A text encoder and a decoder, both with relative positions. Parameter names are those of the released checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.models.config import TransformerLMConfig
from fireside.models.conformer import Encoder
from fireside.models.layout import IGNORE, ControlIds


@dataclass(frozen=True)
class SpokenText:
    """A training batch. text, speech: int64 [batch, length], padded on the right with any id; their lengths [batch];
    speaker: embeddings [batch, speaker_dim]."""

    text: Tensor
    text_lengths: Tensor
    speech: Tensor
    speech_lengths: Tensor
    speaker: Tensor


class TransformerLM(nn.Module):
    """Ids as in `layout.py`: >= 0 speech or control (sos and task behind the ids of the head), ~t for the text id t.

    Everything before the head is causal when both configured encoders have chunks of 1, as the released ones have.
    """

    def __init__(self, config: TransformerLMConfig) -> None:
        super().__init__()
        dim = config.decoder.dim
        self.config = config
        self.control = ControlIds.of(config)
        self.text_embedding = nn.Embedding(config.text_vocab_size, config.text_encoder.input_dim)
        self.text_encoder = Encoder(config.text_encoder)
        self.text_encoder_affine_layer = nn.Linear(config.text_encoder.dim, config.decoder.input_dim)
        self.llm_embedding = nn.Embedding(2, config.decoder.input_dim)
        self.speech_embedding = nn.Embedding(config.speech_vocab_size, config.decoder.input_dim)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_dim, config.decoder.input_dim)
        self.llm = Encoder(config.decoder)
        self.llm_decoder = nn.Linear(dim, self.control.end)

    def encode_text(self, ids: Tensor, valid: Tensor | None = None) -> Tensor:
        """Text ids [batch, length] (valid: bool, False where padded) -> what stands for them in the sequence."""
        return self.text_encoder_affine_layer(self.text_encoder(self.text_embedding(ids), valid))

    def speaker(self, embedding: Tensor) -> Tensor:
        """Speaker embedding [..., speaker_dim] of any length -> the position that stands for it."""
        affine = self.spk_embed_affine_layer
        return affine(F.normalize(embedding, dim=-1).to(affine.weight.dtype))

    def embed(self, ids: Sequence[int], speaker: Tensor | None = None) -> Tensor:
        """One sequence, or a part of it -> [positions, decoder's input_dim].

        speaker: embedding [speaker_dim] that takes a position behind the first id (sos), or None. A run of text ids
        is encoded as one text.
        """
        device = self.llm_embedding.weight.device
        parts: list[Tensor] = []
        for is_text, run in groupby(ids, key=lambda i: i < 0):
            index = torch.tensor(list(run), device=device)
            parts.append(self.encode_text(~index[None])[0] if is_text else self.embed_speech(index))
        x = torch.cat(parts)
        if speaker is None:
            return x
        return torch.cat((x[:1], self.speaker(speaker.to(device))[None], x[1:]))

    def embed_speech(self, ids: Tensor) -> Tensor:
        """Speech and control ids [n] -> [n, input_dim]."""
        own = ids >= self.control.end
        control = self.llm_embedding((ids - self.control.end).clamp(min=0))
        speech = self.speech_embedding(torch.where(own, 0, ids))
        return torch.where(own[:, None], control, speech)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Embedded sequences [batch, length, input_dim], padded on the right -> hidden states behind the last norm."""
        return self.llm(x, valid)

    def loss(self, batch: SpokenText, label_smoothing: float = 0.0) -> dict[str, Tensor]:
        """Cross entropy of each speech id, and of eos, after what stands before it.

        Returns `loss` and `accuracy` (scalars), and for inspection `logits` [batch, length, ids] and `targets`
        [batch, length], IGNORE where nothing is asked.
        """
        encoded = self.encode_text(batch.text, _valid(batch.text_lengths, batch.text.shape[1]))
        speakers = self.speaker(batch.speaker)
        sos, task = self.llm_embedding.weight.unbind()
        rows, targets = [], []
        for i, (text, speech) in enumerate(
            zip(batch.text_lengths.tolist(), batch.speech_lengths.tolist(), strict=True)
        ):
            said = batch.speech[i, :speech]
            head = torch.stack((sos, speakers[i]))
            rows.append(torch.cat((head, encoded[i, :text], task[None], self.speech_embedding(said))))
            unasked = said.new_full((2 + text,), IGNORE)
            targets.append(torch.cat((unasked, said, said.new_tensor([self.control.eos]))))
        lengths = torch.tensor([len(row) for row in rows], device=sos.device)
        x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        wanted = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORE)
        logits = self.llm_decoder(self(x, _valid(lengths, x.shape[1])))
        asked = wanted != IGNORE
        loss = F.cross_entropy(logits[asked], wanted[asked], label_smoothing=label_smoothing)
        accuracy = (logits.argmax(-1) == wanted)[asked].float().mean()
        return {"loss": loss, "accuracy": accuracy, "logits": logits, "targets": wanted}


def _valid(lengths: Tensor, longest: int) -> Tensor:
    """Lengths [batch] -> bool [batch, longest], True where a row is not padding."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]
