"""The recipe of the English fallback and of the lexicons: alignment, the tagger and its numpy twin, ARPAbet."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fireside.errors import UsageError
from fireside.text.g2p import LETTERS, LetterToSound
from fireside.train.g2p import Tagger, align, edit_distance, error_rates, learn_alignment, train
from fireside.train.lexicon import arpabet, build, entry

PAIRS = [
    ("cat", ("K", "AE1", "T")),
    ("tack", ("T", "AE1", "K")),
    ("box", ("B", "AA1", "K", "S")),
    ("tax", ("T", "AE1", "K", "S")),
    ("cab", ("K", "AE1", "B")),
    ("boot", ("B", "UW1", "T")),
    ("toot", ("T", "UW1", "T")),
]


def test_alignment_gives_each_letter_its_sounds() -> None:
    cost = learn_alignment(PAIRS)
    assert align("cat", ("K", "AE1", "T"), cost, 12.0) == [("K",), ("AE1",), ("T",)]
    for word, phones in PAIRS:
        groups = align(word, phones, cost, 12.0)
        assert groups is not None
        assert len(groups) == len(word)
        assert sum(groups, ()) == phones


def test_more_sounds_than_letters_can_carry_is_no_alignment() -> None:
    assert align("x", ("EH1", "K", "S"), {}, 12.0) is None


def weights_of(model: Tagger, groups: list[str]) -> dict[str, np.ndarray]:
    weights = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    return weights | {"groups": np.frombuffer(json.dumps(groups).encode(), dtype=np.uint8)}


def test_the_numpy_twin_computes_what_the_trained_network_does() -> None:
    torch.manual_seed(3)
    model = Tagger(groups=6, hidden=9, width=5).eval()
    twin = LetterToSound(weights_of(model, ["", "K", "AE1", "T", "K S", "B"]))
    for word in ("a", "cat", "o'clockwise"):
        letters = torch.tensor([[LETTERS.index(c) + 1 for c in word]])
        np.testing.assert_allclose(twin.scores(word), model(letters)[0].detach().numpy(), atol=1e-5)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small matrices on a busy machine: threads would wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_short_training_learns_its_words() -> None:
    cost = learn_alignment(PAIRS)
    aligned = [(word, align(word, phones, cost, 12.0) or []) for word, phones in PAIRS] * 10
    weights = train(aligned, hidden=16, minutes=0, seed=0, steps=160)
    rates = error_rates(LetterToSound(weights), PAIRS)
    assert rates["per_without_stress"] < 20
    assert {v.dtype for k, v in weights.items() if k != "groups"} == {np.dtype(np.float16)}


def test_edit_distance() -> None:
    assert edit_distance(("A", "B", "C"), ("A", "C")) == 1
    assert edit_distance((), ("A", "C")) == 2
    assert edit_distance(("A",), ("A",)) == 0


@pytest.mark.parametrize(
    ("ipa", "phones"),
    [
        ("həlˈO", "HH AH0 L OW1"),
        ("bˈɜɹd", "B ER1 D"),
        ("wˈɔtəɹ", "W AO1 T ER0"),
        ("bˈʌɾᵊn", "B AH1 T AH0 N"),
        ("ˌʌndəɹɡɹˈWnd", "AH2 N D ER0 G R AW1 N D"),
    ],
)
def test_the_dictionaries_alphabet_becomes_arpabet(ipa: str, phones: str) -> None:
    assert " ".join(arpabet(ipa)) == phones


def test_an_undocumented_symbol_is_an_error() -> None:
    with pytest.raises(UsageError, match="ø"):
        arpabet("bøk")


def test_entries_by_part_of_speech() -> None:
    assert entry({"DEFAULT": "jˈuz", "NOUN": "jˈus"}) == "Y UW1 Z\tN=Y UW1 S"
    assert entry({"DEFAULT": "ˈɪd", "NOUN": None}) == "IH1 D\tN=*"


def test_capitals_are_kept_where_they_tell_words_apart() -> None:
    gold = {"polish": "pˈɑlɪʃ", "Polish": "pˈOlɪʃ", "Paris": "pˈɛɹəs", "Cat": "kˈæt", "cat": "kˈæt"}
    words = [line.split("\t")[0] for line in build(gold, {})]
    assert words == ["Polish", "cat", "paris", "polish"]
