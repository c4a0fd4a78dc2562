"""The engine: several requests at once through LM, flow and vocoder, in chunks.

`submit` takes a request in, `step` moves every request on (one LM id for each that decodes, then flow and
vocoder for those that have a chunk's worth of speech tokens), `cancel` drops one. A request owns all that is
made for it; when it ends, fails or is cancelled, dropping its record frees everything. A long text is spoken
piece by piece, each piece a run of its own from the voice's prompt; while one piece is vocoded the LM is at
the next."""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from fireside.engine.flow import FlowState, IncrementalFlow
from fireside.engine.join import JoinState, join
from fireside.engine.lm import Handle, LMDecoder
from fireside.engine.plan import PiecePlan, make_machine, make_sampler, plan_text, plan_tokens
from fireside.engine.speed import SpeedState, change_speed
from fireside.engine.vocoder import IncrementalVocoder, VocoderState
from fireside.errors import FiresideError
from fireside.request import AudioChunk, SpeechRequest, Timings

if TYPE_CHECKING:
    from fireside.models.checkpoint import ModelFolder
    from fireside.text import Frontend
    from fireside.voices import Voice

AUDIBLE = 10 ** (-40 / 20)
"""Amplitude from which a listener is taken to hear something."""


LAST_PAUSE = 0.15
"""Seconds of silence at the very end."""

LEAST_TOKENS = 4
"""Fewer are not worth a hop: the vocoder keeps two tokens' worth of frames back."""


@dataclass
class _Piece:
    """A piece being made: its speech tokens so far, how many the flow has, and what flow and vocoder keep."""

    plan: PiecePlan
    tokens: list[int]
    complete: bool
    flow: FlowState
    vocoder: VocoderState
    speed: SpeedState
    handle: Handle | None = None
    taken: int = 0

    @property
    def share(self) -> float:
        """How much of it is done, 0..1, guessed while its length is unknown."""
        expected = len(self.tokens)
        if not self.complete:
            expected = max(expected + 1, 2 * self.plan.weight)
        return self.taken / max(expected, 1)


@dataclass
class _Request:
    """Everything there is of one request."""

    id: int
    request: SpeechRequest
    seed: int
    plans: deque[tuple[int, PiecePlan]]
    join: JoinState
    submitted: float
    timings: Timings
    weight: int
    owned: bool
    pieces: deque[_Piece] = field(default_factory=deque)
    spoken_weight: int = 0
    hop: int = 0
    chunks: int = 0
    samples: int = 0
    progress: float = 0.0
    fresh: list[int] = field(default_factory=list)
    """Tokens whose audio has not left yet."""
    ready: deque[AudioChunk] = field(default_factory=deque)
    error: BaseException | None = None


class Speaking(Iterator[AudioChunk]):
    """The chunks of one request; closing or dropping it cancels the request."""

    def __init__(self, engine: Engine, key: int) -> None:
        self._engine, self._key = engine, key

    def __next__(self) -> AudioChunk:
        return self._engine._next(self._key)

    def close(self) -> None:
        """Cancel the request, if it is not over."""
        self._engine.cancel(self._key)

    def __del__(self) -> None:
        self._engine._drop(self._key)


