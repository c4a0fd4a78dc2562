"""The engine: several requests at once through LM, flow and vocoder, in chunks.

`submit` takes a request in, `feed` and `end` give it text that comes in parts, `step` moves every request on
(one LM id for each that decodes, then flow and vocoder for those that have a hop's worth of speech tokens),
`cancel` drops one. A request owns all that is made for it; when it ends, fails or is cancelled, dropping its
record frees everything. A long text is spoken piece by piece, each piece a run of its own from the voice's
prompt; while one piece is vocoded the LM is at the next. Which networks do the work is `stages.py`'s matter."""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fireside.engine.decoder import Decoder, Handle
from fireside.engine.decoders import make_decoder
from fireside.engine.incoming import incoming_text
from fireside.engine.join import JoinState, join
from fireside.engine.plan import PiecePlan, make_machine, make_sampler, plan_text, plan_tokens
from fireside.engine.proofread import Judge, judge_of
from fireside.engine.record import Piece, Record
from fireside.engine.render import Hop, Prompt, Renderer, VocoderStage
from fireside.engine.silent import SilentTokenFilter
from fireside.engine.stages import streaming_renderer, vocoder_stage, whole_renderer
from fireside.engine.texts import AnyFrontend, make_frontend
from fireside.errors import FiresideError, UsageError
from fireside.models.turns import Event
from fireside.request import AudioChunk, SpeechRequest, Timings

if TYPE_CHECKING:
    from fireside.engine.products import Weights
    from fireside.models.checkpoint import ModelFolder
    from fireside.text.official import Choice

AUDIBLE = 10 ** (-40 / 20)
"""Amplitude from which a listener is taken to hear something."""


PROMPT_BYTES = 2**31
"""Most bytes of voices' prompts that are kept ready, but for the one in use."""

_PATIENCE = 1.0  # seconds of waiting for news before looking again

LAST_PAUSE = 0.15
"""Seconds of silence at the very end."""


class Speaking(Iterator[AudioChunk]):
    """The chunks of one request; closing or dropping it cancels the request."""

    def __init__(self, engine: Engine, key: int, text: Iterator[str]) -> None:
        self._engine, self._key, self._text = engine, key, text

    def __next__(self) -> AudioChunk:
        while True:
            chunk = self._engine._next(self._key)
            if chunk is not None:
                return chunk
            self._listen()

    def _listen(self) -> None:
        """Give the request the next part of its text; it may take its time to come."""
        try:
            part = next(self._text, None)
        except BaseException:
            self.close()
            raise
        if part is None:
            self._engine.end(self._key)
        else:
            self._engine.feed(self._key, part)

    def close(self) -> None:
        """Cancel the request, if it is not over."""
        self._engine.cancel(self._key)

    def __del__(self) -> None:
        self._engine._drop(self._key)


