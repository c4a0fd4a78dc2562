from __future__ import annotations

import pytest
import torch

from fireside.audio.features import MelSpectrogram, kaldi_fbank, slaney_filterbank, whisper_log_mel
from fireside.errors import AudioError
from fireside.models.config import MelConfig


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 0.1


def test_mel_has_one_frame_per_hop_and_follows_the_config():
    config = MelConfig(n_fft=512, hop_length=128, win_length=512, n_mels=40, sample_rate=16000)
    mel = MelSpectrogram.from_config(config)
    assert mel(noise(2, 128 * 9 + 5)).shape == (2, 40, 9)


def test_mel_modules_of_other_settings_do_not_disturb_each_other():
    audio = noise(1, 24000)
    alone = MelSpectrogram(fmax=8000.0)(audio)
    wide, narrow = MelSpectrogram(fmax=None), MelSpectrogram(fmax=8000.0)
    wide(audio)
    torch.testing.assert_close(narrow(audio), alone, rtol=0, atol=0)
    assert not torch.equal(wide(audio), alone)


def test_a_tone_lands_in_the_band_around_it():
    time = torch.arange(16000) / 16000
    tone = torch.sin(2 * torch.pi * 1000 * time)
    bank = torch.tensor(slaney_filterbank(16000, 400, 128))
    band = int(bank[:, round(1000 / 40)].argmax())
    assert abs(int(whisper_log_mel(tone).mean(-1).argmax()) - band) <= 1
    # Kaldi's band i is centred on mel 31.7 + (i + 1) * step.
    low, high = (1127 * torch.log1p(torch.tensor(f) / 700) for f in (20.0, 8000.0))
    centres = low + (high - low) / 81 * torch.arange(1, 81)
    expected = int((centres - 1127 * torch.log1p(torch.tensor(1000.0) / 700)).abs().argmin())
    assert abs(int(kaldi_fbank(tone).mean(0).argmax()) - expected) <= 1


def test_whisper_rows_do_not_depend_on_their_neighbours():
    quiet, loud = noise(1, 4000) * 1e-3, noise(1, 4000)
    both = whisper_log_mel(torch.cat([quiet, loud]))
    torch.testing.assert_close(both[0], whisper_log_mel(quiet)[0])
    assert both.shape == (2, 128, 25)


def test_fbank_counts_whole_frames_only_and_subtracts_the_mean():
    assert kaldi_fbank(noise(400)).shape == (1, 80)
    assert kaldi_fbank(noise(400 + 159)).shape == (1, 80)
    assert kaldi_fbank(noise(3, 400 + 160)).shape == (3, 2, 80)
    assert kaldi_fbank(noise(8000), subtract_mean=True).mean(0).abs().max() < 1e-4


def test_numpy_audio_is_welcome():
    audio = noise(1600)
    assert torch.equal(kaldi_fbank(audio.numpy()), kaldi_fbank(audio))
    assert torch.equal(whisper_log_mel(audio.numpy()), whisper_log_mel(audio))


@pytest.mark.parametrize(
    "compute",
    [
        lambda: MelSpectrogram()(noise(1, 720)),
        lambda: whisper_log_mel(noise(200)),
        lambda: kaldi_fbank(noise(399)),
    ],
)
def test_too_short_audio_is_a_clear_error(compute):
    with pytest.raises(AudioError, match="too short"):
        compute()


def test_filter_banks_cannot_be_changed_by_a_caller():
    with pytest.raises(ValueError, match="read-only"):
        slaney_filterbank(16000, 400, 80)[0, 0] = 1.0
