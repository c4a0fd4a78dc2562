"""Calibration: the curves themselves, what is measured of a recording, and that requests in pieces equal the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from fireside.engine.calibration import LEVELS, SHORTEST, Calibration, measure
from fireside.engine.engine import Engine
from fireside.engine.noise import start_noise
from fireside.models.checkpoint import ModelFolder
from fireside.models.config import FlowConfig
from fireside.request import SpeechRequest
from fireside.voices import Voice

N_MELS = tiny.CONFIG.flow.n_mels
HALF = 27  # tokens; no multiple of a chunk


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    assert isinstance(tiny.CONFIG.flow, FlowConfig)
    flow = tiny.CONFIG.flow.model_copy(update={"calibrate": True})
    folder = tmp_path_factory.mktemp("calibrating")
    return ModelFolder(tiny.write_model(folder, tiny.CONFIG.model_copy(update={"flow": flow})))


def levels(seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).normal(-5, 2, (2, LEVELS, N_MELS)), axis=1).astype(np.float32)


def calibrated(seed: int = 0) -> Voice:
    return replace(tiny.make_voice("anna", seed), calibration=levels(seed))


def test_linear_between_the_levels_and_shifted_beyond_them() -> None:
    given = levels()
    mel = torch.linspace(-15, 5, 400).expand(N_MELS, -1)
    got = Calibration.of(given)(mel).numpy()
    for row, source, target in zip(got, given[0].T, given[1].T, strict=True):
        expected = mel[0].numpy() + np.interp(mel[0], source, target - source)
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_the_same_twice_changes_nothing() -> None:
    given = levels()
    given[1] = given[0]
    mel = torch.randn(N_MELS, 50) * 3 - 5
    assert torch.equal(Calibration.of(given)(mel), mel)


def test_a_bin_that_never_changed_is_shifted() -> None:
    given = np.stack([np.full((LEVELS, N_MELS), -11.5), np.full((LEVELS, N_MELS), -9.0)]).astype(np.float32)
    mel = torch.tensor([[-14.0, -11.5, -3.0]]).expand(N_MELS, -1)
    torch.testing.assert_close(Calibration.of(given)(mel), mel + 2.5)


@pytest.mark.parametrize("sizes", [[1] * 37, [30, 0, 7], [5, 32]])
def test_pieces_equal_the_whole_to_the_last_bit(sizes: list[int]) -> None:
    calibration = Calibration.of(levels())
    mel = torch.randn(N_MELS, 37, generator=torch.Generator().manual_seed(1)) * 3 - 5
    pieces = [calibration(piece) for piece in mel.split(sizes, dim=1)]
    assert torch.equal(torch.cat(pieces, dim=1), calibration(mel))


def test_what_was_measured_gives_the_recordings_levels() -> None:
    """A louder voice with more swing, the same in all bins so that smoothing over them changes nothing."""
    made = np.tile(np.random.default_rng(0).normal(-5, 1, 600), (N_MELS, 1))
    true = 1.7 * made + 2
    given = measure(made, true)
    assert given.shape == (2, LEVELS, N_MELS)
    assert given.dtype == np.float32
    got = Calibration.of(given)(torch.from_numpy(made).float())
    np.testing.assert_allclose(got.numpy(), true, atol=1e-4)


def test_what_differs_is_smoothed_over_neighbours_and_stays_in_order() -> None:
    rng = np.random.default_rng(0)
    made, true = rng.normal(-5, 1, (N_MELS, 400)), rng.normal(-5, 1, (N_MELS, 400))
    true[40] += 6
    source, target = measure(made, true)
    added = np.median(target - source, axis=0)
    assert 2 < added[40] < 3, "a bell of one bin's width leaves 0.4 of what a lone bin differs by"
    assert added[39] > 1
    assert added[41] > 1
    assert abs(added[45]) < 0.3
    assert (np.diff(measure(made, 1e-3 * true), axis=1) >= 0).all()


def test_pauses_do_not_get_the_noise_of_the_recording() -> None:
    rng = np.random.default_rng(0)
    made = np.concatenate([rng.normal(-5, 1, (N_MELS, 400)), np.full((N_MELS, 100), -11.0)], axis=1)
    true = np.logaddexp(made, -7)
    mel = torch.from_numpy(made).float()
    got = Calibration.of(measure(made, true))(mel)
    assert torch.equal(got[:, 400:], mel[:, 400:])
    assert (Calibration.of(measure(true, made))(torch.from_numpy(true).float())[:, 400:] < -10.9).all(), "but its quiet"


def test_bins_that_the_recording_does_not_fill_stay_and_are_nobodys_neighbours() -> None:
    rng = np.random.default_rng(0)
    made = rng.normal(-5, 1, (N_MELS, 400))
    true = made + 1
    true[70:] = -11.5
    true[67:70] -= [[2.1], [2.6], [3.2]]  # the slope of a filter, its last bins short of what the flow has
    true[20] -= 2.4  # a weak band of the voice, and no edge
    mel = torch.from_numpy(made).float()
    got = Calibration.of(measure(made, true))(mel)
    assert torch.equal(got[67:], mel[67:])
    loud = made[60:67] > np.quantile(made, 0.2)
    np.testing.assert_allclose((got - mel)[60:67].numpy()[loud], 1, atol=1e-3)
    assert (got - mel)[20].mean() < 0.3
    narrow = made + 1
    narrow[:5] = -11.5
    assert torch.equal(Calibration.of(measure(made, narrow))(mel)[:5], mel[:5])
    # An empty recording has nothing to bring anything to.
    assert torch.equal(Calibration.of(measure(made, np.full_like(made, -11.5)))(mel), mel)


def test_the_vocoder_is_given_the_calibrated_mel_however_it_is_cut(
    model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tuple(np.random.default_rng(0).integers(0, tiny.CODES, 23).tolist())

    def heard(voice: Voice, hops: tuple[int, ...] | None) -> torch.Tensor:
        engine = Engine(model)
        vocoder, given = engine._vocoder, []
        append = vocoder.append
        monkeypatch.setattr(
            vocoder, "append", lambda states, mels, final: given.append(mels[0]) or append(states, mels, final)
        )
        for _ in engine.generate(SpeechRequest(voice, tokens=(tokens,), hops=hops)):
            pass
        return torch.cat(given, dim=1)

    voice = calibrated()
    for hops in (None, (1,), (3,)):
        plain = heard(replace(voice, calibration=None), hops)
        assert torch.equal(heard(voice, hops), Calibration.of(levels())(plain))


def test_neighbours_keep_their_own_calibration(model: ModelFolder) -> None:
    voices = [calibrated(0), tiny.make_voice("anna", 0), calibrated(1)]
    requests = [SpeechRequest(voice, tokens=(tuple(range(20)),)) for voice in voices]
    alone = [np.concatenate([chunk.samples for chunk in Engine(model).generate(each)]) for each in requests]
    assert np.abs(alone[0] - alone[1]).max() > 1e-3, "else nothing is calibrated"
    engine = Engine(model)
    keys = [engine.submit(each) for each in requests]
    got: dict[int, list[np.ndarray]] = {}
    while engine.active:
        for key, chunk in engine.step():
            got.setdefault(key, []).append(chunk.samples)  # type: ignore[union-attr]
    for key, expected in zip(keys, alone, strict=True):
        np.testing.assert_allclose(np.concatenate(got[key]), expected, atol=1e-3)


def test_each_half_of_a_prompt_is_made_behind_the_other(model: ModelFolder) -> None:
    engine = Engine(model)
    voice = tiny.make_voice("anna", seed=0, tokens=2 * HALF + 1)
    got = engine.fitted(voice)
    assert got.calibration is not None
    frames = HALF * model.config.flow.token_mel_ratio
    halves = [
        replace(voice, prompt_tokens=voice.prompt_tokens[:HALF], prompt_mel=voice.prompt_mel[:frames]),
        replace(voice, prompt_tokens=voice.prompt_tokens[HALF:], prompt_mel=voice.prompt_mel[frames:]),
    ]
    made = []
    for said, heard in (halves, halves[::-1]):
        prompt, mel = engine._streaming.heard(heard)
        made.append(
            model.flow.inference(
                torch.from_numpy(said.prompt_tokens)[None],
                prompt[None],
                mel[None],
                torch.from_numpy(voice.embedding)[None],
                start_noise(model.config.flow, 0, 200)[None],
                chunked=True,
            )[0]
        )
    expected = measure(torch.cat(made, dim=1).numpy(), voice.prompt_mel.T)
    np.testing.assert_allclose(got.calibration, expected, atol=1e-3)
    assert got.fingerprint != voice.fingerprint
    assert engine.fitted(got).fingerprint == got.fingerprint, "what it had before does not count"


def test_who_gets_none(model: ModelFolder, tiny_model: Path) -> None:
    least = int(SHORTEST * model.config.token_rate)
    assert Engine(model).fitted(tiny.make_voice("anna", 0, tokens=least)).calibration is not None
    short, long = tiny.make_voice("anna", 0, tokens=least - 1), tiny.make_voice("anna", 0, tokens=least)
    assert Engine(model).fitted(short) is short
    assert Engine(ModelFolder(tiny_model)).fitted(long) is long, "its model does not ask for it"
