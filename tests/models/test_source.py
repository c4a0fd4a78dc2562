"""The harmonic source: noise by index at any length, phase that carries over."""

from __future__ import annotations

import pytest
import torch

from fireside.models.config import VocoderConfig
from fireside.models.source import HarmonicSource, gaussian_noise, uniform_noise


def test_noise_is_a_function_of_the_index():
    whole = uniform_noise(7, 0, 1000, 9)
    pieces = [uniform_noise(7, start, 250, 9) for start in (0, 250, 500, 750)]
    assert torch.equal(torch.cat(pieces), whole)


def test_noise_is_uniform_and_independent():
    noise = uniform_noise(7, 0, 40000, 9).double()
    assert noise.min() >= 0
    assert noise.max() < 1
    assert (noise.mean(0) - 0.5).abs().max() < 0.01
    assert (noise.var(0) - 1 / 12).abs().max() < 0.002
    channels = torch.corrcoef(noise.T) - torch.eye(9)
    assert channels.abs().max() < 0.03
    for lag in (1, 2, 480):
        assert torch.corrcoef(torch.stack([noise[lag:, 0], noise[:-lag, 0]]))[0, 1].abs() < 0.03
    other = uniform_noise(8, 0, 40000, 9).double()
    assert torch.corrcoef(torch.stack([noise[:, 0], other[:, 0]]))[0, 1].abs() < 0.03
    high = uniform_noise(7 + (1 << 32), 0, 100, 9)
    assert not torch.equal(high, uniform_noise(7, 0, 100, 9))


def test_audio_longer_than_300_seconds():
    """Bug 21: the original's noise buffers end after 300 s."""
    config = VocoderConfig()
    source = HarmonicSource(config)
    start = 301 * config.sample_rate
    noise = uniform_noise(0, start, 2 * config.hop_length, source.harmonics)
    wave, _ = source(torch.tensor([[120.0, 0.0]]), noise[None])
    assert wave.shape == (1, 2 * config.hop_length)
    assert noise.std(0).min() > 0.2
    far = uniform_noise(0, 50 * 3600 * config.sample_rate, 2000, 1)
    assert 0.2 < far.std() < 0.35


@pytest.mark.parametrize("mode", ["frame", "sample"])
def test_phase_carries_over(mode):
    source = HarmonicSource(VocoderConfig(source_phase=mode))
    f0 = torch.tensor([[100.0, 0.0, 223.7, 410.1, 95.5, 0.0]])
    whole, end = source.sines(f0)
    first, phase = source.sines(f0[:, :2])
    second, phase = source.sines(f0[:, 2:], phase)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=2e-6, rtol=0)
    distance = (phase - end + 0.5) % 1 - 0.5
    assert distance.abs().max() < 1e-9


def test_sample_phase_is_a_sine_of_the_right_frequency():
    config = VocoderConfig(source_phase="sample")
    sines, _ = HarmonicSource(config).sines(torch.full((1, 50), 150.0))
    spectrum = torch.fft.rfft(sines[0].double(), dim=0).abs()  # one second: bins are Hz
    assert spectrum.argmax(0).tolist() == [150 * k for k in range(1, config.nb_harmonics + 2)]


def test_both_modes_agree_at_the_ends_of_frames():
    f0 = torch.tensor([[110.0, 180.0, 95.0]])
    by_frame, _ = HarmonicSource(VocoderConfig()).sines(f0)
    by_sample, _ = HarmonicSource(VocoderConfig(source_phase="sample")).sines(f0)
    hop = VocoderConfig().hop_length
    torch.testing.assert_close(by_frame[:, hop - 1 :: hop], by_sample[:, hop - 1 :: hop], atol=1e-5, rtol=0)


def test_gaussian_noise_is_normal_independent_and_a_function_of_the_index():
    noise = gaussian_noise(7, 0, 40000, 9)
    pieces = [gaussian_noise(7, start, 10000, 9) for start in range(0, 40000, 10000)]
    assert torch.equal(torch.cat(pieces), noise)
    assert noise.isfinite().all()
    noise = noise.double()
    assert noise.mean(0).abs().max() < 0.03
    assert (noise.std(0) - 1).abs().max() < 0.02
    assert (noise.pow(4).mean(0) - 3).abs().max() < 0.3
    assert (torch.corrcoef(noise.T) - torch.eye(9)).abs().max() < 0.03
    assert torch.corrcoef(torch.stack([noise[1:, 0], noise[:-1, 0]]))[0, 1].abs() < 0.03


def test_line_phase_is_the_interpolation_of_the_frames_phases():
    """As CosyVoice 2 computes it: phases per frame, interpolated to samples between the frames' centres."""
    config = VocoderConfig(causal=False, source_phase="line")
    source = HarmonicSource(config)
    f0 = torch.tensor([[110.0, 180.0, 0.0, 95.0]], dtype=torch.float64)
    number = torch.arange(1, source.harmonics + 1)
    ends = torch.cumsum(f0[..., None] * number / config.sample_rate, dim=1).mT * config.hop_length
    cycles = torch.nn.functional.interpolate(ends, scale_factor=config.hop_length, mode="linear").mT
    sines, phase = source.sines(f0)
    torch.testing.assert_close(sines, torch.sin(2 * torch.pi * cycles).float(), atol=2e-5, rtol=0)
    torch.testing.assert_close(phase, ends[..., -1] % 1.0)


def test_line_phase_in_pieces_needs_one_frame_to_each_side():
    source = HarmonicSource(VocoderConfig(causal=False, source_phase="line"))
    hop = source.frame_length
    f0 = torch.tensor([[100.0, 0.0, 223.7, 410.1, 95.5, 0.0]])
    whole, _ = source.sines(f0)
    _, ends = source.phases(f0)
    piece, _ = source.sines(f0[:, 1:5], ends[:, 0])
    torch.testing.assert_close(piece[:, hop:-hop], whole[:, 2 * hop : 4 * hop], atol=2e-5, rtol=0)


def test_band_limit_drops_what_would_alias():
    f0 = torch.full((1, 4), 3000.0)
    limited, _ = HarmonicSource(VocoderConfig(source_phase="sample")).sines(f0)
    full, _ = HarmonicSource(VocoderConfig(source_phase="sample", source_band_limit=False)).sines(f0)
    torch.testing.assert_close(limited[..., :3], full[..., :3])
    assert not limited[..., 3:].any()
    assert full[..., 4].std() > 0.5
