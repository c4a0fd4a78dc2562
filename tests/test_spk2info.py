"""Voices of the original's `spk2info.pt`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fireside.errors import VoiceError
from fireside.models.official import OfficialFolder, read_speakers
from fireside.spk2info import record_of, voices_of, write_spk2info


def zero_shot(tokens: int = 5, frames: int = 10) -> dict[str, torch.Tensor]:
    """What the original's add_zero_shot_spk keeps."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(tokens, dtype=torch.int32)[None]
    embedding = torch.randn(1, 192, generator=generator)
    return {
        "prompt_text": torch.tensor([[7, 8, 9]], dtype=torch.int32),
        "prompt_text_len": torch.tensor([3], dtype=torch.int32),
        "llm_prompt_speech_token": ids,
        "llm_prompt_speech_token_len": torch.tensor([tokens], dtype=torch.int32),
        "flow_prompt_speech_token": ids,
        "flow_prompt_speech_token_len": torch.tensor([tokens], dtype=torch.int32),
        "prompt_speech_feat": torch.randn(1, frames, 80, generator=generator),
        "prompt_speech_feat_len": torch.tensor([frames], dtype=torch.int32),
        "llm_embedding": embedding,
        "flow_embedding": embedding,
    }


def test_speakers_of_training(official_model) -> None:
    model = OfficialFolder(official_model(1))
    voices = voices_of(model.speakers, model.config.name)
    assert list(voices) == ["中文女", "英文男"]
    for name, voice in voices.items():
        assert voice.name == name
        assert voice.card.model == model.config.name
        assert len(voice.prompt_tokens) == len(voice.prompt_mel) == 0
        assert voice.prompt_mel.shape == (0, 80)
        assert np.array_equal(voice.embedding, model.speakers[name]["embedding"][0].numpy())


@pytest.mark.parametrize("frames", [10, 9])
def test_prompts_that_were_kept(frames: int) -> None:
    record = zero_shot(5, frames)
    voice = voices_of({"me": record}, "model")["me"]
    assert voice.card.words == ((7, 8, 9),)
    assert voice.card.word_ends == (5,)
    assert voice.prompt_tokens.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(voice.prompt_mel, record["prompt_speech_feat"][0].numpy())


def test_there_and_back(tmp_path: Path) -> None:
    """What we write is what the original wrote, key by key, in its types."""
    speakers = {"me": zero_shot(), "anna": {"embedding": torch.randn(1, 192)}}
    write_spk2info(
        tmp_path / "spk2info.pt", {name: record_of(voice) for name, voice in voices_of(speakers, "model").items()}
    )
    assert [file.name for file in tmp_path.iterdir()] == ["spk2info.pt"]
    again = read_speakers(tmp_path / "spk2info.pt")
    assert list(again) == list(speakers)
    for name, record in speakers.items():
        assert again[name].keys() == record.keys()
        for key, value in record.items():
            assert again[name][key].dtype == value.dtype, key
            assert torch.equal(again[name][key], value), key


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"llm_embedding": None, "flow_embedding": None}, "no embedding"),
        ({"flow_embedding": torch.zeros(1, 256)}, "does not fit"),
        ({"prompt_speech_feat": torch.zeros(1, 10, 128)}, "does not fit"),
        ({"flow_prompt_speech_token": torch.zeros(1, 0)}, "does not fit"),
    ],
)
def test_records_that_do_not_fit(change: dict[str, torch.Tensor | None], says: str) -> None:
    record = {key: value for key, value in {**zero_shot(), **change}.items() if value is not None}
    with pytest.raises(VoiceError, match=f"'me' .*{says}"):
        voices_of({"me": record}, "model")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(VoiceError, match="cannot be written"):
        write_spk2info(tmp_path / "nowhere" / "spk2info.pt", {})
