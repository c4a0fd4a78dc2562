"""The vocoder in pieces makes what the whole makes."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from fireside.engine.vocoder import IncrementalVocoder
from fireside.errors import ConfigError
from fireside.models.config import VocoderConfig
from fireside.models.hift import HiFT
from fireside.train.vocoder import HEARTH

OFFICIAL_SHAPE = VocoderConfig(base_channels=32, f0_channels=24, n_mels=20)
HEARTH_SHAPE = HEARTH.model_copy(update={"base_channels": 32, "f0_channels": 24, "n_mels": 20, "nb_harmonics": 8})


def build(config: VocoderConfig) -> HiFT:
    """A network with lively weights: f0 between voiced and unvoiced, audio well above rounding."""
    torch.manual_seed(1)
    model = HiFT(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "alpha" not in name and parameter.dim() == 1:
                parameter.normal_(0, 0.1)
        if config.source_gains:  # as trained: well below 1
            model.conv_post.bias[config.istft_n_fft + 2 :] -= 3
        classifier = model.f0_predictor.classifier  # centre its output on 0 Hz, spread it by 40 Hz
        classifier.bias.fill_(1000.0)
        outputs = model.predict_f0(mel_of(60, model)[None])
        classifier.weight.mul_(40.0 / outputs.std())
        classifier.bias.copy_((1000.0 - outputs.mean()) * 40.0 / outputs.std())
    return model.for_inference()


@pytest.fixture(scope="module", params=[OFFICIAL_SHAPE, HEARTH_SHAPE], ids=["official", "hearth"])
def model(request) -> HiFT:
    return build(request.param)


def mel_of(frames: int, model: HiFT, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(model.config.n_mels, frames, generator=generator)


def split(frames: int, seed: int) -> list[int]:
    """Sizes that sum to `frames`: many of 1, some of 0, some large."""
    rng, sizes = random.Random(seed), []
    while sum(sizes) < frames:
        sizes.append(min(rng.choice([0, 1, 1, 1, 2, 3, 7, 15]), frames - sum(sizes)))
    return sizes


def in_pieces(
    model: HiFT,
    mel: Tensor,
    sizes: list[int],
    seed: int = 0,
    source: Tensor | None = None,
    late: bool = False,
) -> Tensor:
    vocoder = IncrementalVocoder(model)
    state = vocoder.start(seed)
    hop, pieces, at = model.config.hop_length, [], 0
    calls = [*sizes, 0] if late else sizes
    for i, size in enumerate(calls):
        given = None if source is None else [source[at * hop : (at + size) * hop]]
        pieces += vocoder.append([state], [mel[:, at : at + size]], [i == len(calls) - 1], given)
        at += size
    return torch.cat(pieces)


def snr(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    error = (got - expected).double().square().sum().clamp(min=1e-30)
    return float(10 * torch.log10(expected.double().square().sum() / error))


def test_the_test_model_speaks(model):
    """Voiced and unvoiced frames occur, and the audio is neither silent nor all clipped."""
    with torch.no_grad():
        wav, f0, _ = model(mel_of(60, model)[None])
    voiced = (f0 > model.config.nsf_voiced_threshold).float().mean()
    assert 0.2 < voiced < 0.99
    assert wav.std() > 0.003
    assert (wav.abs() < model.config.audio_limit).float().mean() > 0.9


@pytest.mark.parametrize("chunking", range(4))
def test_joined_chunks_equal_one_shot_with_given_source(model, chunking):
    mel, hop = mel_of(53, model), model.config.hop_length
    source = torch.rand(53 * hop, generator=torch.Generator().manual_seed(3)) - 0.5
    with torch.no_grad():
        whole = model.decode(mel[None], source[None])[0]
    assert snr(in_pieces(model, mel, split(53, chunking), source=source), whole) > 80


@pytest.mark.parametrize("chunking", range(4))
def test_joined_chunks_equal_one_shot(model, chunking):
    """The whole chain: f0, phase and noise carry over too."""
    mel = mel_of(53, model)
    with torch.no_grad():
        whole = model(mel[None], seed=5)[0][0]
    late = chunking % 2 == 1  # the end is announced after the last frame
    assert snr(in_pieces(model, mel, split(53, chunking), seed=5, late=late), whole) > 80


@pytest.mark.parametrize("sizes", [[1], [2], [4], [5], [0, 3], [1, 1, 1, 1, 1, 1], [30, 1]], ids=str)
def test_short_requests(model, sizes):
    mel = mel_of(sum(sizes), model)
    with torch.no_grad():
        whole = model(mel[None], seed=5)[0][0]
    assert snr(in_pieces(model, mel, sizes, seed=5), whole) > 80


def test_no_frames_make_no_samples(model):
    assert in_pieces(model, mel_of(0, model), [0, 0]).shape == (0,)


def test_a_chunk_is_audible_as_soon_as_its_look_ahead_is_there(model):
    """All but the look-ahead frames and less than a window's overlap come out at once."""
    vocoder = IncrementalVocoder(model)
    frames = 12
    (wav,) = vocoder.append([vocoder.start()], [mel_of(frames, model)], [False])
    expected = (frames - model.look_right) * model.config.hop_length
    assert expected - model.stft.n_fft < len(wav) <= expected


def test_rows_are_independent(model):
    """Requests advance together, at different places, with the audio that each has alone."""
    vocoder = IncrementalVocoder(model)
    mels = [mel_of(20, model, 1), mel_of(31, model, 2)]
    alone = [in_pieces(model, m, [len(m[0])], seed=i) for i, m in enumerate(mels)]
    states = [vocoder.start(seed=i) for i in range(2)]
    a = vocoder.append(states[:1], [mels[0][:, :9]], [False])[0]
    b = vocoder.append(states, [mels[0][:, 9:], mels[1][:, :6]], [True, False])
    c = vocoder.append(states[1:], [mels[1][:, 6:]], [True])[0]
    assert snr(torch.cat([a, b[0]]), alone[0]) > 80
    assert snr(torch.cat([b[1], c]), alone[1]) > 80


def test_state_does_not_grow(model):
    vocoder = IncrementalVocoder(model)
    state = vocoder.start()
    sizes = []
    for i in range(6):
        vocoder.append([state], [mel_of(8, model, i)], [False])
        sizes.append(state.nbytes)
    assert sizes[1:] == [sizes[1]] * 5
    assert sizes[1] < 600_000


def test_seed_changes_the_noise_only_where_asked(model):
    mel = mel_of(12, model)
    same = in_pieces(model, mel, [12], seed=1)
    assert torch.equal(same, in_pieces(model, mel, [12], seed=1))
    assert not torch.equal(same, in_pieces(model, mel, [12], seed=2))


def test_a_finished_request_takes_no_more(model):
    vocoder = IncrementalVocoder(model)
    state = vocoder.start()
    vocoder.append([state], [mel_of(6, model)], [True])
    with pytest.raises(ValueError, match="already final"):
        vocoder.append([state], [mel_of(6, model)], [False])


def test_too_little_look_ahead_is_refused():
    with pytest.raises(ConfigError, match="conv_pre_look_right"):
        IncrementalVocoder(build(OFFICIAL_SHAPE.model_copy(update={"conv_pre_look_right": 2})))