class Engine:
    """Computes speech requests with the parts of one model.

    rows: how many pieces the LM decodes at once. max_len: text and speech positions of one piece, prompt
    included. voices: how many voices' prompts are kept ready. May be used from several threads."""

    def __init__(self, model: ModelFolder, rows: int = 8, max_len: int = 4096, voices: int = 8) -> None:
        self.model = model
        self._rows, self._max_len, self._max_voices = rows, max_len, voices
        self._requests: dict[int, _Request] = {}
        self._speaking: dict[Handle, tuple[_Request, _Piece]] = {}
        self._prompts: OrderedDict[str, FlowState] = OrderedDict()
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._busy = False
        self._dropped: deque[int] = deque()

    @cached_property
    def frontend(self) -> Frontend:
        """Text to words of text tokens."""
        from fireside.text import Frontend

        return Frontend()

    @cached_property
    def _decoder(self) -> LMDecoder:
        return LMDecoder(self.model.lm, slots=self._rows, max_len=self._max_len)

    @cached_property
    def _flow(self) -> IncrementalFlow:
        return IncrementalFlow(self.model.flow)

    @cached_property
    def _vocoder(self) -> IncrementalVocoder:
        return IncrementalVocoder(self.model.vocoder)

    @property
    def active(self) -> int:
        """Requests that are not over."""
        return len(self._requests)

    def submit(self, request: SpeechRequest) -> int:
        """Take a request in and return its id. Raises TextError for a text that cannot be spoken."""
        return self._submit(request, owned=False)

    def generate(self, request: SpeechRequest) -> Speaking:
        """The chunks of one request as they are made; other requests move on meanwhile.

        Raises as `submit`.
        """
        return Speaking(self, self._submit(request, owned=True))

    def _submit(self, request: SpeechRequest, owned: bool) -> int:
        submitted = time.perf_counter()
        plans = plan_text(request, self.frontend) if not request.tokens else plan_tokens(request)
        elapsed = time.perf_counter() - submitted
        state = _Request(
            next(self._ids),
            request,
            seed=0 if request.seed is None else request.seed,
            plans=deque(enumerate(plans)),
            join=JoinState(self.model.config.vocoder.sample_rate, trim=not request.tokens),
            submitted=submitted,
            timings=Timings(front_end=elapsed, total=elapsed),
            weight=max(1, sum(plan.weight for plan in plans)),
            owned=owned,
        )
        with self._lock:
            self._requests[state.id] = state
        return state.id

    def cancel(self, key: int) -> None:
        """Drop a request and all that is kept for it; does nothing when it is already over."""
        with self._lock:
            state = self._requests.pop(key, None)
            if state is not None:
                self._free(state)

    def _drop(self, key: int) -> None:
        """As `cancel`, from wherever Python collects garbage: in the midst of a step, too."""
        self._dropped.append(key)
        if not self._busy:
            self._sweep()

    def _sweep(self) -> None:
        with self._lock:
            while self._dropped:
                self.cancel(self._dropped.popleft())

    def step(self) -> list[tuple[int, AudioChunk | FiresideError]]:
        """Move every request on; what came out of those of `submit`, each with its id.

        A request that fails yields its error as its last item. Any other exception ends all requests and is
        raised."""
        with self._lock:
            self._advance()
            out: list[tuple[int, AudioChunk | FiresideError]] = []
            for state in [state for state in self._requests.values() if not state.owned]:
                out += [(state.id, chunk) for chunk in state.ready]
                state.ready.clear()
                if isinstance(state.error, FiresideError):
                    out.append((state.id, state.error))
                if state.error is not None or not (state.pieces or state.plans):
                    del self._requests[state.id]
            return out

    def _next(self, key: int) -> AudioChunk:
        """The next chunk of a request of `generate`."""
        with self._lock:
            while True:
                state = self._requests.get(key)
                if state is None:
                    raise StopIteration
                if state.ready:
                    return state.ready.popleft()
                if state.error is not None or not (state.pieces or state.plans):
                    del self._requests[key]
                    if state.error is None:
                        raise StopIteration
                    raise state.error
                self._advance()

    def _advance(self) -> None:
        self._sweep()
        working = [state for state in self._requests.values() if state.pieces or state.plans]
        started = time.perf_counter()
        self._busy = True
        try:
            self._open()
            self._decode()
            self._speak(started)
        except BaseException as error:
            # The states may be half moved on: nobody's can be trusted any more.
            for state in list(self._requests.values()):
                self._fail(state, error)
                if not state.owned:
                    del self._requests[state.id]
            raise
        finally:
            self._busy = False
        elapsed = time.perf_counter() - started
        for state in working:
            state.timings = state.timings.plus(total=elapsed)

    def _fail(self, state: _Request, error: BaseException) -> None:
        state.error = error
        self._free(state)

    def _free(self, state: _Request) -> None:
        for piece in state.pieces:
            self._release(piece)
        state.pieces.clear()
        state.plans.clear()

    def _release(self, piece: _Piece) -> None:
        if piece.handle is not None:
            self._decoder.release(piece.handle)
            del self._speaking[piece.handle]
            piece.handle = None

    def _open(self) -> None:
        """Begin pieces while the LM has room: everybody's first one, then the ones after."""
        requests = list(self._requests.values())
        for state in requests:
            if not state.pieces and state.plans:
                self._begin(state)
        for state in requests:
            # One piece ahead, once the LM is done with the one before: the listener does not wait for it, and
            # no more than two pieces are ever kept.
            if len(state.pieces) == 1 and state.plans and state.pieces[0].complete:
                self._begin(state)

    def _begin(self, state: _Request) -> None:
        """Begin a request's next piece, unless the LM has no room."""
        given = bool(state.request.tokens)
        if not given and not self._decoder.free_slots:
            return
        index, plan = state.plans.popleft()
        piece = _Piece(
            plan,
            tokens=list(plan.tokens),
            complete=given,
            flow=self._prompt(state),
            vocoder=self._vocoder.start(),
            speed=SpeedState(state.request.speed),
        )
        if not given:
            config = self.model.config.lm
            piece.handle = self._decoder.admit(
                make_machine(config, state.request, plan), make_sampler(config, state.seed, index)
            )
            self._speaking[piece.handle] = (state, piece)
        state.pieces.append(piece)

    def _prompt(self, state: _Request) -> FlowState:
        """A flow state of its own that has heard the voice's prompt."""
        voice = state.request.voice
        prompt = self._prompts.get(voice.fingerprint)
        if prompt is None:
            started = time.perf_counter()
            prompt = self._start_flow(voice)
            state.timings = state.timings.plus(flow=time.perf_counter() - started)
            self._prompts[voice.fingerprint] = prompt
            if len(self._prompts) > self._max_voices:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(voice.fingerprint)
        return prompt.fork()

    def _start_flow(self, voice: Voice) -> FlowState:
        return self._flow.start(
            torch.from_numpy(voice.prompt_tokens),
            torch.from_numpy(np.ascontiguousarray(voice.prompt_mel.T)),
            torch.from_numpy(voice.embedding),
        )

    def _decode(self) -> None:
        """One LM id for every piece that decodes."""
        if not self._speaking:
            return
        fresh = {handle for handle in self._speaking if handle.length == 0}
        started = time.perf_counter()
        decoded = self._decoder.step()
        elapsed = time.perf_counter() - started
        for handle, outcome in decoded:
            if handle not in self._speaking:  # its request has just failed
                continue
            state, piece = self._speaking[handle]
            kind = "lm_prefill" if handle in fresh else "lm_decode"
            state.timings = state.timings.plus(**{kind: elapsed})
            if isinstance(outcome, FiresideError):
                self._fail(state, outcome)
                continue
            if isinstance(outcome, int):
                piece.tokens.append(outcome)
                state.timings = state.timings.plus(lm_tokens=1)
            if handle.machine.done:
                piece.complete = True
                self._release(piece)

    def _speak(self, step_started: float) -> None:
        """Flow, rate, vocoder and join for every request whose first piece has tokens for its next hop."""
        rows: list[tuple[_Request, _Piece, list[int], bool]] = []
        for state in self._requests.values():
            if state.pieces:
                piece = state.pieces[0]
                count = self._hop(state, piece)
                final = piece.complete and piece.taken + count >= len(piece.tokens)
                if count or final:
                    tokens = piece.tokens[piece.taken : piece.taken + count]
                    rows.append((state, piece, tokens, final))
        if not rows:
            return
        started = time.perf_counter()
        finals = [final for *_, final in rows]
        mels = self._flow.append(
            [piece.flow for _, piece, _, _ in rows],
            [torch.tensor(tokens, dtype=torch.long) for _, _, tokens, _ in rows],
            finals,
        )
        between = time.perf_counter()
        mels = [change_speed(piece.speed, mel, final) for (_, piece, _, final), mel in zip(rows, mels, strict=True)]
        waves = self._vocoder.append([piece.vocoder for _, piece, _, _ in rows], mels, finals)
        ended = time.perf_counter()
        for (state, piece, tokens, final), wave in zip(rows, waves, strict=True):
            state.timings = state.timings.plus(flow=between - started, vocoder=ended - between)
            piece.taken += len(tokens)
            state.fresh += tokens
            state.hop += 1
            last = final and not state.plans and len(state.pieces) == 1
            samples = join(state.join, wave.numpy(), end=final, pause=LAST_PAUSE if last else piece.plan.pause)
            if final:
                state.pieces.popleft()
                state.spoken_weight += piece.plan.weight
            if len(samples) or last:
                self._emit(state, samples, last, step_started)

    def _hop(self, state: _Request, piece: _Piece) -> int:
        """How many tokens the flow takes next; 0 while they are not all there."""
        config = self.model.config.flow
        hops = state.request.hops
        chunks = hops[min(state.hop, len(hops) - 1)]
        # Chunks are counted from the start of the prompt, and the flow looks a few tokens ahead.
        position = len(state.request.voice.prompt_tokens) + max(0, piece.taken - config.pre_lookahead_len)
        end = (position // config.chunk_tokens + chunks) * config.chunk_tokens + config.pre_lookahead_len
        wanted = end - len(state.request.voice.prompt_tokens) - piece.taken
        if wanted < config.pre_lookahead_len + LEAST_TOKENS:  # a prompt that ends just before a chunk does
            wanted += config.chunk_tokens
        waiting = len(piece.tokens) - piece.taken
        if piece.complete:
            return min(wanted, waiting)
        return wanted if waiting >= wanted else 0

    def _emit(self, state: _Request, samples: np.ndarray, final: bool, step_started: float) -> None:
        """Put a chunk where its request's caller finds it."""
        clock = time.perf_counter()
        now = clock - state.submitted
        rate = self.model.config.vocoder.sample_rate
        timings = state.timings
        if state.samples == 0 and len(samples):
            timings = timings.plus(ttfa=now)
        if timings.audible_ttfa == 0:
            loud = np.flatnonzero(np.abs(samples) > AUDIBLE)
            if len(loud):
                timings = timings.plus(
                    audible_ttfa=max(now, timings.ttfa + state.samples / rate) + float(loud[0]) / rate
                )
        state.samples += len(samples)
        timings = replace(timings, audio_seconds=state.samples / rate)
        state.timings = timings
        weight = state.spoken_weight + sum(piece.share * piece.plan.weight for piece in state.pieces)
        state.progress = 1.0 if final else max(state.progress, min(weight / state.weight, 1.0))
        chunk = AudioChunk(
            samples,
            rate,
            index=state.chunks,
            final=final,
            timings=timings.plus(total=clock - step_started),
            progress=state.progress,
            tokens=tuple(state.fresh),
        )
        state.chunks += 1
        state.fresh = []
        state.ready.append(chunk)
