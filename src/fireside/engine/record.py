"""What the engine keeps of a request and of the piece of it that is being made. Dropping a record frees everything."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fireside.engine.decoder import Handle
from fireside.engine.incoming import Incoming
from fireside.engine.join import JoinState
from fireside.engine.plan import PiecePlan
from fireside.engine.render import Hop, Renderer, RenderState
from fireside.engine.scheduler import Listener
from fireside.engine.silent import SilentTokenFilter
from fireside.errors import FiresideError
from fireside.request import AudioChunk, SpeechRequest, Timings

AUDIBLE = 10 ** (-40 / 20)
"""Amplitude from which a listener is taken to hear something."""


@dataclass
class Piece:
    """A piece being made: its speech tokens so far, and what its renderer keeps of it."""

    plan: PiecePlan
    tokens: list[int]
    complete: bool
    renderer: Renderer[Any, Any]
    state: RenderState[Any, Any]
    heard: SilentTokenFilter | None = None
    handle: Handle | None = None

    @property
    def taken(self) -> int:
        """How many of the tokens have been rendered."""
        return self.state.taken

    @property
    def waiting(self) -> int:
        """How many have not."""
        return len(self.tokens) - self.taken

    def next_tokens(self, hop: Hop) -> list[int]:
        """Those that a hop renders."""
        return self.tokens[self.taken : self.taken + hop.tokens]

    def wants(self, hop: int, chunks: int, awaited: bool = False) -> Hop | None:
        """What the renderer could do now as the request's hop of that number, `chunks` of the flow's mask at a time.

        awaited: it is a first sound, which has more of them where the schedule says so and the LM goes on.
        """
        if awaited and not self.stuck:
            chunks += self.renderer.schedule.first - 1
        return self.renderer.wants(self.state, self.waiting, self.complete, hop, chunks)

    @property
    def stuck(self) -> bool:
        """Whether the LM can say no more of it before more text comes."""
        return self.handle is not None and self.handle.machine.next() is None

    @property
    def share(self) -> float:
        """How much of it is done, 0..1, guessed while its length is unknown."""
        expected = len(self.tokens)
        if not self.complete:
            expected = max(expected + 1, 2 * self.plan.weight)
        return self.taken / max(expected, 1)


@dataclass
class Record:
    """Everything there is of one request."""

    id: int
    request: SpeechRequest
    seed: int
    join: JoinState | None
    """None where pieces follow each other as the model made them."""
    submitted: float
    rate: int
    owned: bool
    listener: Listener
    spent: defaultdict[str, float]
    """Seconds that went to it, by their names in Timings."""
    timings: Timings = field(default_factory=Timings)
    """Those of its last chunk."""
    incoming: Incoming | None = None
    """Takes the text that still comes; None when it is all there."""
    held: bool = False
    """Whether its caller wants no more for now."""
    plans: deque[tuple[int, PiecePlan]] = field(default_factory=deque)
    planned: int = 0
    weight: int = 0
    pieces: deque[Piece] = field(default_factory=deque)
    spoken_weight: int = 0
    hop: int = 0
    drawn: int = 0
    chunks: int = 0
    samples: int = 0
    progress: float = 0.0
    fresh: list[int] = field(default_factory=list)
    """Tokens whose audio has not left yet."""
    ready: deque[AudioChunk] = field(default_factory=deque)
    error: FiresideError | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will be made."""
        return self.error is not None or not (self.pieces or self.plans or self.incoming)

    @property
    def starved(self) -> bool:
        """Whether nothing can be made before more text comes."""
        if self.incoming is None or self.plans:
            return False
        return all(piece.stuck and piece.wants(self.hop, 1) is None for piece in self.pieces)

    @property
    def waiting(self) -> int:
        """Speech tokens that have not been rendered."""
        return sum(piece.waiting for piece in self.pieces)

    @property
    def nbytes(self) -> int:
        """What flow, vocoder and the audio that has not been taken hold of it, in bytes."""
        audio = sum(chunk.samples.nbytes for chunk in self.ready)
        return audio + sum(piece.state.nbytes for piece in self.pieces)

    def plan(self, plans: Iterable[PiecePlan]) -> None:
        """Add pieces to be spoken after those there are."""
        for plan in plans:
            self.plans.append((self.planned, plan))
            self.planned += 1
            self.weight += plan.weight

    def emit(self, samples: np.ndarray, final: bool, spent: float, now: float) -> None:
        """Put the chunk of these samples [n] where the caller finds it.

        spent: the engine's time in this step so far, which is not noted yet.
        """
        seconds = len(samples) / self.rate
        timings = replace(self.timings, **self.spent, lm_tokens=self.drawn, elapsed=now - self.submitted)
        if self.samples == 0 and seconds:
            timings = replace(timings, ttfa=timings.elapsed)
        if timings.audible_ttfa == 0:
            loud = np.flatnonzero(np.abs(samples) > AUDIBLE)
            if len(loud):
                heard = max(timings.elapsed, timings.ttfa + self.samples / self.rate) + float(loud[0]) / self.rate
                timings = replace(timings, audible_ttfa=heard)
        self.samples += len(samples)
        self.timings = replace(timings, audio_seconds=self.samples / self.rate)
        if seconds:
            self.listener.hear(seconds, now)
        weight = self.spoken_weight + sum(piece.share * piece.plan.weight for piece in self.pieces)
        self.progress = 1.0 if final else max(self.progress, min(weight / max(self.weight, 1), 1.0))
        chunk = AudioChunk(
            samples,
            self.rate,
            index=self.chunks,
            final=final,
            timings=self.timings.plus(total=spent),
            progress=self.progress,
            tokens=tuple(self.fresh),
        )
        self.chunks += 1
        self.fresh = []
        self.ready.append(chunk)
