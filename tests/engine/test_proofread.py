"""Proofreading: a block is said again until it is understood, and the model's memory is that of what was taken."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from fireside.engine import proofread
from fireside.engine.proofread import ProofreadMachine
from fireside.models.config import TokenizerConfig
from fireside.models.layout import ControlIds, block_sequence, make_blocks
from fireside.models.speech_tokenizer import SpeechTokenizer
from fireside.models.turns import BlockMachine
from fireside.text.phones import PAUSE_IDS, PHONE_ID

CONTROL = ControlIds.after(50, 10)
WORDS = [
    [PHONE_ID["HH"], PHONE_ID["AH0"], PHONE_ID["L"], PHONE_ID["OW1"]],
    [PHONE_ID["T"], PHONE_ID["UW1"], PHONE_ID["L"]],
]


class Reader:
    """Walks through a machine as the decoder does, and keeps every position that the model would remember."""

    def __init__(self, machine: ProofreadMachine, draws: Sequence[int]) -> None:
        self.memory: list[int] = []
        self.settled: list[int] = []
        remaining = list(draws)
        while not machine.done:
            step = machine.next()
            assert step is not None
            if step.rewind:
                del self.memory[-step.rewind :]
            self.memory += step.feed
            outcome = machine.accept(remaining.pop(0))
            if isinstance(outcome, tuple):
                self.settled += outcome
        assert not remaining


def machine(
    judge: object, tries: int, good: float = 0.3, prompt: bool = False, first_tries: int | None = None
) -> ProofreadMachine:
    blocks = make_blocks(WORDS, 3, PAUSE_IDS)
    inner = BlockMachine(
        CONTROL, 1, prompt_blocks=[blocks[0]] if prompt else (), prompt_speech=[[1, 2]] if prompt else ()
    )
    for block in blocks:
        inner.push(block)
    inner.end()
    return ProofreadMachine(inner, judge, tries, good, first_tries)  # type: ignore[arg-type]


class Likes:
    """Understands every phone but in the speech that holds a disliked id."""

    def __init__(self, *dislikes: int) -> None:
        self.dislikes = dislikes
        self.asked: list[tuple[list[int], list[int], list[int]]] = []

    def __call__(self, context: Sequence[int], speech: Sequence[int], phones: Sequence[int]) -> float:
        self.asked.append((list(context), list(speech), list(phones)))
        return sum(100.0 for token in speech if token in self.dislikes)


def test_what_is_understood_is_taken_at_once() -> None:
    """And the model then remembers exactly the sequence it was trained on."""
    reader = Reader(machine(Likes(), tries=4), [5, 6, CONTROL.fill, 7, 8, 9, CONTROL.eos])
    assert reader.settled == [5, 6, 7, 8, 9]
    expected = block_sequence(CONTROL, make_blocks(WORDS, 3, PAUSE_IDS), [[5, 6], [7, 8, 9]], 1)
    assert reader.memory == expected.inputs[: len(reader.memory)]
    assert len(expected.inputs) - len(reader.memory) in (0, 1)


@pytest.mark.parametrize("prompt", [False, True])
def test_what_is_not_understood_is_said_again(prompt: bool) -> None:
    """The bad attempt leaves no trace: not in the speech, not in the history, not in the model's memory."""
    draws = [5, 6, 7, CONTROL.fill, 8, 9, CONTROL.fill, 10, CONTROL.eos]
    read = machine(Likes(6), tries=4, prompt=prompt)
    reader = Reader(read, draws)
    direct = Reader(machine(Likes(), tries=4, prompt=prompt), [8, 9, CONTROL.fill, 10, CONTROL.eos])
    assert reader.settled == direct.settled == [8, 9, 10]
    assert list(read.history) == [8, 9, 10]
    assert reader.memory == direct.memory


def test_the_best_of_bad_attempts_is_taken() -> None:
    """When an earlier one was best, its ids are fed again in place of the last one's."""
    draws = [5, 6, CONTROL.fill, 6, 6, 6, CONTROL.fill, 11, CONTROL.eos]
    read = machine(Likes(6), tries=2)
    reader = Reader(read, draws)
    direct = Reader(machine(Likes(), tries=2), [5, 6, CONTROL.fill, 11, CONTROL.eos])
    assert reader.settled == [5, 6, 11]
    assert list(read.history) == [5, 6, 11]
    assert reader.memory == direct.memory


