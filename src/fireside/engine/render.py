"""Speech tokens to waveform: a flow stage, the rate change and a vocoder stage, in hops that a schedule decides.

The stages differ from model to model, and with whether a request is streamed; what they share is the shape of
two protocols, with one explicit state for each request. See `stages.py` for which model gets which.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from fireside.engine.adaptation import adaptation_of
from fireside.engine.calibration import Calibration, filled_bins, measure
from fireside.engine.flow import IncrementalFlow
from fireside.engine.speed import SpeedState, change_speed, stretch
from fireside.models.causal import Tails

if TYPE_CHECKING:
    from fireside.voices import Voice

LEAST_TOKENS = 4
"""Fewer are not worth a hop: the vocoder keeps two tokens' worth of frames back."""


class FlowPast(Protocol):
    """What a flow stage keeps of one request."""

    def fork(self: F) -> F:
        """A second continuation of the same past; neither notices what the other appends."""

    @property
    def nbytes(self) -> int:
        """Memory held by this request alone, in bytes."""


F = TypeVar("F", bound=FlowPast)


class VocoderPast(Protocol):
    """What a vocoder stage keeps of one request."""

    @property
    def nbytes(self) -> int:
        """Memory held by this request, in bytes."""


V = TypeVar("V", bound=VocoderPast)


