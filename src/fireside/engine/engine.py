"""The engine: several requests at once through LM, flow and vocoder, in chunks.

`submit` takes a request in, `feed`, `flush` and `end` give it text that comes in parts, `step` moves requests on
(an LM id for those that decode, then flow and vocoder for those that have a hop's worth of speech tokens), `cancel`
drops one. Who moves first is `scheduler.py`'s matter, which networks do the work `stages.py`'s. A request owns all
that is made for it; when it ends, fails or is cancelled, dropping its record frees everything. A long text is spoken
piece by piece, each piece a run of its own from the voice's prompt; while one piece is vocoded the LM is at the next.
Among others, what is due is rendered in a thread beside the LM's (`beside.py`); alone, a request has all cores for
every step, and the same steps each time.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fireside.cache import Bounded, CacheUse
from fireside.engine.beside import Beside, Done, batches_of, limited, render
from fireside.engine.calibration import SHORTEST
from fireside.engine.decoder import Decoder, Handle
from fireside.engine.decoders import make_decoder
from fireside.engine.far import FarRenderer
from fireside.engine.incoming import Incoming, incoming_text
from fireside.engine.join import JoinState, join
from fireside.engine.plan import PiecePlan, make_machine, make_sampler, plan_text, plan_tokens
from fireside.engine.proofread import Judge, judge_of
from fireside.engine.record import Piece, Record
from fireside.engine.render import Hop, OverlapHops, Prompt, Renderer, VocoderStage
from fireside.engine.scheduler import LONG_SLICE, Listener, Scheduler, Turn
from fireside.engine.silent import SilentTokenFilter
from fireside.engine.speaking import Speaking
from fireside.engine.stages import streaming_renderer, vocoder_stage, whole_renderer
from fireside.engine.texts import AnyFrontend, make_frontend
from fireside.errors import EngineError, FiresideError, UsageError
from fireside.models.config import RegulatedFlowConfig
from fireside.models.turns import Event
from fireside.request import AudioChunk, SpeechRequest

if TYPE_CHECKING:
    from fireside.engine.products import Weights
    from fireside.models.checkpoint import ModelFolder
    from fireside.text.official import Choice
    from fireside.voices import Voice

PROMPT_BYTES = 2**31
"""Most bytes of voices' prompts that are kept ready, but for the one in use."""

FEATURE_BYTES = 2**26
"""Most bytes of voices made of recordings that are kept, so that no recording is analysed twice."""

LONGEST_PIECE = 17.0
"""Seconds of speech that a piece of a text hardly ever passes, nor what is set aside for one of 12 s."""

LAST_PAUSE = 0.15
"""Seconds of silence at the very end."""

NEARLY = 0.7
"""Seconds of speech from which on the LM has not much to do for a first sound any more."""

_PATIENCE = 1.0  # seconds of waiting for news before looking again
_BEGUN_AT_ONCE = 2  # pieces begun in a step: reading one's text in keeps the others waiting
_TEXT_PER_TOKEN = 0.5  # text ids beside a speech token in an LM's sequence, at most about