class Engine:
    """Computes speech requests with the parts of one model.

    rows: how many pieces the LM decodes at once. max_len: text and speech positions of one piece, prompt
    included. voices: how many voices' prompts are kept ready. lm_weights: int8 reads the LM's weights in a quarter
    of the bytes. normaliser: for models that need one, see `make_frontend`. exact_vocoder: joined chunks equal the
    whole where CosyVoice 1 and 2 cross-fade, some 0.4 s later. flow_storage: the type that the flow's past is kept
    in, that of its weights when not given. May be used from several threads."""

    def __init__(
        self,
        model: ModelFolder,
        rows: int = 8,
        max_len: int = 4096,
        voices: int = 8,
        lm_weights: Weights = "float",
        normaliser: Choice | None = None,
        exact_vocoder: bool = False,
        flow_storage: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self._exact_vocoder, self._flow_storage = exact_vocoder, flow_storage
        self._lm_weights, self._normaliser = lm_weights, normaliser
        self._rows, self._max_len, self._max_voices = rows, max_len, voices
        self._requests: dict[int, Record] = {}
        self._speaking: dict[Handle, tuple[Record, Piece]] = {}
        self._prompts: OrderedDict[tuple[Renderer[Any, Any], str], Prompt[Any]] = OrderedDict()
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._busy = False
        self._dropped: deque[int] = deque()

    @cached_property
    def frontend(self) -> AnyFrontend:
        """Text to words of text tokens."""
        return make_frontend(self.model, self._normaliser)

    @cached_property
    def _judge(self) -> Judge | None:
        """Who reads back what the LM says, in models that have it done."""
        return judge_of(self.model)

    @cached_property
    def _decoder(self) -> Decoder:
        return make_decoder(self.model.lm, self._rows, self._max_len, self.model.dtype, self._lm_weights)

    @cached_property
    def _vocoder(self) -> VocoderStage[Any]:
        return vocoder_stage(self.model.vocoder, self._exact_vocoder)

    @cached_property
    def _streaming(self) -> Renderer[Any, Any]:
        return streaming_renderer(self.model, self._vocoder, self._flow_storage)

    @cached_property
    def _whole(self) -> Renderer[Any, Any] | None:
        return whole_renderer(self.model, self._vocoder)

    def _renderer(self, request: SpeechRequest) -> Renderer[Any, Any]:
        return self._streaming if request.streaming or self._whole is None else self._whole

    @property
    def active(self) -> int:
        """Requests that are not over."""
        return len(self._requests)

    def submit(self, request: SpeechRequest) -> int:
        """Take a request in and return its id. Raises TextError for a text that cannot be spoken.

        A request whose text is None waits for `feed` and `end`.
        """
        if not (request.text is None or isinstance(request.text, str)):
            raise UsageError("Give an iterator of text to `generate`, or no text and its parts to `feed`.")
        return self._submit(request, owned=False)

    def generate(self, request: SpeechRequest) -> Speaking:
        """The chunks of one request as they are made; other requests move on meanwhile.

        When its text is an iterator, the next part is asked for when nothing more can be said without it.
        Raises as `submit`.
        """
        parts: Iterator[str] = iter(()) if isinstance(request.text, str | None) else request.text
        return Speaking(self, self._submit(request, owned=True), parts)

    def _submit(self, request: SpeechRequest, owned: bool) -> int:
        submitted = time.perf_counter()
        plans: list[PiecePlan] = []
        incoming = None
        if request.tokens:
            plans = plan_tokens(request)
        elif isinstance(request.text, str):
            plans = plan_text(request.text, request.speed, self.frontend, request.normalise)
        else:
            incoming = incoming_text(self.model.config.lm, request, self.frontend)
            plans = incoming.begin()
        elapsed = time.perf_counter() - submitted
        state = Record(
            next(self._ids),
            request,
            seed=0 if request.seed is None else request.seed,
            plans=deque(),
            join=self._join(request),
            submitted=submitted,
            timings=Timings(front_end=elapsed, total=elapsed),
            weight=0,
            owned=owned,
            incoming=incoming,
        )
        state.plan(plans)
        with self._lock:
            self._requests[state.id] = state
        return state.id

    def _join(self, request: SpeechRequest) -> JoinState | None:
        if self.model.config.join == "plain":
            return None
        return JoinState(self.model.config.vocoder.sample_rate, trim=not request.tokens)

    def feed(self, key: int, text: str) -> None:
        """A part of a request's text came in; does nothing when the request is over.

        A text that cannot be spoken ends the request with a TextError.
        """
        self._listen(key, text)

    def end(self, key: int) -> None:
        """The text of a request has ended."""
        self._listen(key, None)

    def _listen(self, key: int, text: str | None) -> None:
        with self._lock:
            state = self._requests.get(key)
            if state is None or state.incoming is None:
                return
            started = time.perf_counter()
            try:
                state.plan(state.incoming.finish() if text is None else state.incoming.push(text))
            except FiresideError as error:
                self._fail(state, error)
                return
            if text is None:
                state.incoming = None
                if not (state.pieces or state.plans):  # all was said before it was known to be all
                    self._emit(state, np.zeros(0, np.float32), True, started)
            elapsed = time.perf_counter() - started
            state.timings = state.timings.plus(front_end=elapsed, total=elapsed)
            self._news.notify_all()

    def cancel(self, key: int) -> None:
        """Drop a request and all that is kept for it; does nothing when it is already over."""
        with self._lock:
            state = self._requests.pop(key, None)
            if state is not None:
                self._free(state)
                self._news.notify_all()

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
                if state.over:
                    del self._requests[state.id]
            return out

    def _next(self, key: int) -> AudioChunk | None:
        """The next chunk of a request of `generate`; None when more of its text must come first."""
        with self._lock:
            while True:
                state = self._requests.get(key)
                if state is None:
                    raise StopIteration
                if state.ready:
                    return state.ready.popleft()
                if state.over:
                    del self._requests[key]
                    if state.error is None:
                        raise StopIteration
                    raise state.error
                if state.starved:
                    return None
                if not self._advance():
                    # All rows of the LM wait for text of other requests, which comes while the lock is open.
                    self._news.wait(_PATIENCE)

    def _advance(self) -> bool:
        """Move every request on; whether any could be."""
        self._sweep()
        working = [state for state in self._requests.values() if state.pieces or state.plans]
        started = time.perf_counter()
        self._busy = True
        try:
            moved = any([self._open(), self._decode(), self._speak(started)])
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
        return moved

    def _fail(self, state: Record, error: BaseException) -> None:
        state.error = error
        self._free(state)

    def _free(self, state: Record) -> None:
        for piece in state.pieces:
            self._release(piece)
        state.pieces.clear()
        state.plans.clear()
        state.incoming = None

    def _release(self, piece: Piece) -> None:
        if piece.handle is not None:
            self._decoder.release(piece.handle)
            del self._speaking[piece.handle]
            piece.handle = None

    def _open(self) -> bool:
        """Begin pieces while the LM has room: everybody's first one, then the ones after. Whether any was begun."""
        requests = list(self._requests.values())
        begun = False
        for state in requests:
            if not state.pieces and state.plans:
                begun |= self._begin(state)
        for state in requests:
            # One piece ahead, once the LM is done with the one before: the listener does not wait for it, and
            # no more than two pieces are ever kept.
            if len(state.pieces) == 1 and state.plans and state.pieces[0].complete:
                begun |= self._begin(state)
        return begun

    def _begin(self, state: Record) -> bool:
        """Begin a request's next piece, unless the LM has no room; whether it was begun."""
        given = bool(state.request.tokens)
        if not given and not self._decoder.free_slots:
            return False
        index, plan = state.plans.popleft()
        request, config = state.request, self.model.config.lm
        renderer = self._renderer(request)
        piece = Piece(
            plan,
            tokens=list(plan.tokens),
            complete=given,
            renderer=renderer,
            state=renderer.start(self._prompt(renderer, state), request.speed, request.hops),
        )
        if not given:
            if config.max_silent_run:
                piece.heard = SilentTokenFilter(frozenset(config.silent_tokens), config.max_silent_run)
            piece.handle = self._decoder.admit(
                make_machine(config, request, plan, self._judge),
                make_sampler(request.sampling or config.sampling, state.seed, index),
                torch.from_numpy(request.voice.embedding) if request.use_speaker else None,
            )
            self._speaking[piece.handle] = (state, piece)
        state.pieces.append(piece)
        return True

    def _prompt(self, renderer: Renderer[Any, Any], state: Record) -> Prompt[Any]:
        """What the voice's prompt leaves behind, computed once for each voice."""
        voice = state.request.voice
        key = (renderer, voice.fingerprint)
        prompt = self._prompts.get(key)
        if prompt is None:
            started = time.perf_counter()
            prompt = renderer.prompt(voice)
            state.timings = state.timings.plus(flow=time.perf_counter() - started)
            self._prompts[key] = prompt
            self._forget_prompts()
        self._prompts.move_to_end(key)
        return prompt

    def _forget_prompts(self) -> None:
        """Drop the voices that were not used for longest: some seconds of a large model's past take a gigabyte."""
        while len(self._prompts) > 1 and (
            len(self._prompts) > self._max_voices
            or sum(prompt.flow.nbytes for prompt in self._prompts.values()) > PROMPT_BYTES
        ):
            self._prompts.popitem(last=False)

    def _decode(self) -> bool:
        """One LM id for every piece that decodes; whether there was one."""
        if not self._speaking:
            return False
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
            if not isinstance(outcome, Event):
                settled = (outcome,) if isinstance(outcome, int) else outcome
                piece.tokens += [token for token in settled if piece.heard is None or piece.heard.keep(token)]
                state.timings = state.timings.plus(lm_tokens=len(settled))
            if handle.machine.done:
                piece.complete = True
                self._release(piece)
        return bool(decoded)

    def _speak(self, step_started: float) -> bool:
        """Render the next hop of every request whose first piece has the tokens for it, and join it on.

        Whether there was one.
        """
        batches: dict[Renderer[Any, Any], list[tuple[Record, Piece, Hop]]] = {}
        for state in self._requests.values():
            if state.pieces:
                piece = state.pieces[0]
                hop = piece.wants(state.hop)
                if hop is not None:
                    batches.setdefault(piece.renderer, []).append((state, piece, hop))
        for renderer, rows in batches.items():
            fresh = [piece.tokens[piece.taken : piece.taken + hop.tokens] for _, piece, hop in rows]
            rendered = renderer.append([piece.state for _, piece, _ in rows], fresh, [hop.final for *_, hop in rows])
            for (state, piece, hop), tokens, wave in zip(rows, fresh, rendered.waves, strict=True):
                state.timings = state.timings.plus(flow=rendered.flow_seconds, vocoder=rendered.vocoder_seconds)
                state.fresh += tokens
                state.hop += not hop.opening
                self._hand_out(state, piece, wave, hop.final, step_started)
        return bool(batches)

    def _hand_out(self, state: Record, piece: Piece, wave: np.ndarray, final: bool, step_started: float) -> None:
        """Join what a piece's hop made to what was there, and give out what can be played."""
        last = final and state.incoming is None and not state.plans and len(state.pieces) == 1
        samples = wave
        if state.join is not None:
            samples = join(state.join, wave, end=final, pause=LAST_PAUSE if last else piece.plan.pause)
        if final:
            state.pieces.popleft()
            state.spoken_weight += piece.plan.weight
        if len(samples) or last:
            self._emit(state, samples, last, step_started)

    def _emit(self, state: Record, samples: np.ndarray, final: bool, step_started: float) -> None:
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
        state.progress = 1.0 if final else max(state.progress, min(weight / max(state.weight, 1), 1.0))
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
