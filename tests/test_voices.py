"""The voice registry: what is kept, what is refused, and that `default` is always there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fireside.errors import VoiceError
from fireside.voices import Voice, VoiceCard, VoiceRegistry, read_voice, write_voice


def make_voice(name: str, **card: object) -> Voice:
    rng = np.random.default_rng(3)
    return Voice(
        VoiceCard(name, language="en", words=((40, 41), (42,)), word_ends=(4, 10), **card),  # type: ignore[arg-type]
        embedding=rng.standard_normal(192).astype(np.float32),
        prompt_tokens=rng.integers(0, 729, 10),
        prompt_mel=rng.standard_normal((20, 80)).astype(np.float32),
    )


@pytest.fixture
def registry(tmp_path: Path) -> VoiceRegistry:
    for name in ("anna", "bo"):
        write_voice(tmp_path / "bundled", make_voice(name))
    return VoiceRegistry(tmp_path / "bundled", tmp_path / "user", default="anna", model="tiny", token_mel_ratio=2)


def test_written_is_read(tmp_path: Path) -> None:
    voice = make_voice("anna", description="温暖", consent="read by a machine")
    write_voice(tmp_path, voice)
    got = read_voice(tmp_path, "anna")
    assert got.card == voice.card
    np.testing.assert_array_equal(got.embedding, voice.embedding)
    np.testing.assert_array_equal(got.prompt_tokens, voice.prompt_tokens)
    np.testing.assert_allclose(got.prompt_mel, voice.prompt_mel, atol=2e-3)
    assert got.prompt_mel.dtype == np.float32


def make_calibrated(name: str) -> Voice:
    levels = np.sort(np.random.default_rng(4).normal(-5, 2, (2, 7, 80)), axis=1).astype(np.float32)
    return replace(make_voice(name), calibration=levels)


def make_fitted(name: str) -> Voice:
    adaptation = np.random.default_rng(5).standard_normal((14, 32)).astype(np.float32)
    return replace(make_calibrated(name), adaptation=adaptation)


def test_what_a_voice_was_fitted_with_is_kept_to_the_last_digit_and_counts(tmp_path: Path) -> None:
    plain, calibrated, voice = make_voice("anna"), make_calibrated("anna"), make_fitted("anna")
    assert len({plain.fingerprint, calibrated.fingerprint, voice.fingerprint}) == 3
    assert calibrated.nbytes == plain.nbytes + 2 * 7 * 80 * 4
    assert voice.nbytes == calibrated.nbytes + 14 * 32 * 4
    write_voice(tmp_path, voice)
    np.testing.assert_array_equal(read_voice(tmp_path, "anna").calibration, voice.calibration)
    np.testing.assert_array_equal(read_voice(tmp_path, "anna").adaptation, voice.adaptation)
    write_voice(tmp_path, plain)
    assert read_voice(tmp_path, "anna").calibration is None, "as in files from before there were any"
    assert read_voice(tmp_path, "anna").adaptation is None


def test_what_was_fitted_to_other_weights_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def registry(flow: str) -> VoiceRegistry:
        return VoiceRegistry({}, tmp_path, default="default", model="tiny", token_mel_ratio=2, fitted_to=lambda: flow)

    voice = make_fitted("anna")
    registry("old").add(replace(voice, card=replace(voice.card, fitted_to="old")))
    assert registry("old").get("anna").fingerprint == voice.fingerprint
    assert not caplog.records
    got = registry("new").get("anna")
    assert got.adaptation is None
    assert got.calibration is None
    assert got.fingerprint == make_voice("anna").fingerprint
    assert "add it again" in caplog.text


def test_a_voice_without_a_prompt(tmp_path: Path) -> None:
    voice = replace(
        make_voice("quiet"),
        card=VoiceCard("quiet"),
        prompt_tokens=np.zeros(0, np.int64),
        prompt_mel=np.zeros((0, 80), np.float32),
    )
    write_voice(tmp_path, voice)
    assert len(read_voice(tmp_path, "quiet").prompt_tokens) == 0


def test_default_is_always_there(registry: VoiceRegistry) -> None:
    assert [card.name for card in registry.cards()] == ["default", "anna", "bo"]
    assert registry.get().name == registry.get("default").name == "anna"


def test_add_show_remove(registry: VoiceRegistry) -> None:
    registry.add(make_voice("my-voice"))
    assert registry.get("my-voice").card.model == "tiny"
    assert "my-voice" in [card.name for card in registry.cards()]
    with pytest.raises(VoiceError, match="already have"):
        registry.add(make_voice("my-voice"))
    registry.add(make_voice("my-voice", description="second"), replace_existing=True)
    assert registry.get("my-voice").card.description == "second"
    registry.remove("my-voice")
    with pytest.raises(VoiceError, match="no voice"):
        registry.get("my-voice")
    assert list(registry.user.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a\\b", "x" * 65, "default", "dot.", "a b"])
def test_what_is_no_name(registry: VoiceRegistry, name: str) -> None:
    with pytest.raises(VoiceError):
        registry.add(make_voice(name))


def test_names_may_be_chinese(registry: VoiceRegistry) -> None:
    registry.add(make_voice("小雨"))
    assert registry.get("小雨").name == "小雨"


def test_unknown_names_list_near_ones(registry: VoiceRegistry) -> None:
    with pytest.raises(VoiceError, match="Did you mean 'anna'"):
        registry.get("Ana")
    with pytest.raises(VoiceError, match="There are: default, anna, bo"):
        registry.get("qqq")
    with pytest.raises(VoiceError, match="Did you mean"):
        registry.remove("ann")


def test_the_models_own_voices_stay(registry: VoiceRegistry) -> None:
    for name in ("anna", "default"):
        with pytest.raises(VoiceError, match="stays"):
            registry.remove(name)
    with pytest.raises(VoiceError, match="choose another name"):
        registry.add(make_voice("bo"))


def test_a_voice_of_another_model(registry: VoiceRegistry) -> None:
    other = VoiceRegistry(registry.bundled, registry.user, default="anna", model="other")
    other.add(make_voice("guest"))
    assert "guest" not in [card.name for card in registry.cards()]
    with pytest.raises(VoiceError, match="made for the model other"):
        registry.get("guest")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"embedding": np.zeros(191, np.float32)}, "does not fit"),
        ({"embedding": np.full(192, np.nan, np.float32)}, "does not fit"),
        ({"prompt_mel": np.zeros((21, 80), np.float32)}, "does not fit"),
        ({"prompt_tokens": np.zeros(5, np.int64)}, "does not fit"),
        ({"adaptation": np.zeros(80, np.float32)}, "does not fit"),
        ({"adaptation": np.full((14, 32), np.nan, np.float32)}, "does not fit"),
        ({"calibration": np.zeros((2, 7, 79), np.float32)}, "does not fit"),
        ({"calibration": np.zeros((1, 7, 80), np.float32)}, "does not fit"),
        ({"calibration": np.zeros((2, 1, 80), np.float32)}, "does not fit"),
        ({"calibration": np.zeros((14, 80), np.float32)}, "does not fit"),
        ({"calibration": np.full((2, 7, 80), np.inf, np.float32)}, "does not fit"),
        ({"calibration": -make_calibrated("odd").calibration}, "does not fit"),  # type: ignore[operator]
    ],
)
def test_damaged_voices(registry: VoiceRegistry, change: dict, problem: str) -> None:
    write_voice(registry.user, replace(make_voice("odd"), **change))
    with pytest.raises(VoiceError, match=problem):
        registry.get("odd")


def test_missing_truncated_and_foreign_files(registry: VoiceRegistry) -> None:
    registry.add(make_voice("odd"))
    tensors, card = registry.user / "odd.safetensors", registry.user / "odd.json"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:300])
    with pytest.raises(VoiceError, match="damaged"):
        registry.get("odd")
    tensors.unlink()
    with pytest.raises(VoiceError, match="missing"):
        registry.get("odd")
    tensors.write_bytes(whole)
    card.write_text(json.dumps({"mood": "merry"}))
    with pytest.raises(VoiceError, match="mood"):
        registry.get("odd")
    card.write_text("[]")
    with pytest.raises(VoiceError, match="cannot be read"):
        registry.get("odd")


def test_a_folder_that_cannot_be_written(registry: VoiceRegistry, tmp_path: Path) -> None:
    registry.user.write_text("a file where the folder should be")
    with pytest.raises(VoiceError, match="cannot be written"):
        registry.add(make_voice("mine"))


def test_voices_of_a_model_without_a_ratio(registry: VoiceRegistry) -> None:
    """CosyVoice 1's prompts have as many mel frames as their audio, whatever their tokens."""
    free = VoiceRegistry(registry.bundled, registry.user, default="anna", model="tiny")
    free.add(replace(make_voice("odd"), prompt_mel=np.zeros((17, 80), np.float32)))
    assert len(free.get("odd").prompt_mel) == 17
    with pytest.raises(VoiceError, match="does not fit the model tiny"):
        registry.get("odd")


def test_voices_that_come_with_the_model(tmp_path: Path) -> None:
    """As from spk2info.pt: the first one is the default, and none can be replaced."""
    given = {"zoe": make_voice("zoe"), "anna": make_voice("anna")}
    registry = VoiceRegistry(given, tmp_path, default="default", model="tiny", token_mel_ratio=2)
    assert [card.name for card in registry.cards()] == ["default", "anna", "zoe"]
    assert registry.get().name == "zoe"
    assert registry.get("anna").card.bundled
    with pytest.raises(VoiceError, match="choose another name"):
        registry.add(make_voice("anna"))
    registry.add(replace(make_voice("me"), prompt_mel=np.full((20, 80), 1 / 3, np.float32)))
    assert (registry.get("me").prompt_mel == np.float32(1 / 3)).all(), "to the last digit"
    empty = VoiceRegistry({}, tmp_path / "none", default="default", model="tiny")
    assert empty.cards() == []
    with pytest.raises(VoiceError, match="no voice of its own"):
        empty.get()