@dataclass
class Work:
    """What an engine has done so far: LM steps, the rows in them, seconds of audio, seconds at work."""

    steps: int = 0
    rows: int = 0
    audio_seconds: float = 0.0
    busy_seconds: float = 0.0


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
        compile: bool = False,
    ) -> None:
        self.model = model
        self.work = Work()
        self.analysed: Bounded[str, tuple[Voice, tuple[str, ...]]] = Bounded(FEATURE_BYTES)
        """Voices made of recordings and what was noted about these, by what was in them; see Fireside.make_voice."""
        self._exact_vocoder, self._flow_storage = exact_vocoder, flow_storage
        self._lm_weights, self._normaliser, self._compile = lm_weights, normaliser, compile
        self._rows, self._max_len = rows, max_len
        self._requests: dict[int, Record] = {}
        self._speaking: dict[Handle, tuple[Record, Piece]] = {}
        self._prompts: Bounded[tuple[Renderer[Any, Any], str], Prompt[Any]] = Bounded(PROMPT_BYTES, voices, True)
        self._ids = itertools.count(1)
        self._prompting, self._fitting = threading.Lock(), threading.Lock()
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._busy = False
        self._dropped: deque[int] = deque()
        self._beside = Beside()
        self._apart = 0

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
        model = self.model
        return make_decoder(model.lm, self._rows, self._max_len, model.dtype, self._lm_weights, self._compile)

    @cached_property
    def _vocoder(self) -> VocoderStage[Any]:
        return vocoder_stage(self.model.vocoder, self._exact_vocoder, self._compile)

    @cached_property
    def _streaming(self) -> Renderer[Any, Any]:
        if self._apart:
            return FarRenderer(self.model, self._flow_storage, self._exact_vocoder, self._apart)
        return streaming_renderer(self.model, self._vocoder, self._flow_storage, self._compile)

    @cached_property
    def _whole(self) -> Renderer[Any, Any] | None:
        return whole_renderer(self.model, self._vocoder)

    @cached_property
    def _scheduler(self) -> Scheduler:
        flow = self.model.config.flow
        chunk = OverlapHops().hop if isinstance(flow, RegulatedFlowConfig) else flow.chunk_tokens
        return Scheduler(chunk, self.model.config.token_rate)

    def _live(self) -> Renderer[Any, Any]:
        """What renders streamed requests; another where it was lost."""
        renderer = self._streaming
        if renderer.lost:
            with self._prompting:
                if self._streaming is renderer:
                    del self._streaming
                renderer = self._streaming
        return renderer

    def _renderer(self, request: SpeechRequest) -> Renderer[Any, Any]:
        return self._live() if request.streaming or self._whole is None else self._whole

    @property
    def active(self) -> int:
        """Requests that are not over."""
        return len(self._requests)

    @property
    def rows(self) -> int:
        """How many pieces the LM decodes at once."""
        return self._rows

    def reserve(self, rows: int) -> None:
        """Have the LM decode so many pieces at once from now on; nothing may be spoken meanwhile."""
        with self._lock:
            if self._speaking:
                raise UsageError("The LM's rows can be set only while nothing is being spoken.")
            self._rows = rows
            self.__dict__.pop("_decoder", None)

    def part(self, processes: int = 1) -> bool:
        """Have streamed requests rendered in so many processes of their own from now on, where that pays: where a small
        LM on a CPU would share Python's lock with what is rendered. Nothing may be spoken meanwhile; whether it does.
        """
        with self._lock:
            if self._speaking:
                raise UsageError("Rendering can be moved only while nothing is being spoken.")
            pays = self._decoder.small and not self._compile and not self.model.config.flow.full_mask_offline
            self._apart = processes if pays else 0
            self.__dict__.pop("_streaming", None)
            return pays

    @property
    def device(self) -> torch.device:
        """What it computes on."""
        return self._decoder.device

    @property
    def request_bytes(self) -> int:
        """Memory that a request takes, a long piece supposed, beside its voice's prompt: LM, flow and vocoder."""
        config, seconds = self.model.config, LONGEST_PIECE
        tokens = seconds * config.token_rate
        lm = self._decoder.position_bytes * min(self._max_len, int(tokens * (1 + _TEXT_PER_TOKEN)))
        ratio = 0 if isinstance(config.flow, RegulatedFlowConfig) else config.flow.token_mel_ratio
        return lm + int(self._streaming.bytes_per_frame * tokens * ratio)

    @property
    def nbytes(self) -> int:
        """Memory that requests hold now: LM, flow, vocoder and audio that was not taken."""
        with self._lock:
            positions = sum(handle.length for handle in self._speaking)
            lm = positions * self._decoder.position_bytes if positions else 0
            return lm + sum(state.nbytes for state in self._requests.values())

    @property
    def caches(self) -> Mapping[str, CacheUse]:
        """How the caches did: prompts ready in the flow, recordings analysed, beginnings ready in the LM."""
        uses = {"prompt_flow": self._prompts.use, "prompt_features": self.analysed.use}
        if "_decoder" in self.__dict__:
            uses["lm_prefix"] = self._decoder.prefixes.use
        return uses

    def submit(self, request: SpeechRequest) -> int:
        """Take a request in and return its id. Raises TextError for a text that cannot be spoken.

        A request whose text is None waits for `feed` and `end`.
        """
        return self.enter(self.prepare(request))

    def generate(self, request: SpeechRequest) -> Speaking:
        """The chunks of one request as they are made; other requests move on meanwhile.

        When its text is an iterator, the next part is asked for when nothing more can be said without it.
        Raises as `submit`.
        """
        parts: Iterator[str] = iter(()) if isinstance(request.text, str | None) else request.text
        return Speaking(self, self.enter(self._prepared(request, time.perf_counter(), owned=True)), parts)

    def prepare(self, request: SpeechRequest, made: float | None = None) -> Record:
        """What `enter` takes: text and voice made ready, for which no other request waits.

        made: when the request was made (time.perf_counter), None for now; its timings count from there.
        """
        if not (request.text is None or isinstance(request.text, str)):
            raise UsageError("Give an iterator of text to `generate`, or no text and its parts to `feed`.")
        return self._prepared(request, time.perf_counter() if made is None else made, owned=False)

    def enter(self, record: Record) -> int:
        """Take a prepared request in and return its id."""
        with self._lock:
            self._requests[record.id] = record
        return record.id

    def _prepared(self, request: SpeechRequest, made: float, owned: bool) -> Record:
        started = time.perf_counter()
        plans: list[PiecePlan] = []
        incoming = None
        if request.tokens:
            plans = plan_tokens(request)
        elif isinstance(request.text, str):
            plans = plan_text(request.text, request.speed, self.frontend, request.normalise)
        else:
            incoming = incoming_text(self.model.config.lm, request, self.frontend)
            plans = incoming.begin()
        read = time.perf_counter()
        # Here and not in a step: a long prompt that is new takes a second, in which others would have to wait.
        self._prompt(request)
        heard = time.perf_counter()
        state = Record(
            next(self._ids),
            request,
            seed=0 if request.seed is None else request.seed,
            join=self._join(request),
            submitted=made,
            rate=self.model.config.vocoder.sample_rate,
            owned=owned,
            listener=Listener(made, eager=request.streaming),
            spent=defaultdict(
                float, queue=started - made, front_end=read - started, flow=heard - read, total=heard - started
            ),
            incoming=incoming,
        )
        state.plan(plans)
        return state

    def _join(self, request: SpeechRequest) -> JoinState | None:
        if self.model.config.join == "plain":
            return None
        return JoinState(self.model.config.vocoder.sample_rate, trim=not request.tokens)

    def feed(self, key: int, text: str) -> None:
        """A part of a request's text came in; does nothing when the request is over.

        A text that cannot be spoken ends the request with a TextError.
        """
        self._listen(key, lambda incoming: incoming.push(text))

    def flush(self, key: int) -> None:
        """What came of a request's text is spoken without waiting for the rest of its sentence; as `feed`."""
        self._listen(key, lambda incoming: incoming.flush())

    def end(self, key: int) -> None:
        """The text of a request has ended; as `feed`."""
        self._listen(key, None)

    def _listen(self, key: int, push: Callable[[Incoming], list[PiecePlan]] | None) -> None:
        with self._lock:
            state = self._requests.get(key)
            if state is None or state.incoming is None:
                return
            started = time.perf_counter()
            if state.starved:
                state.listener.rest(started)
            try:
                state.plan(state.incoming.finish() if push is None else push(state.incoming))
            except Exception as error:
                self._fail(state, error)
                return
            if push is None:
                state.incoming = None
                if not (state.pieces or state.plans):  # all was said before it was known to be all
                    state.emit(np.zeros(0, np.float32), True, 0.0, started)
            elapsed = time.perf_counter() - started
            state.spent["front_end"] += elapsed
            state.spent["total"] += elapsed
            self._news.notify_all()

    def hold(self, key: int, held: bool) -> None:
        """Make no more of a request for now, or go on with it; it keeps what it has."""
        with self._lock:
            state = self._requests.get(key)
            if state is not None:
                state.held = held
                self._news.notify_all()

    def starved(self, key: int) -> bool:
        """Whether nothing can be made of a request before more of its text comes."""
        with self._lock:
            state = self._requests.get(key)
            return state is not None and state.starved

    def fail(self, key: int, error: FiresideError) -> None:
        """End a request with an error and free all that is kept for it; does nothing when it is already over."""
        with self._lock:
            state = self._requests.get(key)
            if state is not None and not state.over:
                self._fail(state, error)
                self._news.notify_all()

    def cancel(self, key: int) -> None:
        """Drop a request and all that is kept for it; does nothing when it is already over."""
        with self._lock:
            state = self._requests.pop(key, None)
            if state is not None:
                self._free(state)
                self._news.notify_all()

    def drop(self, key: int) -> None:
        """As `cancel`, from wherever Python collects garbage: in the midst of a step, too."""
        self._dropped.append(key)
        if not self._busy:
            self._sweep()

    def _sweep(self) -> None:
        with self._lock:
            while self._dropped:
                self.cancel(self._dropped.popleft())

    def step(self) -> list[tuple[int, AudioChunk | FiresideError]]:
        """Move requests on; what came out of those of `submit`, each with its id.

        A request that fails yields its error as its last item. What is no Exception, as a KeyboardInterrupt, ends all
        requests and is raised."""
        with self._lock:
            self.advance()
            return self.collect()

    def collect(self) -> list[tuple[int, AudioChunk | FiresideError]]:
        """What has come out of the requests of `submit`, each with its id; those that are over are gone then."""
        with self._lock:
            out: list[tuple[int, AudioChunk | FiresideError]] = []
            for state in [state for state in self._requests.values() if not state.owned]:
                out += [(state.id, chunk) for chunk in state.ready]
                state.ready.clear()
                if state.error is not None:
                    out.append((state.id, state.error))
                if state.over:
                    del self._requests[state.id]
            return out

    def next(self, key: int) -> AudioChunk | None:
        """The next chunk of a request of `generate`; None when more of its text must come first.

        Raises StopIteration when there is none, and the request's error."""
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
                if not self.advance():
                    # All rows of the LM wait for text of other requests, which comes while the lock is open.
                    self._news.wait(_PATIENCE)

    def advance(self) -> bool:
        """Move requests on; whether any could be."""
        with self._lock:
            self._sweep()
            working = [state for state in self._requests.values() if state.pieces or state.plans]
            started = time.perf_counter()
            self._busy = True
            try:
                begun = self._open(started)
                awaited, decoded = self._decode(started)
                moved = self._speak(awaited, decoded, started) or begun or decoded
            except BaseException as error:
                # The states may be half moved on: nobody's can be trusted any more.
                failure = error if isinstance(error, Exception) else EngineError("The computation was interrupted.")
                for state in list(self._requests.values()):
                    self._fail(state, failure)
                    if not state.owned:
                        del self._requests[state.id]
                raise
            finally:
                self._busy = False
            elapsed = time.perf_counter() - started
            self.work.busy_seconds += elapsed
            for state in working:
                state.spent["total"] += elapsed
            return moved

    def _fail(self, state: Record, error: Exception) -> None:
        """End a request with an error, as the caller will see it."""
        if not isinstance(error, FiresideError):
            failure = EngineError(
                f"The model failed on this request ({type(error).__name__}: {error}). Others are not affected: try it "
                "again, or with another text, and report it if it stays."
            )
            failure.__cause__ = error
            error = failure
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

    def _in_hand(self, state: Record) -> float:
        """Seconds of speech of a request whose tokens are there and wait to be rendered."""
        return state.waiting / (self.model.config.token_rate * state.request.speed)

    def _open(self, now: float) -> bool:
        """Begin pieces while the LM has room; whether any was begun.

        A request's next piece is begun when it has none, and one ahead once the LM is done with the one before: the
        listener does not wait for it, and no more than two pieces are ever kept.
        """
        turns = [
            Turn(state, state.listener, in_hand=self._in_hand(state))
            for state in self._requests.values()
            if state.plans
            and not state.held
            and (not state.pieces or (len(state.pieces) == 1 and state.pieces[0].complete))
        ]
        begun = 0
        for state in self._scheduler.admitting(turns, now):
            if begun == _BEGUN_AT_ONCE:
                break
            try:
                begun += self._begin(state)
            except Exception as error:
                self._fail(state, error)
                begun += 1
        return begun > 0

    def _begin(self, state: Record) -> bool:
        """Begin a request's next piece, unless the LM has no room; whether it was begun."""
        given = bool(state.request.tokens)
        if not given and not self._decoder.free_slots:
            return False
        index, plan = state.plans[0]
        request, config = state.request, self.model.config.lm
        prompt = self._prompt(request)
        renderer = self._renderer(request)
        piece = Piece(
            plan,
            tokens=list(plan.tokens),
            complete=given,
            renderer=renderer,
            state=renderer.start(prompt, request.speed, request.hops),
        )
        if not given:
            if config.max_silent_run:
                piece.heard = SilentTokenFilter(frozenset(config.silent_tokens), config.max_silent_run)
            machine = make_machine(config, request, plan, self._judge, first=index == 0)
            sampler = make_sampler(request.sampling or config.sampling, state.seed, index)
            speaker = torch.from_numpy(request.voice.embedding) if request.use_speaker else None
            piece.handle = self._decoder.admit(machine, sampler, speaker)
            self._speaking[piece.handle] = (state, piece)
        state.plans.popleft()
        state.pieces.append(piece)
        return True

    def fitted(self, voice: Voice) -> Voice:
        """A new voice as the flow needs it: with an adaptation and a calibration, where the model has them and its
        prompt is long enough.

        With an adaptation it takes some seconds, of which nothing depends on how much is said later.
        """
        config = self.model.config
        enough = len(voice.prompt_tokens) >= SHORTEST * config.token_rate
        if isinstance(config.flow, RegulatedFlowConfig) or not config.flow.calibrate or not enough:
            return voice
        renderer = self._live()
        with self._fitting:  # one at a time, for their memory; prompts are heard meanwhile
            voice = renderer.fitted(voice)
        return replace(voice, card=replace(voice.card, fitted_to=self.model.flow_fingerprint))

    def _prompt(self, request: SpeechRequest) -> Prompt[Any]:
        """What the voice's prompt leaves behind, computed once for each voice."""
        renderer = self._renderer(request)
        key = (renderer, request.voice.fingerprint)
        prompt = self._prompts.get(key)
        if prompt is None:
            with self._prompting:  # who comes meanwhile for the same voice waits, and finds it
                prompt = self._prompts.get(key)
                if prompt is None:
                    prompt = renderer.prompt(request.voice)
                    self._prompts.put(key, prompt, prompt.flow.nbytes)
        return prompt

    def _decode(self, now: float) -> tuple[bool, bool]:
        """One LM id for every piece whose turn it is; whether somebody's first sound depended on it, and whether there
        was one."""
        turns = [
            Turn(handle, state.listener, in_hand=self._in_hand(state))
            for handle, (state, piece) in self._speaking.items()
            if not (state.held or piece.stuck)
        ]
        soon = self._decoder.small and not self._beside.busy
        chosen = self._scheduler.decoding(turns, now, self._decoder.rows, soon, len(self._requests))
        if not chosen:
            return False, False
        fresh = {handle for handle in chosen if handle.length == 0}
        started = time.perf_counter()
        with limited(1) if self._apart or self._beside.busy else nullcontext():
            decoded = self._decoder.step(chosen)
        elapsed = time.perf_counter() - started
        self.work.steps += bool(decoded)
        self.work.rows += len(decoded)
        awaited = False
        for handle, outcome in decoded:
            if handle not in self._speaking:  # its request has just failed
                continue
            state, piece = self._speaking[handle]
            if state.id not in self._beside.records:  # no second counts twice
                state.spent["lm_prefill" if handle in fresh else "lm_decode"] += elapsed
            if isinstance(outcome, Exception):
                self._fail(state, outcome)
                continue
            if not isinstance(outcome, Event):
                settled = (outcome,) if isinstance(outcome, int) else outcome
                piece.tokens += [token for token in settled if piece.heard is None or piece.heard.keep(token)]
                state.drawn += len(settled)
            awaited |= state.listener.awaits
            if handle.machine.done:
                piece.complete = True
                self._release(piece)
        return awaited, bool(decoded)

    def _speak(self, awaited: bool, decoding: bool, step_started: float) -> bool:
        """Render next hops that are due, and join them on; whether there were any.

        awaited: somebody's first sound waits for the LM; decoding: it is at work, and stays so. In a crowd hops are
        rendered beside it, begun now and handed out in a later step; when it is not at work, here too. A first sound
        is rendered by all cores, unless another waits for one of them, or so much is due that somebody waits anyway.
        """
        threads, beside = torch.get_num_threads(), self._beside
        crowd = len(self._requests) > 1 and threads > 1 and self._decoder.small
        taken = self._take(beside.take(), step_started) if beside.done or not crowd else False
        turns, slice = self._due()
        here, there = not (crowd and decoding), crowd and not beside.busy
        first = [turn for turn in turns if turn.listener.awaits] if crowd and slice < LONG_SLICE else []
        if first:
            awaited = True
            due = {turn.what[0].id for turn in first}
            later = [each for each in self._requests.values() if each.listener.awaits and each.id not in due]
            here = len(first) > 1 or not there or all(self._in_hand(state) > NEARLY for state in later)
            here = here and not (there and self._short(time.perf_counter()))
        if self._apart:  # one call at a time there
            here, there = here and not beside.busy, there and not here
        if taken and here:
            return True  # what was taken goes to its listeners first
        shares: list[list[tuple[Record, Hop]]] = []
        if here or there:
            shares = self._scheduler.rendering(turns, awaited, slice, time.perf_counter(), here + there)
        if shares and there and (len(shares) == 2 or not here):
            beside.give(batches_of(shares.pop(0)), threads // 2 if here else threads - 1)
            taken = True
        if shares:
            self._take(render(batches_of(shares[0]), threads // 2 if beside.busy else threads), step_started)
            return True
        if not (taken or decoding):
            taken = self._take(beside.take(), step_started)
        return taken

    def _short(self, now: float) -> bool:
        """Whether somebody who has begun to hear needs the LM soon."""
        return any(
            state.listener.began is not None and self._scheduler.short(state.listener.lead(now) + self._in_hand(state))
            for state, _ in self._speaking.values()
        )

    def _due(self) -> tuple[list[Turn[tuple[Record, Hop]]], float]:
        """The next hops that are due and not in work, and for how long rendering may take at a time."""
        now, scheduler = time.perf_counter(), self._scheduler
        waiting = [
            state
            for state in self._requests.values()
            if state.pieces
            and not state.held
            and state.id not in self._beside.records
            and state.pieces[0].wants(state.hop, 1, state.listener.began is None) is not None
        ]
        crowd = len(self._requests)
        awaited = any(state.listener.awaits for state in self._requests.values())
        slice = scheduler.slice([state.listener for state in waiting], awaited, now)
        turns = []
        for state in waiting:
            for chunks in scheduler.chunks(state.listener, state.hop, crowd, slice, now):
                hop = state.pieces[0].wants(state.hop, chunks, state.listener.began is None)
                if hop is not None:
                    turns.append(Turn((state, hop), state.listener, tokens=hop.tokens))
                    break
        return turns, slice

    def _take(self, done: Done, step_started: float) -> bool:
        """Hand out what was rendered; whether there was anything."""
        for batch, rendered, threads in done:
            seconds = rendered.flow_seconds + rendered.vocoder_seconds
            self._scheduler.rendered(sum(map(len, batch.fresh)), seconds, threads)
            for key, tokens, hop, wave in zip(batch.records, batch.fresh, batch.hops, rendered.waves, strict=True):
                state = self._requests.get(key)
                if state is None or not state.pieces:  # it was cancelled or failed meanwhile
                    continue
                state.spent["flow"] += rendered.flow_seconds
                state.spent["vocoder"] += rendered.vocoder_seconds
                if isinstance(wave, Exception):
                    self._fail(state, wave)
                    continue
                state.fresh += tokens
                state.hop += not hop.opening
                self._hand_out(state, state.pieces[0], wave, hop.final, step_started)
        return bool(done)

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
            now = time.perf_counter()
            state.emit(samples, last, now - step_started, now)
            self.work.audio_seconds += len(samples) / state.rate
