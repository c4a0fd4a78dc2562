from __future__ import annotations

import io
import os
import struct

import numpy as np
import pytest
import soundfile

from fireside.audio.io import (
    AudioWriter,
    WavStream,
    check_writable,
    read_audio,
    to_int16,
    write_audio,
)
from fireside.errors import AudioError, OutputError, UsageError

RATE = 24000


def tone(seconds: float = 0.5, rate: int = RATE, hz: float = 300.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav_bytes(samples: np.ndarray, rate: int = RATE, **kwargs) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", **kwargs)
    return buffer.getvalue()


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg", "opus"])
def test_every_format_is_written_and_read_back(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    write_audio(path, tone(), RATE)
    recording = read_audio(path)
    assert recording.sample_rate in (RATE, 48000)  # Opus decodes at 48 kHz
    assert recording.seconds == pytest.approx(0.5, abs=0.11)  # mp3 pads to whole frames
    energy = float(np.sqrt(np.mean(recording.samples**2)))
    assert energy == pytest.approx(0.5 / np.sqrt(2), rel=0.12)


@pytest.mark.parametrize(("extension", "expected"), [("wav", ("WAV", "PCM_16")), ("opus", ("OGG", "OPUS"))])
def test_the_extension_decides_the_format(tmp_path, extension, expected):
    path = tmp_path / f"a.{extension.upper()}"
    write_audio(path, tone(), RATE)
    info = soundfile.info(str(path))
    assert (info.format, info.subtype) == expected


def test_opus_takes_a_rate_it_does_not_know(tmp_path):
    write_audio(tmp_path / "a.opus", tone(1.0, 22050), 22050)
    recording = read_audio(tmp_path / "a.opus")
    assert recording.seconds == pytest.approx(1.0, abs=0.02)
    spectrum = np.abs(np.fft.rfft(recording.samples))
    assert np.argmax(spectrum) / recording.seconds == pytest.approx(300, abs=3)


def test_pieces_written_before_a_break_are_kept(tmp_path):
    def interrupted():
        with AudioWriter(tmp_path / "a.wav", RATE) as writer:
            writer.write(tone(0.25))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_audio(tmp_path / "a.wav").seconds == pytest.approx(0.25)


def test_closing_twice_is_harmless(tmp_path):
    writer = AudioWriter(tmp_path / "a.flac", RATE)
    writer.write(tone())
    writer.close()
    writer.close()
    assert read_audio(tmp_path / "a.flac").complete


def test_channels_are_averaged_and_bytes_are_read():
    stereo = np.stack([tone(), np.zeros_like(tone())], axis=1)
    recording = read_audio(wav_bytes(stereo, subtype="FLOAT"))
    assert recording.samples.shape == tone().shape
    np.testing.assert_allclose(recording.samples, tone() / 2, atol=1e-6)
    assert recording.samples.dtype == np.float32


def test_decoding_is_bounded():
    data = wav_bytes(tone(2.0))
    cut = read_audio(data, max_seconds=0.5, cut=True)
    assert cut.seconds == 0.5
    assert not cut.complete
    with pytest.raises(AudioError, match=r"longer than 0\.5 s"):
        read_audio(data, max_seconds=0.5)
    assert read_audio(data, max_seconds=2.0).complete


def test_long_audio_is_read_block_by_block():
    samples = np.arange(700_000, dtype=np.float32) % 1000 / 1000
    recording = read_audio(wav_bytes(np.stack([samples] * 2, axis=1), subtype="FLOAT"))
    np.testing.assert_allclose(recording.samples, samples, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is empty"),
        (b"This is a letter, not a recording. " * 40, "not audio"),
        (wav_bytes(np.zeros(0, dtype=np.float32)), "holds no audio"),
        (wav_bytes(np.full(100, np.nan, dtype=np.float32), subtype="FLOAT"), "not numbers"),
    ],
)
@pytest.mark.parametrize("name", ["prompt.wav", "prompt.raw"])
def test_bad_files_are_clear_errors_that_name_the_file(tmp_path, data, problem, name):
    (tmp_path / name).write_bytes(data)
    if name.endswith(".raw") and problem not in ("is empty", "not audio"):
        problem = "not audio"  # a .raw file has no header to trust
    with pytest.raises(AudioError, match=problem) as caught:
        read_audio(tmp_path / name)
    assert name in str(caught.value)


def test_missing_files_folders_and_pipes(tmp_path):
    with pytest.raises(AudioError, match=r"There is no file .*nothing\.wav"):
        read_audio(tmp_path / "nothing.wav")
    with pytest.raises(AudioError, match="is a folder"):
        read_audio(tmp_path)
    reading, writing = os.pipe()
    os.write(writing, wav_bytes(tone(0.1)))
    os.close(writing)
    assert read_audio(f"/dev/fd/{reading}").seconds == pytest.approx(0.1)
    os.close(reading)


def test_a_truncated_file_is_a_clear_error(tmp_path):
    write_audio(tmp_path / "a.flac", tone(2.0) + 0.1 * np.random.default_rng(0).standard_normal(48000), RATE)
    whole = (tmp_path / "a.flac").read_bytes()
    with pytest.raises(AudioError, match=r"damaged|not audio"):
        read_audio(whole[: len(whole) // 2])


def test_int16_clips():
    np.testing.assert_array_equal(to_int16(np.array([0.0, 1.0, -1.0, 3.0, -3.0])), [0, 32767, -32767, 32767, -32767])


def test_the_wav_stream_is_playable_at_any_moment():
    stream = io.BytesIO()
    writer = WavStream(stream, RATE)
    assert len(stream.getvalue()) == 44  # a player can start before the first sample
    writer.write(tone(0.1))
    writer.write(tone(0.2))
    data = stream.getvalue()
    assert struct.unpack("<I", data[4:8])[0] == struct.unpack("<I", data[40:44])[0] == 0xFFFFFFFF
    recording = read_audio(data)
    assert recording.sample_rate == RATE
    np.testing.assert_allclose(recording.samples, np.concatenate([tone(0.1), tone(0.2)]), atol=1e-4)


def test_a_reader_that_goes_away_is_an_output_error():
    reading, writing = os.pipe()
    os.close(reading)
    with (
        pytest.raises(OutputError, match="closed by its reader"),
        os.fdopen(writing, "wb", buffering=0) as pipe,
    ):
        WavStream(pipe, RATE)


@pytest.mark.parametrize("name", ["hello", "hello.aac", "hello.txt", "hello.wav.bak"])
def test_unknown_extensions_are_refused_with_the_known_ones(tmp_path, name):
    for check in (check_writable, lambda path: write_audio(path, tone(), RATE)):
        with pytest.raises(UsageError, match=r"\.wav, \.flac, \.mp3, \.ogg, \.opus"):
            check(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_check_writable_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "new.wav")
    assert not (tmp_path / "new.wav").exists()
    (tmp_path / "old.wav").write_bytes(b"old")
    check_writable(tmp_path / "old.wav")
    assert (tmp_path / "old.wav").read_bytes() == b"old"


def test_unwritable_paths(tmp_path):
    with pytest.raises(OutputError, match=r"The folder .*nowhere does not exist"):
        check_writable(tmp_path / "nowhere" / "a.wav")
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_writable(tmp_path / "folder.wav")
    # Not even root can create a file here, unlike in a folder without write permission.
    with pytest.raises(OutputError, match="cannot be written"):
        check_writable("/proc/fireside.wav")
    with pytest.raises(OutputError, match="cannot be written"):
        write_audio("/proc/fireside.wav", tone(), RATE)