class FlowStage(Protocol[F]):
    """Tokens to mel, in pieces. device: where it computes."""

    device: torch.device

    @property
    def bytes_per_frame(self) -> int:
        """What a mel frame adds to a request's state; 0 where it does not grow."""

    def start(
        self, prompt_tokens: Tensor, prompt_mel: Tensor, embedding: Tensor, adaptation: Tensor | None = None
    ) -> F:
        """A state that has heard a prompt: [P] ids, [n_mels, frames] natural log, [speaker_dim].

        adaptation: of the voice, where the flow adapts (engine/adaptation.py).
        """

    def append(self, states: Sequence[F], tokens: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
        """The next mel frames of each request, [n_mels, frames], after its new tokens [T]."""


class VocoderStage(Protocol[V]):
    """Mel to waveform, in pieces."""

    def start(self, seed: int | None = 0) -> V:
        """The state of a new request. seed: of the source's noise; None leaves it out."""

    def append(self, states: Sequence[V], mels: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
        """The next samples of each request, [samples], after its new frames [n_mels, frames]."""


@dataclass(frozen=True)
class Hop:
    """What a request does next: how many of its waiting tokens are rendered, and whether that is the end.

    opening: they complete what the prompt left open, and make no sound; such a hop does not count.
    """

    tokens: int
    final: bool
    opening: bool = False


class Schedule(Protocol):
    """Decides how a request's tokens are cut into hops."""

    @property
    def whole(self) -> bool:
        """Whether everything is rendered in one hop."""

    @property
    def first(self) -> int:
        """Least chunks of the hop that a listener's first sound comes from."""

    def lead(self, prompt: int) -> int:
        """How many tokens a prompt of so many should have more, in front, so that the first sound waits for less."""

    def wants(self, prompt: int, taken: int, waiting: int, complete: bool, hop: int, chunks: int = 1) -> Hop | None:
        """The next hop, or None while its tokens are not all there.

        prompt: tokens of the prompt; taken, waiting: tokens that were rendered and that were not; complete: no
        more will come; hop: how many hops the request has made; chunks: of the flow's mask, how many the hop should
        have, where that is free to choose.
        """


@dataclass(frozen=True)
class ChunkHops:
    """Whole chunks of the flow's mask, counted from the start of the prompt, and the tokens it looks ahead to.

    hops: how many chunks each hop has, the last entry for all that follow; None leaves it to who asks. as_released:
    the schedule of the released code to the letter, which waits for a whole chunk behind the one that the prompt ends
    in, and closes in a hop of its own when tokens run out exactly at a chunk's end. (Its hops grew from request to
    request, too; a request here has its own.)

    A prompt that fills its last chunk still waits for the tokens that this chunk looks ahead to. They are rendered
    as soon as they are there, so that the first sound has that chunk less to wait for. aligned: prompts are made to
    end in what their last whole chunk looks ahead to, so that no such chunk is left to each request, and the first
    sound is most of a chunk. first: least chunks of a hop that a listener's first sound comes from: what is left of one
    chunk behind a silent beginning and before what the vocoder keeps back may be heard before the next can be there.
    """

    chunk_tokens: int
    lookahead: int
    hops: tuple[int, ...] | None = None
    as_released: bool = False
    aligned: bool = False
    first: int = 1
    whole = False

    def lead(self, prompt: int) -> int:
        """See Schedule."""
        return (self.lookahead - prompt) % self.chunk_tokens if self.aligned and prompt else 0

    def wants(self, prompt: int, taken: int, waiting: int, complete: bool, hop: int, chunks: int = 1) -> Hop | None:
        """See Schedule."""
        if taken == 0 and prompt and prompt % self.chunk_tokens == 0 and not complete:
            return Hop(self.lookahead, False, opening=True) if waiting >= self.lookahead else None
        if self.hops is not None:
            chunks = self.hops[min(hop, len(self.hops) - 1)]
        position = prompt + max(0, taken - self.lookahead)
        if self.as_released and taken == 0:
            position += -position % self.chunk_tokens
        end = (position // self.chunk_tokens + chunks) * self.chunk_tokens + self.lookahead
        wanted = end - prompt - taken
        if wanted < LEAST_TOKENS + (0 if taken else self.lookahead):  # a prompt that ends just before a chunk does
            wanted += self.chunk_tokens
        if complete and (waiting < wanted or (waiting == wanted and not self.as_released)):
            return Hop(waiting, True)
        return Hop(wanted, False) if waiting >= wanted else None


@dataclass(frozen=True)
class OverlapHops:
    """CosyVoice 1's schedule: `hop` tokens at a time, each rendered with the `overlap` tokens that follow it.

    The flow stage keeps the overlap, so the first hop takes both and each later one `hop` new tokens.
    """

    hop: int = 100
    overlap: int = 20
    first = 1
    whole = False

    def lead(self, prompt: int) -> int:
        """See Schedule."""
        return 0

    def wants(self, prompt: int, taken: int, waiting: int, complete: bool, hop: int, chunks: int = 1) -> Hop | None:
        """See Schedule."""
        wanted = self.hop + (self.overlap if taken == 0 else 0)
        if waiting >= wanted:
            return Hop(wanted, False)
        return Hop(waiting, True) if complete else None


@dataclass(frozen=True)
class Whole:
    """Everything at once, when the last token is there."""

    first = 1
    whole = True

    def lead(self, prompt: int) -> int:
        """See Schedule."""
        return 0

    def wants(self, prompt: int, taken: int, waiting: int, complete: bool, hop: int, chunks: int = 1) -> Hop | None:
        """See Schedule."""
        return Hop(waiting, True) if complete else None


@dataclass
class RenderState(Generic[F, V]):
    """One request's way through flow, rate change and vocoder. Dropping it frees all that is kept."""

    flow: F
    vocoder: V
    speed: SpeedState
    schedule: Schedule
    prompt: int
    calibration: Calibration | None = None
    taken: int = 0

    @property
    def nbytes(self) -> int:
        """Memory held by this request, without what it shares with its voice, in bytes."""
        return self.flow.nbytes + self.vocoder.nbytes

    def saved(self) -> RenderState[F, V]:
        """What `restore` goes back to."""
        return replace(self, flow=_apart(self.flow), vocoder=_apart(self.vocoder), speed=_apart(self.speed))

    def restore(self, saved: RenderState[F, V]) -> None:
        """Go back to a state that was saved; once."""
        self.flow, self.vocoder, self.speed, self.taken = saved.flow, saved.vocoder, saved.speed, saved.taken


@dataclass(frozen=True)
class Prompt(Generic[F]):
    """What a voice leaves behind, shared by its requests: the flow's state after the prompt, the number of tokens in
    it, and the voice's calibration."""

    flow: F
    tokens: int
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Rendered:
    """The samples [n] that each row's hop made, or why it failed; and the wall time of the two stages in seconds."""

    waves: list[np.ndarray | Exception]
    flow_seconds: float
    vocoder_seconds: float


class Renderer(Generic[F, V]):
    """Renders requests with one model's stages. Holds nothing of any request."""

    def __init__(self, flow: FlowStage[F], vocoder: VocoderStage[V], schedule: Schedule) -> None:
        self.flow = flow
        self.vocoder = vocoder
        self.schedule = schedule

    @property
    def bytes_per_frame(self) -> int:
        """What a mel frame adds to a request's state, in bytes; 0 where it does not grow."""
        return self.flow.bytes_per_frame

    @property
    def lost(self) -> bool:
        """Whether it can render no more, nor can what it began."""
        return False

    def prompt(self, voice: Voice) -> Prompt[F]:
        """Hear a voice's prompt; once for each voice, `start` gives every request a continuation of its own."""
        tokens, mel = self.heard(voice)
        calibration = None if voice.calibration is None else Calibration.of(voice.calibration, self.flow.device)
        adaptation = None if voice.adaptation is None else torch.from_numpy(voice.adaptation)
        state = self.flow.start(tokens, mel, torch.from_numpy(voice.embedding), adaptation)
        return Prompt(state, len(tokens), calibration)

    def fitted(self, voice: Voice) -> Voice:
        """The voice of a recording with its calibration, and before that its adaptation where the flow adapts."""
        voice, true = replace(voice, adaptation=None, calibration=None), voice.prompt_mel.T
        made = self._said_again(voice)
        if isinstance(self.flow, IncrementalFlow) and self.flow.config.adapt:
            tokens, mel, embedding = map(torch.from_numpy, (voice.prompt_tokens, true, voice.embedding))
            adaptation = adaptation_of(self.flow.flow, tokens, mel, embedding, filled_bins(made, true))
            voice = replace(voice, adaptation=adaptation)
            made = self._said_again(voice)
        return replace(voice, calibration=measure(made, true))

    def _said_again(self, voice: Voice) -> np.ndarray:
        """What the flow makes of a voice's prompt, each half of it behind the other half: [n_mels, frames]."""
        tokens, mel, half = voice.prompt_tokens, voice.prompt_mel, len(voice.prompt_tokens) // 2
        middle = half * len(mel) // len(tokens)
        halves = (tokens[:half], mel[:middle]), (tokens[half:], mel[middle:])
        pasts = [
            self.prompt(replace(voice, prompt_tokens=heard, prompt_mel=sound)).flow for heard, sound in reversed(halves)
        ]
        made = self.flow.append(pasts, [torch.from_numpy(said) for said, _ in halves], [True, True])
        return torch.cat(made, dim=1).float().cpu().numpy()

    def heard(self, voice: Voice) -> tuple[Tensor, Tensor]:
        """A voice's prompt as the flow hears it: tokens [P], mel [n_mels, frames].

        Where the schedule wants it longer, its own end is heard in front of it, too: more of the same voice.
        """
        tokens, mel = torch.from_numpy(voice.prompt_tokens), torch.from_numpy(voice.prompt_mel)
        lead = self.schedule.lead(len(tokens))
        if lead:
            # A prompt may be shorter than what it lacks.
            again = torch.arange(-lead, 0) % len(tokens)
            ratio = len(mel) // len(tokens)
            frames = (again[:, None] * ratio + torch.arange(ratio)).flatten()
            tokens, mel = torch.cat([tokens[again], tokens]), torch.cat([mel[frames], mel])
        return tokens, mel.T.contiguous()

    def start(
        self, prompt: Prompt[F], speed: float = 1.0, hops: tuple[int, ...] | None = None, seed: int | None = 0
    ) -> RenderState[F, V]:
        """A new request's state.

        hops: in place of the schedule's own, where it counts in chunks. seed: of the vocoder's noise, None for none.
        """
        return RenderState(
            prompt.flow.fork(),
            self.vocoder.start(seed),
            SpeedState(speed),
            self.cut(hops),
            prompt.tokens,
            prompt.calibration,
        )

    def cut(self, hops: tuple[int, ...] | None) -> Schedule:
        """The schedule of a request, with hops of its own where it has some."""
        if hops and isinstance(self.schedule, ChunkHops):
            return replace(self.schedule, hops=hops)
        return self.schedule

    def wants(self, state: RenderState[F, V], waiting: int, complete: bool, hop: int, chunks: int = 1) -> Hop | None:
        """The request's next hop, or None; arguments as in Schedule.wants."""
        return state.schedule.wants(state.prompt, state.taken, waiting, complete, hop, chunks)

    def append(
        self, states: Sequence[RenderState[F, V]], tokens: Sequence[Sequence[int]], finals: Sequence[bool]
    ) -> Rendered:
        """Render each request's next hop, as `wants` had it. One that fails leaves the others as if it were not there;
        its own state is spent."""
        saved = [state.saved() for state in states] if len(states) > 1 else []
        started = time.perf_counter()
        try:
            return self._append(states, tokens, finals)
        except Exception as error:
            if not saved:
                return Rendered([error], time.perf_counter() - started, 0.0)
        # Whose fault it was shows when each is rendered alone.
        for state, before in zip(states, saved, strict=True):
            state.restore(before)
        rows = zip(states, tokens, finals, strict=True)
        alone = [self.append([state], [row], [final]) for state, row, final in rows]
        return Rendered(
            [wave for each in alone for wave in each.waves],
            sum(each.flow_seconds for each in alone),
            sum(each.vocoder_seconds for each in alone),
        )

    def _append(
        self, states: Sequence[RenderState[F, V]], tokens: Sequence[Sequence[int]], finals: Sequence[bool]
    ) -> Rendered:
        started = time.perf_counter()
        ids = [torch.tensor(row, dtype=torch.long) for row in tokens]
        mels = self.flow.append([state.flow for state in states], ids, finals)
        for state, row in zip(states, tokens, strict=True):
            state.taken += len(row)
        mels = [
            mel if state.calibration is None else state.calibration(mel)
            for state, mel in zip(states, mels, strict=True)
        ]
        between = time.perf_counter()
        mels = [self._paced(state, mel, final) for state, mel, final in zip(states, mels, finals, strict=True)]
        waves = self.vocoder.append([state.vocoder for state in states], mels, finals)
        samples: list[np.ndarray | Exception] = [wave.float().cpu().numpy() for wave in waves]
        return Rendered(samples, between - started, time.perf_counter() - between)

    @staticmethod
    def _paced(state: RenderState[F, V], mel: Tensor, final: bool) -> Tensor:
        """The mel at the request's speed."""
        if state.schedule.whole:
            return stretch(mel, state.speed.speed)
        return change_speed(state.speed, mel, final)


def _apart(value: Any) -> Any:
    """A copy of a stage's state that notices nothing of what is done to it, sharing the tensors.

    No stage writes into a tensor that it has; it puts another in its place, or fills room behind what counts.
    """
    if isinstance(value, list):
        return [_apart(each) for each in value]
    if isinstance(value, dict):
        return dict(value)
    made = getattr(type(value), "__dataclass_params__", None)
    if not isinstance(value, Tails) and (made is None or made.frozen):
        return value
    twin = copy.copy(value)
    vars(twin).update({name: _apart(each) for name, each in vars(value).items()})
    return twin
