"""What a request becomes before the first stage sees it."""

from __future__ import annotations

import pytest
import tiny
import torch

from fireside.engine.plan import PAUSES, make_machine, make_sampler, plan_text, plan_tokens
from fireside.errors import TextError
from fireside.models.config import LMConfig
from fireside.models.layout import text_ids
from fireside.models.turns import BlockMachine, PlainMachine
from fireside.request import SpeechRequest
from fireside.text import Frontend
from fireside.text.phones import PHONE_ID

VOICE = tiny.make_voice("anna", seed=0)
SOS = tiny.CODES
FAST = PHONE_ID["<faster>"]


def first_feed(request: SpeechRequest, config: LMConfig = tiny.CONFIG.lm) -> list[int]:
    (piece,) = plan_text(request.text, request.speed, Frontend())
    step = make_machine(config, request, piece).next()
    assert step is not None
    return step.feed


def test_the_block_layout_hears_instruction_prompt_and_text() -> None:
    request = SpeechRequest(VOICE, text="Good evening.", control=(FAST,))
    feed = first_feed(request)
    words = [token for word in plan_text(request.text, request.speed, Frontend())[0].words for token in word]
    prompt = [token for word in VOICE.card.words for token in word]
    assert feed[:2] == [SOS, ~FAST]
    assert [~token for token in feed if token < 0] == [FAST, *prompt, *words]
    assert [token for token in feed if 0 <= token < tiny.CODES] == VOICE.prompt_tokens.tolist()


def test_without_the_prompt_the_text_stands_alone() -> None:
    for request in (
        SpeechRequest(VOICE, text="Good evening.", use_prompt_text=False),
        SpeechRequest(tiny.make_voice("none", seed=0, tokens=0), text="Good evening."),
    ):
        assert not [token for token in first_feed(request) if 0 <= token < tiny.CODES]


def test_the_plain_layout() -> None:
    config = tiny.CONFIG.lm.model_copy(update={"layout": tiny.CONFIG.lm.layout.model_copy(update={"kind": "plain"})})
    request = SpeechRequest(VOICE, text="Good evening.", control=(FAST,))
    (piece,) = plan_text(request.text, request.speed, Frontend())
    machine = make_machine(config, request, piece)
    assert isinstance(machine, PlainMachine)
    prompt = [token for word in VOICE.card.words for token in word]
    words = [token for word in piece.words for token in word]
    step = machine.next()
    assert step is not None
    assert step.feed == [SOS, *text_ids([FAST, *prompt, *words]), SOS + 2, *VOICE.prompt_tokens.tolist()]
    assert isinstance(make_machine(tiny.CONFIG.lm, request, piece), BlockMachine)


def test_pauses_follow_punctuation_and_speed() -> None:
    request = SpeechRequest(VOICE, text="Good evening. " + "The fire is lit, and there is tea. " * 8, speed=2.0)
    pieces = plan_text(request.text, request.speed, Frontend())
    assert len(pieces) > 1
    assert all(piece.pause == PAUSES["sentence"] / 2 for piece in pieces)
    assert plan_text(request.text, 1.0, Frontend())[0].pause == PAUSES["sentence"]


def test_given_tokens_are_pieces() -> None:
    pieces = plan_tokens(SpeechRequest(VOICE, tokens=((1, 2), (), (3,))))
    assert [piece.tokens for piece in pieces] == [(1, 2), (3,)]
    assert [piece.weight for piece in pieces] == [2, 1]


def test_nothing_to_say() -> None:
    with pytest.raises(TextError):
        plan_text("...", 1.0, Frontend())


def test_every_piece_draws_its_own() -> None:
    def draws(seed: int, piece: int) -> list[int]:
        scores = torch.zeros(1000).log_softmax(0)
        sampler = make_sampler(tiny.CONFIG.lm.sampling, seed, piece)
        return [sampler(scores, []) for _ in range(4)]

    assert draws(1, 0) == draws(1, 0)
    assert len({tuple(draws(seed, piece)) for seed in range(5) for piece in range(5)}) == 25
