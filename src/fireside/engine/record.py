"""What the engine keeps of a request and of the piece of it that is being made. Dropping a record frees everything."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fireside.engine.decoder import Handle
from fireside.engine.incoming import Incoming
from fireside.engine.join import JoinState
from fireside.engine.plan import PiecePlan
from fireside.engine.render import Hop, Renderer, RenderState
from fireside.engine.silent import SilentTokenFilter
from fireside.request import AudioChunk, SpeechRequest, Timings


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

    def wants(self, hop: int) -> Hop | None:
        """What the renderer could do now as the request's hop of that number."""
        return self.renderer.wants(self.state, len(self.tokens) - self.taken, self.complete, hop)

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
    plans: deque[tuple[int, PiecePlan]]
    join: JoinState | None
    """None where pieces follow each other as the model made them."""
    submitted: float
    timings: Timings
    weight: int
    owned: bool
    incoming: Incoming | None = None
    """Takes the text that still comes; None when it is all there."""
    planned: int = 0
    pieces: deque[Piece] = field(default_factory=deque)
    spoken_weight: int = 0
    hop: int = 0
    chunks: int = 0
    samples: int = 0
    progress: float = 0.0
    fresh: list[int] = field(default_factory=list)
    """Tokens whose audio has not left yet."""
    ready: deque[AudioChunk] = field(default_factory=deque)
    error: BaseException | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will be made."""
        return self.error is not None or not (self.pieces or self.plans or self.incoming)

    @property
    def starved(self) -> bool:
        """Whether nothing can be made before more text comes."""
        if self.incoming is None or self.plans:
            return False
        return all(
            piece.handle is not None and piece.handle.machine.next() is None and piece.wants(self.hop) is None
            for piece in self.pieces
        )

    def plan(self, plans: Iterable[PiecePlan]) -> None:
        """Add pieces to be spoken after those there are."""
        for plan in plans:
            self.plans.append((self.planned, plan))
            self.planned += 1
            self.weight += plan.weight
