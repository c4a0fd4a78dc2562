"""The ONNX files of official folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from fireside.audio.features import kaldi_fbank
from fireside.errors import AudioError, ModelError
from fireside.models.config import OnnxSpeakerConfig, OnnxTokenizerConfig
from fireside.models.onnx_parts import OnnxSpeaker, OnnxTokenizer

RATES = {1: 50, 2: 25}


@pytest.fixture(params=[1, 2])
def tokenizer(request: pytest.FixtureRequest, official_model) -> OnnxTokenizer:
    """The tokenizer of a version, and another token rate each."""
    version = request.param
    file = official_model(version) / f"speech_tokenizer_v{version}.onnx"
    return OnnxTokenizer(file, OnnxTokenizerConfig(file=file.name, token_rate=RATES[version]))


def log_mel(frames: int) -> torch.Tensor:
    return torch.randn(1, 128, frames, generator=torch.Generator().manual_seed(frames))


def whole(tokenizer: OnnxTokenizer, features: torch.Tensor) -> np.ndarray:
    """What the network gives for a recording in one piece, however long."""
    session = onnxruntime.InferenceSession(str(tokenizer.file))
    names = [entry.name for entry in session.get_inputs()]
    length = np.array([features.shape[2]], np.int32)
    return session.run(None, {names[0]: features.numpy(), names[1]: length})[0].reshape(-1)


@pytest.mark.parametrize("frames", [4, 5, 101, 2999, 3000])
def test_a_prompt_goes_through_at_once(tokenizer: OnnxTokenizer, frames: int) -> None:
    got = tokenizer.encode(log_mel(frames))
    assert got.dtype == torch.int64
    assert got.tolist() == [whole(tokenizer, log_mel(frames)).tolist()]


@pytest.mark.parametrize("frames", [3001, 3003, 3200, 5599, 5600, 5604, 9001])
def test_longer_ones_in_windows(tokenizer: OnnxTokenizer, frames: int) -> None:
    """The stand-in sees a few frames only, so windows that overlap give just what the whole gives."""
    got = tokenizer.encode(log_mel(frames))
    assert got.tolist() == [whole(tokenizer, log_mel(frames)).tolist()]


def test_windows_are_no_longer_than_the_network_takes(
    tokenizer: OnnxTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    encode = tokenizer._encode

    def watched(features: np.ndarray) -> np.ndarray:
        lengths.append(features.shape[2])
        return encode(features)

    monkeypatch.setattr(tokenizer, "_encode", watched)
    tokenizer.encode(log_mel(9001))
    assert max(lengths) == 3000
    assert min(lengths) > 400, "the last window has more than what it shares"


def test_too_short(tokenizer: OnnxTokenizer) -> None:
    with pytest.raises(AudioError, match="too short"):
        tokenizer.encode(log_mel(1))


def test_rows_of_the_speaker_encoder_are_independent(official_model) -> None:
    speaker = OnnxSpeaker(official_model(2) / "campplus.onnx", OnnxSpeakerConfig())
    features = torch.randn(3, 50, 80, generator=torch.Generator().manual_seed(0))
    got = speaker(features)
    assert got.shape == (3, 192)
    for row, one in zip(got, features, strict=True):
        torch.testing.assert_close(row, speaker(one[None])[0], atol=0, rtol=0)


def test_the_real_speaker_encoder(shared: Path) -> None:
    """The network that official folders ship: another level of the same sound is the same voice."""
    speaker = OnnxSpeaker(shared / "models" / "campplus.onnx", OnnxSpeakerConfig())
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0)) * 0.1
    loud, soft = (speaker(kaldi_fbank(noise * gain, subtract_mean=True)[None])[0] for gain in (1.0, 0.5))
    assert loud.shape == (192,)
    assert torch.cosine_similarity(loud, soft, dim=0) > 0.999


def test_another_embedding_size(official_model) -> None:
    speaker = OnnxSpeaker(official_model(2) / "campplus.onnx", OnnxSpeakerConfig(embedding_dim=256))
    with pytest.raises(ModelError, match="256 numbers"):
        speaker(torch.zeros(1, 50, 80))


def test_another_number_of_mels(official_model) -> None:
    file = official_model(2) / "speech_tokenizer_v2.onnx"
    with pytest.raises(ModelError, match="not a speech tokenizer"):
        OnnxTokenizer(file, OnnxTokenizerConfig(n_mels=80))
