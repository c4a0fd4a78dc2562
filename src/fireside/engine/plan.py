"""What a request asks of each stage: its pieces, the LM's way through one of them, the pause after it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fireside.engine.proofread import Judge, ProofreadMachine
from fireside.engine.sampling import RepetitionAware
from fireside.errors import TextError
from fireside.models.config import LMConfig, SamplingConfig, TransformerLMConfig
from fireside.models.layout import ControlIds, aligned_blocks, make_blocks
from fireside.models.turns import BlockMachine, Machine, MixMachine, PlainMachine
from fireside.request import SpeechRequest
from fireside.text.frontend import Frontend
from fireside.text.phones import PAUSE_IDS, PHONE_ID

if TYPE_CHECKING:
    from fireside.engine.texts import AnyFrontend
    from fireside.text import Piece
    from fireside.voices import Voice

AnyLMConfig = LMConfig | TransformerLMConfig
COMMA = PHONE_ID[","]
PAUSES = {"sentence": 0.40, "comma": 0.20, "none": 0.10}
"""Seconds between two pieces, after what ends the first one: as the corpus' voices read."""


@dataclass(frozen=True)
class PiecePlan:
    """One piece:

    its words as text ids, or its speech tokens when these are given, or the machine that its text will come
    to; the pause after it in seconds.
    """

    words: tuple[tuple[int, ...], ...] = ()
    tokens: tuple[int, ...] = ()
    machine: MixMachine | None = None
    pause: float = 0.0

    @property
    def weight(self) -> int:
        """How much of a request this piece is, for progress."""
        return sum(map(len, self.words)) or len(self.tokens)


def plan_tokens(request: SpeechRequest) -> list[PiecePlan]:
    """The pieces of a request that gives its speech tokens."""
    return [PiecePlan(tokens=tokens) for tokens in request.tokens if tokens]


def plan_text(text: str, speed: float, frontend: AnyFrontend, normalise: bool = True) -> list[PiecePlan]:
    """The pieces of a text; as it is written where a front end can leave it so. Raises TextError for a text that
    cannot be spoken."""
    if isinstance(frontend, Frontend):
        plans = plan_pieces(frontend.pieces(text), speed, phones=True)
    else:
        plans = plan_pieces(frontend.pieces(text, normalise), speed, phones=False)
    if not plans:
        raise TextError("There is nothing to say: the text has no words.")
    return plans


def plan_pieces(pieces: Iterable[Piece], speed: float, phones: bool) -> list[PiecePlan]:
    """The pieces of a front end that have something to say; a pause after each where the ids are hearth's phones."""
    plans = []
    for piece in pieces:
        words = tuple(word.tokens for word in piece.words if word.tokens)
        if words:
            plans.append(PiecePlan(words, pause=_pause_after(words) / speed if phones else 0.0))
    return plans


def _pause_after(words: Sequence[Sequence[int]]) -> float:
    """By the punctuation among the last ids."""
    marks = [token for token in words[-1] if token in PAUSE_IDS]
    if not marks:
        return PAUSES["none"]
    return PAUSES["comma" if marks[-1] == COMMA else "sentence"]


def make_machine(
    config: AnyLMConfig, request: SpeechRequest, piece: PiecePlan, judge: Judge | None = None, first: bool = False
) -> Machine:
    """The LM's way through a piece, the voice's prompt before it when the request wants that; read back by `judge`.

    first: it is the request's first.
    """
    if piece.machine is not None:
        return piece.machine
    control = ControlIds.of(config)
    voice = prompt_voice(request)
    if isinstance(config, LMConfig) and config.layout.kind == "block":
        blocks = _block_machine(config, control, request, piece, voice)
        proof = config.proofread
        if judge is None:
            return blocks
        return ProofreadMachine(blocks, judge, proof.tries, proof.good, proof.first_tries if first else None)
    text = [token for word in piece.words for token in word]
    return PlainMachine(
        control,
        text,
        prompt_text=[*request.control, *prompt_text(voice)],
        prompt_speech=voice.prompt_tokens.tolist() if voice else (),
        min_tokens=int(len(text) * config.min_ratio),
        max_tokens=int(len(text) * config.max_ratio),
    )


def _block_machine(
    config: LMConfig, control: ControlIds, request: SpeechRequest, piece: PiecePlan, voice: Voice | None
) -> BlockMachine:
    layout = config.layout
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


def prompt_voice(request: SpeechRequest) -> Voice | None:
    """The voice whose recorded prompt the LM continues, if it does."""
    return request.voice if request.use_prompt_text and request.voice.card.words else None


def prompt_text(voice: Voice | None) -> list[int]:
    """Text ids of what a voice's prompt says."""
    return [token for word in voice.card.words for token in word] if voice else []


def make_sampler(config: SamplingConfig, seed: int, piece: int) -> RepetitionAware:
    """The draws of one piece: a function of the request's seed and the piece's place in it."""
    # random.Random spreads neighbouring seeds; torch's generator starts them alike.
    spread = random.Random(f"{seed}/{piece}").getrandbits(63)
    return RepetitionAware(config, torch.Generator().manual_seed(spread))
