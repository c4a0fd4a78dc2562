"""The token inventory and pinyin."""

from __future__ import annotations

import pytest

from fireside.text.phones import BOUNDARY_ID, PAD_ID, PAUSE_IDS, PHONES, decode, encode, is_spoken
from fireside.text.pinyin import split_tone, syllable_phones


def test_inventory_is_what_trained_weights_were_made_for() -> None:
    """Ids are baked into weights: a change of any of these breaks every trained model."""
    assert len(PHONES) == len(set(PHONES)) == 270
    assert (0, 1, frozenset({2, 3, 4, 5})) == (PAD_ID, BOUNDARY_ID, PAUSE_IDS)
    known = {27: "B", 50: "ZH", 51: "AA0", 95: "UW2", 96: "b", 117: "a1", 260: "vn4", 261: "a5", 269: "uo5"}
    assert {i: PHONES[i] for i in known} == known


def test_encode_and_decode_are_inverse() -> None:
    names = ["HH", "AH0", "L", "OW1", ".", " "]
    assert decode(encode(names)) == names
    with pytest.raises(KeyError):
        encode(["QQ"])


def test_only_sounds_are_spoken() -> None:
    assert is_spoken(encode(["HH"])[0])
    assert is_spoken(encode(["ang1"])[0])
    assert not any(is_spoken(i) for i in encode([".", " ", "_", "<slow>", "<spare0>"]))


@pytest.mark.parametrize(
    ("written", "phones"),
    [
        ("zhong4", ("zh", "ong4")),
        ("zhòng", ("zh", "ong4")),
        ("nǚ", ("n", "v3")),
        ("nv3", ("n", "v3")),
        ("lüe4", ("l", "ve4")),
        ("jue2", ("j", "ve2")),
        ("yuan2", ("van2",)),
        ("shi4", ("sh", "ii4")),
        ("zi5", ("z", "ii5")),
        ("xi3", ("x", "i3")),
        ("liu2", ("l", "iou2")),
        ("gui1", ("g", "uei1")),
        ("dun4", ("d", "uen4")),
        ("wo3", ("uo3",)),
        ("weng1", ("ong1",)),
        ("er2", ("er2",)),
        ("de", ("d", "e5")),
        ("xie5", ("x", "ie4")),
        ("er5", ("er2",)),
    ],
)
def test_pinyin_syllables(written: str, phones: tuple[str, ...]) -> None:
    assert syllable_phones(written) == phones


@pytest.mark.parametrize("written", ["zh", "hello", "q", "bx4", "", "4", "zhx1", "i i"])
def test_what_is_no_syllable(written: str) -> None:
    assert syllable_phones(written) is None


def test_tones_by_mark_and_by_digit() -> None:
    assert split_tone("hǎo") == ("hao", "3")
    assert split_tone("hao3") == ("hao", "3")
    assert split_tone("hao") == ("hao", "")
    assert split_tone("LÜ4") == ("lv", "4")
