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

NEAR = 0.9
"""The same while somebody waits for a first sound, which is sooner there the fewer others the LM moves on."""

FIRST = 1.4
"""Seconds of speech that a first sound is made of at most: who waits for one and has so much needs the LM no more."""

FEW = 4
"""Requests at once beyond which a first sound has a chunk more: until it is that listener's turn again, more of the
others come."""

MARGIN = 0.4
"""Seconds before running dry by which the next audio should be there."""

PATIENCE = 1.0
"""Seconds for which a request whose listener wants all of it at once lets others go first."""

SLICE = 0.18
"""Seconds that rendering may take at a time while somebody waits for a first sound."""

CALM_SLICE = 0.25
"""The same at most while nobody does and nobody is about to run dry: large pieces of work cost less, but who comes
meanwhile has to wait."""

SPARE = 0.1
"""Seconds before somebody runs dry by which such a piece of work is done."""

LONG_SLICE = 0.4
"""The same when more is due than can be rendered before somebody runs dry, or nobody plays what comes: then only more
work done in the same time helps."""

LEAST_PRESSED = 2
"""Chunks of the shortest hop, but for the first, while rendering takes a LONG_SLICE at a time."""

GROWTH = (1, 1, 2, 4)
"""Chunks of the flow's mask in the hops of a request that is alone, the last for all that follow.

No clock decides about these, so that a request that is made again, alone again, is the same to the last bit.
"""

_MEMORY = 0.8  # how much of a cost's average stays when it is measured again

_UNKNOWN = 1e-9  # seconds that work is taken to cost before any was measured: workers share it equally

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

    @property
    def awaits(self) -> bool:
        """Whether they wait for a first sound."""
        return self.eager and self.began is None

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
        self._costs: dict[int, tuple[float, float]] = {}

    @property
    def _per_token(self) -> float:
        """Seconds that rendering a token has taken lately, with the fewest threads; 0 before the first."""
        if not self._costs:
            return 0.0
        tokens, seconds = self._costs[min(self._costs)]
        return seconds / tokens

    def rendered(self, tokens: int, seconds: float, threads: int = 1) -> None:
        """So many tokens were rendered in so many seconds, with so many threads."""
        # Kept apart, so that a hop of few tokens, whose costs are those of a whole chunk, does not count like others.
        before = self._costs.get(threads, (0.0, 0.0))
        self._costs[threads] = _MEMORY * before[0] + tokens, _MEMORY * before[1] + seconds

    def short(self, seconds: float) -> bool:
        """Whether so many seconds of speech are too few for the LM to leave that listener for a first sound's sake."""
        return seconds < NEAR

    def slice(self, due: Sequence[Listener], awaited: bool, now: float) -> float:
        """How long rendering may take at a time, in seconds: from a SLICE to a CALM_SLICE, or a LONG_SLICE.

        due: of the requests that have the speech tokens of a chunk; awaited: somebody waits for a first sound. If a
        chunk for each of them takes longer to render than to play, somebody runs dry whoever goes first.
        """
        cost = len(due) * self._chunk_tokens * self._per_token
        leads = [listener.lead(now) for listener in due if listener.eager]
        if not leads or cost > self._chunk_seconds:
            return LONG_SLICE
        return SLICE if awaited else min(max(min(leads) - SPARE, SLICE), CALM_SLICE)

    def chunks(self, listener: Listener, hop: int, crowd: int, slice: float, now: float) -> Sequence[int]:
        """How many chunks a request should render as its hop of that number, one of so many requests; what is best
        comes first. For a first sound, what its schedule asks for counts as the first chunk.

        Alone, as many as GROWTH has. Among others no more than fit into a slice; in one that is just a SLICE, no more
        than its listener has to hear meanwhile, so that at up to real time they do not run dry; in a LONG_SLICE, not
        too few.
        """
        if crowd == 1:
            return (GROWTH[min(hop, len(GROWTH) - 1)],)
        most = GROWTH[-1]
        if self._per_token:
            most = min(most, max(1, int(slice / (self._per_token * self._chunk_tokens))))
        if not listener.eager:
            return (most,)
        if listener.began is None:
            return (2 if crowd > FEW else 1,)
        if slice > SLICE:
            least = min(most, LEAST_PRESSED) if slice == LONG_SLICE else 1
            return range(most, least - 1, -1)
        return (min(most, max(1, int(listener.lead(now) / self._chunk_seconds))),)

    def decoding(
        self, turns: Sequence[Turn[T]], now: float, together: int = 1, soon: bool = False, crowd: int = 1
    ) -> list[T]:
        """Who moves on in the LM: those who are short of speech, or everybody when nobody is.

        together: so many share a product; where it has room, and nobody's first sound waits for it, others join in.
        soon: of those who wait for a first sound only the first moves on, where steps take longer the more there are
        and nothing else could be rendered meanwhile: it is, while the LM is at the next, and who is last waits no
        longer.
        crowd: how many requests there are.
        """

        def has(turn: Turn[T]) -> float:
            return turn.listener.lead(now) + turn.in_hand

        ranked = sorted(turns, key=has)
        enough = FIRST + (self._chunk_seconds if crowd > FEW else 0.0)
        awaiting = [turn for turn in turns if turn.listener.awaits and has(turn) < enough]
        short = [turn for turn in ranked if has(turn) < (NEAR if awaiting else AHEAD) or turn in awaiting]
        if awaiting and soon:
            first = min(awaiting, key=lambda turn: turn.listener.since)
            short = [turn for turn in short if turn is first or not turn.listener.awaits]
        if not short:
            short = ranked
        elif not awaiting:
            short = ranked[: len(short) + -len(short) % together]
        return [turn.what for turn in short]

    def rendering(
        self, turns: Iterable[Turn[T]], awaited: bool, slice: float, now: float, workers: int = 1
    ) -> list[list[T]]:
        """What is rendered now, the most urgent first: for each of so many workers, about a slice of time's worth.

        awaited: the LM is at work on somebody's first sound, which only those who would run dry may delay. Workers
        for whom nothing is left are not in the list.
        """
        ranked = []
        for turn in turns:
            cost = turn.tokens * self._per_token
            urgency = turn.listener.urgency(cost, now)
            if urgency <= 0 or not awaited:
                ranked.append((urgency, turn.listener.since, cost, turn.what))
        ranked.sort(key=lambda each: each[:2])
        shares: list[list[T]] = [[] for _ in range(workers)]
        loads = [0.0] * workers
        for _, _, cost, what in ranked:
            least = loads.index(min(loads))
            if shares[least] and loads[least] + cost > slice:
                break
            shares[least].append(what)
            loads[least] += cost or _UNKNOWN
        return [share for share in shares if share]

    def admitting(self, turns: Iterable[Turn[T]], now: float) -> list[T]:
        """Those who wait for a place in the LM, in the order in which they should get one."""
        return [turn.what for turn in sorted(turns, key=lambda turn: (self._pressing(turn, now), turn.listener.since))]

    @staticmethod
    def _pressing(turn: Turn[T], now: float) -> float:
        return turn.listener.urgency(0.0, now) + turn.in_hand
