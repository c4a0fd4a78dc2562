"""Objectives of the vocoder."""

from __future__ import annotations

import torch

from fireside.train.vocoder_losses import (
    SpectralDistance,
    discriminator_loss,
    generator_loss,
    relativistic_loss,
)


def test_relativistic_loss_of_an_empty_selection_is_zero():
    """Bug 17: the original gives NaN when no score lies below the median difference."""
    scores = torch.linspace(-1, 1, 8, requires_grad=True)
    loss = relativistic_loss([scores + 0.25], [scores])  # every difference is the same
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_relativistic_loss_by_hand():
    a, b = torch.tensor([0.0, 0.1, 0.5]), torch.zeros(3)
    # median 0.1; below it only the first: (0 - 0.1)^2
    torch.testing.assert_close(relativistic_loss([a], [b]), torch.tensor(0.01))
    # far below: truncated at tau
    torch.testing.assert_close(relativistic_loss([10 * a], [b], tau=0.04), torch.tensor(0.04))


def test_least_squares_targets():
    real, fake = [torch.ones(3)], [torch.zeros(3)]
    assert discriminator_loss(real, fake) == 0
    assert discriminator_loss(fake, real) == 2
    assert generator_loss(real) == 0
    assert generator_loss(fake) == 1


def test_spectral_distance():
    distance = SpectralDistance(24000, (512, 256), (20, 10))
    wave, other = torch.randn(2, 4800), torch.randn(2, 4800)
    assert all(value == 0 for value in distance(wave, wave).values())
    near, far = distance(wave, 0.9 * wave), distance(wave, other)
    assert set(near) == {"mel", "log", "linear", "texture"}
    assert all(0 < near[name] < far[name] for name in ("mel", "log", "linear"))
    assert distance(wave, other, [256])["mel"] != distance(wave, other, [512])["mel"]


def test_renderings_may_differ_where_speech_is_noise():
    """In voiced frames two different renderings only lower the distance above 4 kHz."""
    torch.manual_seed(0)
    distance = SpectralDistance(24000, (512,), (20,))
    target, first, second = (torch.randn(4, 9600) for _ in range(3))
    unvoiced, voiced = torch.zeros(4, 20), torch.ones(4, 20)
    free = distance(first, target, second=second)
    for name, value in distance(first, target, second=second, voiced=unvoiced).items():
        torch.testing.assert_close(value, free[name])
    bound = distance(first, target, second=second, voiced=voiced)
    same = distance(first, target, second=first, voiced=voiced)
    for name in ("mel", "log", "linear"):
        assert free[name] < bound[name] < same[name]


def test_energy_distance_prefers_noise_to_its_average():
    """Two fresh draws of the target's noise beat one signal given twice, which plain distances do not see."""
    torch.manual_seed(0)
    distance = SpectralDistance(24000, (512, 256), (20, 10))
    target, first, second = (torch.randn(8, 4800) for _ in range(3))
    tone = torch.sin(torch.arange(4800) * 0.9).expand(8, -1)
    alive = distance(first, target, second=second)
    frozen = distance(first, target, second=first)
    tonal = distance(tone, target, second=tone)
    for name in ("log", "linear"):
        assert alive[name] < frozen[name]
        assert alive[name] < tonal[name]
        torch.testing.assert_close(frozen[name], distance(first, target)[name])


def test_texture_sees_how_rough_a_spectrum_is_and_not_where():
    """Harmonics at other places have the same texture; half of their height has not."""
    time = torch.arange(24000) / 24000

    def voice(f0: float, floor: float) -> torch.Tensor:
        torch.manual_seed(int(f0))
        buzz = sum(torch.sin(2 * torch.pi * f0 * k * time) for k in range(1, 40))
        return (0.05 * buzz + floor * torch.randn(24000))[None]

    distance = SpectralDistance(24000, (2048,), (128,))
    target = voice(200, 0.01)
    moved, flat = distance(voice(206, 0.01), target), distance(voice(200, 0.1), target)
    assert moved["texture"] < 0.4 * flat["texture"]
    assert moved["log"] > 1  # which distances of bins do see