def test_where_somebody_waits_for_a_first_sound_fewer_attempts_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = [5, 6, CONTROL.fill, 6, 6, 6, CONTROL.fill, 6, CONTROL.eos, 6, CONTROL.eos]
    read = machine(Likes(6), tries=9, first_tries=2)
    assert Reader(read, draws).settled == [5, 6, 6], "both blocks begin early: two attempts each"
    monkeypatch.setattr(proofread, "FIRST", 1)
    draws = [5, 6, CONTROL.fill, 6, 6, 6, CONTROL.fill, *[6, CONTROL.eos] * 3]
    assert Reader(machine(Likes(6), tries=3, first_tries=2), draws).settled == [5, 6, 6], "three of the second"


def test_what_is_clear_enough_is_heard_once() -> None:
    """With what came before only where it is not clear on its own, and what came before once for all attempts."""
    judge = Likes(6)
    attempts = [6, CONTROL.eos, 6, 6, CONTROL.eos, 11, CONTROL.eos]
    Reader(machine(judge, tries=3), [5, 6, CONTROL.fill, 5, CONTROL.fill, *attempts])
    first, second = make_blocks(WORDS, 3, PAUSE_IDS)
    both = [*first, *second]
    heard = [first, first, second, both, first, second, both, second]
    assert [phones for _, _, phones in judge.asked] == heard


def test_the_last_block_too() -> None:
    """Also there an earlier attempt can be the best."""
    draws = [5, CONTROL.fill, 7, 6, CONTROL.eos, 6, 6, 6, CONTROL.eos]
    assert Reader(machine(Likes(6), tries=2), draws).settled == [5, 7, 6]


def test_a_block_is_heard_with_the_one_before() -> None:
    """The judge gets the prompt's speech and text in front of the first block, where that is not clear on its own."""
    judge = Likes(5, 6)
    Reader(machine(judge, tries=1, prompt=True), [5, CONTROL.fill, 6, CONTROL.eos])
    first, second = make_blocks(WORDS, 3, PAUSE_IDS)
    assert ([], [1, 2, 5], [*first, *first]) in judge.asked
    assert ([1, 2], [5, 6], [*first, *second]) in judge.asked


def test_what_is_clear_on_its_own_is_taken_whatever_came_before() -> None:
    """As behind a prompt in another language, in which its sounds would be taken for that language's."""

    class Foreign(Likes):
        def __call__(self, context: Sequence[int], speech: Sequence[int], phones: Sequence[int]) -> float:
            confused = 100.0 if {1, 2} & {*context, *speech} and {5, 6} & {*speech} else 0.0
            return confused + super().__call__(context, speech, phones)

    draws = [5, CONTROL.fill, 6, CONTROL.eos]
    assert Reader(machine(Foreign(), tries=4, prompt=True), draws).settled == [5, 6]
    bad = [7, CONTROL.fill, *draws[2:]]
    assert Reader(machine(Foreign(7), tries=2, prompt=True), [7, CONTROL.fill, *bad]).settled == [7, 6]


def test_the_tokenizer_judges() -> None:
    """Low for phones on the network's own best path, higher for others, infinite for too many."""
    tokenizer = SpeechTokenizer(TokenizerConfig(dim=32, heads=2, layers_before=1, layers_after=1, ctc_vocab_size=60))
    nats = tokenizer.eval().nats
    rng = random.Random(0)
    speech = [rng.randrange(729) for _ in range(12)]
    best = tokenizer.scores(torch.tensor(speech)).argmax(-1)
    path = [int(p) for i, p in enumerate(best) if p and (i == 0 or p != best[i - 1])]
    assert nats([], speech, path) < nats([], speech, [p % 59 + 1 for p in path])
    assert nats([], speech[:2], [1, 2, 3]) == float("inf")
    assert nats([], speech, []) == 0.0
    assert nats(speech[:4], speech[4:], [7]) != nats([], speech[4:], [7])
