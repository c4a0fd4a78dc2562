"""The original's file of voices, `spk2info.pt`, from and to ours.

A voice there is a dictionary of tensors: `embedding` [1, 192] of a speaker the model was trained on (SFT), or the
inputs of a zero-shot request that were kept under a name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fireside.errors import VoiceError
from fireside.voices import EMBEDDING_DIM, Voice, VoiceCard

_EMBEDDINGS = ("embedding", "flow_embedding", "llm_embedding")


def voices_of(speakers: Mapping[str, Mapping[str, Tensor]], model: str, n_mels: int = 80) -> dict[str, Voice]:
    """Voices by name from what `spk2info.pt` holds (`OfficialFolder.speakers`), for the model of that name.

    The text ids of a prompt become one word that is spoken all through it. Raises VoiceError that names the voice
    whose record is incomplete or of the wrong shape.
    """
    return {name: _voice(name, record, model, n_mels) for name, record in speakers.items()}


def _voice(name: str, record: Mapping[str, Tensor], model: str, n_mels: int) -> Voice:
    embedding = next((record[key] for key in _EMBEDDINGS if key in record), None)
    if embedding is None:
        raise VoiceError(f"The voice '{name}' in spk2info.pt has no embedding: remove it, or get the file again.")
    tokens = record.get("flow_prompt_speech_token", torch.zeros(1, 0)).reshape(-1)
    mel = record.get("prompt_speech_feat", torch.zeros(1, 0, n_mels))
    text = record.get("prompt_text", torch.zeros(1, 0)).reshape(-1)
    if embedding.numel() != EMBEDDING_DIM or mel.shape[-1] != n_mels or (len(tokens) == 0) != (mel.shape[-2] == 0):
        raise VoiceError(f"The voice '{name}' in spk2info.pt does not fit the model: remove it, or get the file again.")
    words = (tuple(int(token) for token in text),) if len(text) and len(tokens) else ()
    return Voice(
        VoiceCard(name, model=model, words=words, word_ends=(len(tokens),) if words else ()),
        embedding=embedding.reshape(-1).float().numpy(),
        prompt_tokens=tokens.long().numpy(),
        prompt_mel=np.ascontiguousarray(mel.reshape(-1, n_mels).float().numpy()),
    )


def record_of(voice: Voice) -> dict[str, Tensor]:
    """A voice as the original keeps it: with a prompt the inputs of a zero-shot request, else its embedding."""
    embedding = torch.from_numpy(voice.embedding.astype(np.float32))[None]
    if not len(voice.prompt_tokens):
        return {"embedding": embedding}
    text = torch.tensor([[token for word in voice.card.words for token in word]], dtype=torch.int32)
    tokens = torch.from_numpy(voice.prompt_tokens.astype(np.int32))[None]
    mel = torch.from_numpy(voice.prompt_mel.astype(np.float32))[None]
    record = {
        "prompt_text": text,
        "llm_prompt_speech_token": tokens,
        "flow_prompt_speech_token": tokens,
        "prompt_speech_feat": mel,
    }
    lengths = {f"{key}_len": torch.tensor([value.shape[1]], dtype=torch.int32) for key, value in record.items()}
    return {**record, **lengths, "llm_embedding": embedding, "flow_embedding": embedding}


def write_spk2info(file: Path, records: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write records by name (`record_of`, `OfficialFolder.speakers`) so that the original reads them; whoever reads the
    file meanwhile sees the old one or the new one. Raises VoiceError when it cannot be written."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        torch.save({name: dict(record) for name, record in records.items()}, part)
        part.replace(file)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise VoiceError(f"The voices cannot be written to {file}: {error}.") from error
