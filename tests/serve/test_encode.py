"""Encoders: what streams, what is whole, and that pieces join."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from fireside.errors import UsageError
from fireside.serve.encode import FORMATS, Encoder

RATE = 24_000
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)


def pieces(encoder: Encoder, size: int) -> list[bytes]:
    return [encoder.encode(TONE[at : at + size]) for at in range(0, len(TONE), size)] + [encoder.finish()]


@pytest.mark.parametrize("name", FORMATS)
def test_pieces_of_any_size_are_one_file(name: str) -> None:
    small = b"".join(pieces(Encoder(name, RATE), 777))
    large = b"".join(pieces(Encoder(name, RATE), len(TONE)))
    if name != "opus":  # whose pages end where its pieces end
        assert small == large
    if name == "pcm":
        heard = np.frombuffer(small, "<i2") / 32767.0
    else:
        heard, rate = soundfile.read(io.BytesIO(small))
        assert rate == RATE
    if name in ("wav", "pcm", "flac"):
        np.testing.assert_allclose(heard, TONE, atol=1e-4)
    else:
        assert 2.0 <= len(heard) / RATE < 2.1


@pytest.mark.parametrize("name", ["mp3", "opus", "wav", "pcm"])
def test_bytes_come_with_the_first_quarter_second(name: str) -> None:
    encoder = Encoder(name, RATE)
    first = encoder.encode(TONE[: RATE // 4])
    if name == "pcm":
        assert len(first) == RATE // 2
        return
    # What has come is playable by itself: most of the quarter second is heard.
    heard, _ = soundfile.read(io.BytesIO(first))
    assert len(heard) >= 0.15 * RATE
    assert np.abs(heard).max() > 0.25


def test_flac_waits_for_its_length() -> None:
    encoder = Encoder("flac", RATE)
    *first, last = pieces(encoder, RATE)
    assert encoder.whole
    assert first == [b"", b""]
    assert soundfile.info(io.BytesIO(last)).frames == len(TONE)


def test_whole_wav_knows_its_length() -> None:
    data = b"".join(pieces(Encoder("wav", RATE, whole=True), 1000))
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert int.from_bytes(data[40:44], "little") == 2 * len(TONE)


def test_rates_that_a_format_lacks_are_converted() -> None:
    assert Encoder("opus", 22_050).sample_rate == 24_000
    assert Encoder("mp3", 22_050).sample_rate == 22_050
    encoder = Encoder("pcm", 22_050, out_rate=24_000)
    data = b"".join(pieces(encoder, 5000))
    assert encoder.media_type == "audio/pcm;rate=24000"
    assert len(data) / 2 == pytest.approx(len(TONE) * 24_000 / 22_050, abs=2)


def test_loud_samples_are_clipped_not_wrapped() -> None:
    assert np.frombuffer(Encoder("pcm", RATE).encode(np.array([2.0, -2.0])), "<i2").tolist() == [32767, -32767]


@pytest.mark.parametrize("name", ["aac", "midi"])
def test_other_formats_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        Encoder(name, RATE)
