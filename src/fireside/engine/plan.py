"""What a request asks of each stage: its pieces, the LM's way through one of them, the pause after it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fireside.engine.sampling import RepetitionAware
from fireside.errors import TextError
from fireside.models.config import LMConfig
from fireside.models.layout import ControlIds, aligned_blocks, make_blocks
from fireside.models.turns import BlockMachine, Machine, PlainMachine
from fireside.request import SpeechRequest
from fireside.text.phones import PAUSE_IDS, PHONE_ID

if TYPE_CHECKING:
    from fireside.text import Frontend
    from fireside.voices import Voice

COMMA = PHONE_ID[","]
PAUSES = {"sentence": 0.40, "comma": 0.20, "none": 0.10}
"""Seconds between two pieces, after what ends the first one: as the corpus' voices read."""


@dataclass(frozen=True)
class PiecePlan:
    """One piece:

    its words as text ids, or its speech tokens when these are given; the pause after it in seconds.
    """

    words: tuple[tuple[int, ...], ...] = ()
    tokens: tuple[int, ...] = ()
    pause: float = 0.0

    @property
    def weight(self) -> int:
        """How much of a request this piece is, for progress."""
        return sum(map(len, self.words)) or len(self.tokens)


def plan_tokens(request: SpeechRequest) -> list[PiecePlan]:
    """The pieces of a request that gives its speech tokens."""
    return [PiecePlan(tokens=tokens) for tokens in request.tokens if tokens]


def plan_text(request: SpeechRequest, frontend: Frontend) -> list[PiecePlan]:
    """The pieces of a request's text. Raises TextError for a text that cannot be spoken."""
    pieces = []
    for piece in frontend.pieces(request.text):
        words = tuple(word.tokens for word in piece.words if word.tokens)
        if words:
            pieces.append(PiecePlan(words, pause=_pause_after(words) / request.speed))
    if not pieces:
        raise TextError("There is nothing to say: the text has no words.")
    return pieces


def _pause_after(words: Sequence[Sequence[int]]) -> float:
    """By the punctuation among the last ids."""
    marks = [token for token in words[-1] if token in PAUSE_IDS]
    if not marks:
        return PAUSES["none"]
    return PAUSES["comma" if marks[-1] == COMMA else "sentence"]


def make_machine(config: LMConfig, request: SpeechRequest, piece: PiecePlan) -> Machine:
    """The LM's way through a piece, the voice's prompt before it when the request wants that."""
    control = ControlIds.after(config.speech_vocab_size, config.num_control)
    layout = config.layout
    voice = request.voice if request.use_prompt_text and request.voice.card.words else None
    if layout.kind == "plain":
        text = [token for word in piece.words for token in word]
        return PlainMachine(
            control,
            text,
            prompt_text=[*request.control, *_prompt_text(voice)],
            prompt_speech=voice.prompt_tokens.tolist() if voice else (),
            min_tokens=int(len(text) * config.min_ratio),
            max_tokens=int(len(text) * config.max_ratio),
        )
    prompt_blocks: list[list[int]] = []
    prompt_speech: list[list[int]] = []
    if voice:
        card = voice.card
        prompt_blocks, prompt_speech = aligned_blocks(
            card.words, card.word_ends, voice.prompt_tokens.tolist(), layout.min_block, PAUSE_IDS
        )
    machine = BlockMachine(
        control,
        layout.lookahead,
        instruct=request.control,
        prompt_blocks=prompt_blocks,
        prompt_speech=prompt_speech,
        max_ratio=config.max_ratio,
        min_ratio=config.min_ratio,
        silent=config.silent_tokens,
    )
    for block in make_blocks(piece.words, layout.min_block, PAUSE_IDS):
        machine.push(block)
    machine.end()
    return machine


def _prompt_text(voice: Voice | None) -> list[int]:
    return [token for word in voice.card.words for token in word] if voice else []


def make_sampler(config: LMConfig, seed: int, piece: int) -> RepetitionAware:
    """The draws of one piece: a function of the request's seed and the piece's place in it."""
    # random.Random spreads neighbouring seeds; torch's generator starts them alike.
    spread = random.Random(f"{seed}/{piece}").getrandbits(63)
    return RepetitionAware(config.sampling, torch.Generator().manual_seed(spread))
