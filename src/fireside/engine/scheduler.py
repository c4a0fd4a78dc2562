"""Who goes first: what the engine computes next, by what each listener still has to hear.

A listener plays a request's audio from its first chunk on, so what they have in hand is the audio they were given
less the time since. Whoever is about to run dry comes first, then who still waits for a first sound, then the others,
those with the least in hand before those with more. While somebody is short, requests that are far ahead rest; when
nobody is, everybody moves. The scheduler knows no model: it is told what requests have and what work has cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

AHEAD = 3.0
"""Seconds of speech in hand, rendered or not, from which on a request rests while others have less."""

MARGIN = 0.15
"""Seconds before running dry by which the next audio should be there."""

PATIENCE = 1.0
"""Seconds for which a request whose listener wants all of it at once lets others go first."""

SLICE = 0.12
"""Seconds that rendering may take at a time, since nobody else moves meanwhile."""

GROWTH = (1, 1, 2, 4)
"""Chunks of the flow's mask in the hops of a request that is alone, the last for all that follow.

No clock decides about these, so that a request that is made again, alone again, is the same to the last bit.
"""

_MEMORY = 0.8  # how much of a cost's average stays when it is measured again

T = TypeVar("T")


@dataclass
class Listener:
    """What the listener of one request has of it. Times are in seconds, on one clock.

    since: when the request was made; eager: they play what comes at once, and do not wait for all of it; began: when
    they began to play; given: audio they were given since then; slacks: what they had in hand when each chunk after
    the first came; underruns: how often that was less than nothing.
    """

    since: float
    eager: bool
    began: float | None = None
    given: float = 0.0
    slacks: list[float] = field(default_factory=list)
    underruns: int = 0

    def lead(self, now: float) -> float:
        """Audio in hand, negative once it has run out; 0 before the first."""
        return 0.0 if self.began is None else self.given - (now - self.began)

    def hear(self, seconds: float, now: float) -> None:
        """A chunk of so many seconds was given to them. Who had run dry goes on playing from there."""
        if self.began is None:
            self.began = now
        else:
            slack = self.lead(now)
            self.slacks.append(slack)
            if slack < 0 and self.eager:
                self.underruns += 1
            if slack < 0:
                self.began -= slack
        self.given += seconds

    def rest(self, now: float) -> None:
        """Nothing was left to say for a while; whoever has heard everything begins anew with the next chunk."""
        if self.began is not None and self.lead(now) <= 0:
            self.since, self.began, self.given = now, None, 0.0

    def urgency(self, cost: float, now: float) -> float:
        """Seconds that work of that cost can still wait; 0 for who awaits a first sound, less for who runs dry."""
        if self.began is not None:
            return self.lead(now) - cost - MARGIN
        return 0.0 if self.eager else PATIENCE - (now - self.since)


@dataclass(frozen=True)
class Turn(Generic[T]):
    """Something that could be done next for a listener.

    tokens: how many speech tokens it would render; in_hand: seconds of speech whose tokens are there already, beside
    what the listener was given.
    """

    what: T
    listener: Listener
    tokens: int = 0
    in_hand: float = 0.0


class Scheduler:
    """Chooses among turns. Holds what work has cost lately, nothing of any request.

    chunk_tokens: speech tokens of a chunk of the flow's mask; token_rate: how many a second of speech has.
    """

    def __init__(self, chunk_tokens: int, token_rate: float) -> None:
        self._chunk_tokens = chunk_tokens
        self._chunk_seconds = chunk_tokens / token_rate
        self._per_token = 0.0

    def rendered(self, tokens: int, seconds: float) -> None:
        """So many tokens were rendered in so many seconds."""
        if tokens:
            cost = seconds / tokens
            self._per_token = cost if not self._per_token else _MEMORY * self._per_token + (1 - _MEMORY) * cost

    def chunks(self, listener: Listener, hop: int, alone: bool, now: float) -> int:
        """How many chunks a request should render as its hop of that number.

        Alone, as many as GROWTH has. Among others no more than fit into a SLICE, so that nobody waits for long, and no
        more than its listener has to hear meanwhile: at up to real time, they do not run dry.
        """
        if alone:
            return GROWTH[min(hop, len(GROWTH) - 1)]
        most = GROWTH[-1]
        if self._per_token:
            most = min(most, max(1, int(SLICE / (self._per_token * self._chunk_tokens))))
        if not listener.eager:
            return most
        return min(most, max(1, int(listener.lead(now) / self._chunk_seconds)))

    def decoding(self, turns: Sequence[Turn[T]], now: float) -> list[T]:
        """Who moves on in the LM: those who are short of speech, or everybody when nobody is."""
        short = [turn.what for turn in turns if turn.listener.lead(now) + turn.in_hand < AHEAD]
        return short or [turn.what for turn in turns]

    def rendering(self, turns: Iterable[Turn[T]], awaited: bool, now: float) -> list[T]:
        """What is rendered now, the most urgent first, in about a SLICE of time.

        awaited: the LM is at work on somebody's first sound, which only those who would run dry may delay.
        """
        ranked = []
        for turn in turns:
            cost = turn.tokens * self._per_token
            urgency = turn.listener.urgency(cost, now)
            if urgency <= 0 or not awaited:
                ranked.append((urgency, turn.listener.since, cost, turn.what))
        ranked.sort(key=lambda each: each[:2])
        chosen: list[T] = []
        budget = SLICE
        for _, _, cost, what in ranked:
            if chosen and cost > budget:
                break
            chosen.append(what)
            budget -= cost
        return chosen

    def admitting(self, turns: Iterable[Turn[T]], now: float) -> list[T]:
        """Those who wait for a place in the LM, in the order in which they should get one."""
        return [turn.what for turn in sorted(turns, key=lambda turn: (self._pressing(turn, now), turn.listener.since))]

    @staticmethod
    def _pressing(turn: Turn[T], now: float) -> float:
        return turn.listener.urgency(0.0, now) + turn.in_hand
