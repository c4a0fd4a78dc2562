"""The vocoders of CosyVoice 1 and 2 in pieces: exact with windows, as released with cross-fades."""

from __future__ import annotations

import pytest
import torch
from hift_case import official_small
from test_vocoder import build, mel_of, snr, split
from torch import Tensor

from fireside.engine.fade import Overlap
from fireside.engine.fading_vocoder import FadingVocoder
from fireside.engine.stages import vocoder_stage
from fireside.engine.vocoder import IncrementalVocoder
from fireside.engine.windowed_vocoder import WindowedVocoder
from fireside.errors import ConfigError
from fireside.models.hift import HiFT

FRAMES = 75
KINDS = [FadingVocoder, WindowedVocoder]


@pytest.fixture(scope="module", params=[1, 2], ids=["v1", "v2"])
def model(request) -> HiFT:
    return build(official_small(request.param))


def in_pieces(vocoder, mel: Tensor, sizes: list[int], seed: int | None = 5, late: bool = False) -> list[Tensor]:
    state, pieces, at = vocoder.start(seed), [], 0
    calls = [*sizes, 0] if late else sizes
    for i, size in enumerate(calls):
        pieces += vocoder.append([state], [mel[:, at : at + size]], [i == len(calls) - 1])
        at += size
    return pieces


def whole(model: HiFT, mel: Tensor) -> Tensor:
    with torch.no_grad():
        return model(mel[None], seed=5)[0][0]


@pytest.mark.parametrize("chunking", range(2))
def test_windows_join_to_the_one_shot_audio(model, chunking):
    mel = mel_of(FRAMES, model)
    pieces = in_pieces(WindowedVocoder(model), mel, split(FRAMES, chunking), late=chunking == 1)
    assert snr(torch.cat(pieces), whole(model, mel)) > 80


@pytest.mark.parametrize("sizes", [[1], [0, 3], [30, 1], [28, 28]], ids=str)
def test_windows_of_short_requests(model, sizes):
    mel = mel_of(sum(sizes), model)
    assert snr(torch.cat(in_pieces(WindowedVocoder(model), mel, sizes)), whole(model, mel)) > 80


def test_windows_hold_back_what_they_must_and_no_more(model):
    (wave,) = WindowedVocoder(model).append([WindowedVocoder(model).start()], [mel_of(40, model)], [False])
    assert len(wave) == (40 - model.look_right) * model.config.hop_length


def test_fading_gives_every_sample_once(model):
    """Chunks of any size, even below the cached stretch, join to `hop_length` samples per frame."""
    mel = mel_of(FRAMES, model)
    for sizes, late in ([25, 25, 25], False), ([3, 40, 1, 31], False), ([50, 25], True):
        joined = torch.cat(in_pieces(FadingVocoder(model), mel, sizes, late=late))
        assert joined.shape == (FRAMES * model.config.hop_length,)


def test_fading_in_one_piece_is_the_one_shot_audio(model):
    mel = mel_of(FRAMES, model)
    torch.testing.assert_close(torch.cat(in_pieces(FadingVocoder(model), mel, [FRAMES])), whole(model, mel))


def test_fading_is_near_the_one_shot_audio_until_the_phase_starts_anew(model):
    """The first chunk differs at its end only, where frames were missing."""
    mel, hop = mel_of(FRAMES, model), model.config.hop_length
    first, *_ = in_pieces(FadingVocoder(model), mel, [60, 15])
    unaffected = (60 - model.look_right) * hop
    assert len(first) == (60 - model.config.fade_frames) * hop
    assert snr(first[:unaffected], whole(model, mel)[:unaffected]) > 80


def test_fading_keeps_the_excitation_of_the_cached_frames(model):
    """No seam in the source: both versions of the cross-faded stretch come from the same excitation."""
    vocoder = FadingVocoder(model)
    state, mel, samples = vocoder.start(5), mel_of(60, model), model.config.fade_frames * model.config.hop_length
    vocoder.append([state], [mel[:, :40]], [False])
    kept = state.source.clone()
    assert kept.shape == (1, samples)
    seen = []
    handle = model.source_downs[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    vocoder.append([state], [mel[:, 40:]], [False])
    handle.remove()
    frames = samples // model.stft.hop - 2  # the last ones reach beyond what is kept
    torch.testing.assert_close(seen[0][..., :frames], model.source_spectrum(kept)[..., :frames])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_independent(model, kind):
    vocoder = kind(model)
    mels = [mel_of(40, model, 1), mel_of(50, model, 2)]
    alone = [torch.cat(in_pieces(vocoder, mel, [25, len(mel[0]) - 25], seed=i)) for i, mel in enumerate(mels)]
    states = [vocoder.start(i) for i in range(2)]
    first = vocoder.append(states, [mel[:, :25] for mel in mels], [False, False])
    second = vocoder.append(states, [mel[:, 25:] for mel in mels], [True, True])
    for i in range(2):
        torch.testing.assert_close(torch.cat([first[i], second[i]]), alone[i])


@pytest.mark.parametrize("kind", KINDS)
def test_state_does_not_grow(model, kind):
    vocoder = kind(model)
    state, sizes = vocoder.start(), []
    for i in range(6):
        vocoder.append([state], [mel_of(25, model, i)], [False])
        sizes.append(state.nbytes)
    assert sizes[2:] == [sizes[2]] * 4
    assert 0 < sizes[2] < 100_000


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_the_end(model, kind):
    vocoder, mel = kind(model), mel_of(10, model)
    (once,), (again,), (other,), (silent,) = (in_pieces(vocoder, mel, [10], seed) for seed in (1, 1, 2, None))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert not torch.equal(once, silent)
    assert in_pieces(vocoder, mel_of(0, model), [0, 0])[1].shape == (0,)
    state = vocoder.start()
    vocoder.append([state], [mel], [True])
    with pytest.raises(ValueError, match="already final"):
        vocoder.append([state], [mel], [False])


def test_which_vocoder_a_model_gets(model):
    causal = build(official_small(3))
    assert isinstance(vocoder_stage(causal), IncrementalVocoder)
    assert isinstance(vocoder_stage(causal, exact=True), IncrementalVocoder)
    assert isinstance(vocoder_stage(model), FadingVocoder)
    assert isinstance(vocoder_stage(model, exact=True), WindowedVocoder)
    with pytest.raises(ConfigError, match="not causal"):
        IncrementalVocoder(model)
    with pytest.raises(ConfigError, match="IncrementalVocoder"):
        WindowedVocoder(causal)
    with pytest.raises(ConfigError, match="fade_frames"):
        FadingVocoder(causal)


def test_overlap_of_constant_pieces():
    """Each piece repeats the last values before it: joined, all have their place, faded ones slightly louder."""
    overlap = Overlap(400)
    assert overlap.join(torch.ones(2, 1000), False).shape == (2, 600)
    middle = overlap.join(torch.ones(2, 900), False)
    assert middle.shape == (2, 500)
    torch.testing.assert_close(middle[:, :400], torch.full((2, 400), 1.08), atol=0.01, rtol=0)
    assert torch.equal(middle[:, 400:], torch.ones(2, 100))
    assert overlap.join(torch.ones(2, 400), True).shape == (2, 400)


def test_overlap_of_pieces_shorter_than_itself():
    overlap = Overlap(4)
    assert overlap.join(torch.ones(3), False).shape == (0,)
    assert overlap.join(torch.ones(5), False).shape == (1,)
    assert overlap.join(torch.ones(6), True).shape == (6,)
