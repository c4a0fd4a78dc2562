"""A renderer whose work is done in another process, so that a small LM and rendering do not share Python's lock.

Both are made of hundreds of short operations. In two threads of one process, each waits for Python's lock again and
again; in two processes they do not. What a request's rendering keeps stays in the other process and is known here by a
number; tokens go there, samples come back. `far_process.py` is the program that runs there.
"""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch

from fireside.engine.render import Prompt, Rendered, Renderer, RenderState, Schedule
from fireside.engine.speed import SpeedState
from fireside.errors import EngineError

if TYPE_CHECKING:
    from fireside.models.checkpoint import ModelFolder
    from fireside.voices import Voice

PROGRAM = "fireside.engine.far_process"

# For glibc: what voices and long pieces take goes back to the system when it is freed, and what a hop needs for a
# moment does not; its own thresholds grow until all of it stays, in pieces. For oneDNN, and torch's own layer above it:
# they keep what they made for every number of frames that ever comes, 100 MB by and by; with these many, what a first
# sound needs is still there.
_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(8 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "384",
    "LRU_CACHE_CAPACITY": "128",
}

_FAREWELL = 2.0  # seconds to end in, when its output has


@dataclass(frozen=True)
class Greeting:
    """What the other process says first: how its renderer cuts tokens, and its state's bytes for each mel frame."""

    schedule: Schedule
    bytes_per_frame: int


@dataclass(frozen=True)
class Call:
    """What is asked of the other process: a method of its, and the number that the answer is to have, None for none."""

    number: int | None
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Answer:
    """What came of a call: its outcome, or what was raised."""

    number: int
    outcome: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class Progress:
    """What came of rendering hops: their samples, and the memory that each request's state holds since, in bytes."""

    rendered: Rendered
    nbytes: list[int]


@dataclass(eq=False)
class Far:
    """A state in another process, by its number there; it is dropped there when this is dropped here."""

    process: FarProcess
    number: int
    nbytes: int = 0

    def fork(self) -> Far:
        """Not here: a continuation is begun in the other process."""
        raise NotImplementedError


@dataclass(eq=False)
class FarPrompt:
    """What a prompt leaves behind in every process, by the process."""

    there: dict[FarProcess, Far]

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(far.nbytes for far in self.there.values())

    def fork(self) -> FarPrompt:
        """See Far."""
        raise NotImplementedError


class FarProcess:
    """The other process, with calls to it from any thread. It ends when this is dropped, or this process ends.

    requests: the numbers of those whose states are there.
    """

    def __init__(self, model: ModelFolder, storage: torch.dtype | None, exact_vocoder: bool) -> None:
        # Its own session: Ctrl-C and a signal to all of a terminal's processes are for this one to deal with.
        self._process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**_MEMORY, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        # Calls go through a queue, since dropped states are told of from wherever Python collects garbage.
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._answers: dict[int, Future[Any]] = {}
        self._numbers = itertools.count(1)
        self.requests: set[int] = set()
        self.ended = threading.Event()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        first = (type(model), model.path, model.dtype, storage, exact_vocoder)
        for target, arguments in (
            (_send, (self._process.stdin, first, self._calls)),
            (_receive, (self._process, self._process.stdout, self._answers, self.ended)),
        ):
            threading.Thread(target=target, args=arguments, name="fireside-far", daemon=True).start()
        weakref.finalize(self, self._calls.put, None)

    def ask(self, method: str, *arguments: Any) -> Future[Any]:
        """Have something done: what comes of it, or what was raised there; an EngineError if the process has ended."""
        number = next(self._numbers)
        answer: Future[Any] = Future()
        self._answers[number] = answer
        self._calls.put(Call(number, method, arguments))
        if self.ended.is_set() and self._answers.pop(number, None) is not None:
            answer.set_exception(_ended(self._process))
        return answer

    def tell(self, method: str, *arguments: Any) -> None:
        """Have something done that nothing comes of."""
        self._calls.put(Call(None, method, arguments))

    def state(self, request: bool = False) -> Far:
        """A number for a new state, of a request or of a prompt."""
        far = Far(self, next(self._numbers))
        if request:
            self.requests.add(far.number)
        weakref.finalize(far, _drop, self._calls, self.requests, far.number).atexit = False
        return far


def _drop(calls: SimpleQueue[Call | None], requests: set[int], number: int) -> None:
    requests.discard(number)
    calls.put(Call(None, "drop", (number,)))


def _send(to: IO[bytes], first: object, calls: SimpleQueue[Call | None]) -> None:
    """A thread's: the first thing, then what is put into the queue, up to None."""
    try:
        pickle.dump(first, to)
        while True:
            to.flush()
            call = calls.get()
            if call is None:
                break
            pickle.dump(call, to)
    except OSError:
        pass  # the process has ended, as its other pipe tells, too
    finally:
        with suppress(OSError):
            to.close()


def _receive(
    process: subprocess.Popen[bytes], came: IO[bytes], answers: dict[int, Future[Any]], ended: threading.Event
) -> None:
    """A thread's: answers to whom they belong, until the process ends; then an error to who still waits."""
    with came:
        while True:
            try:
                answer: Answer = pickle.load(came)  # what our own program wrote
            except (EOFError, OSError, pickle.UnpicklingError):
                break
            waiting = answers.pop(answer.number)
            if answer.error is None:
                waiting.set_result(answer.outcome)
            else:
                waiting.set_exception(answer.error)
    try:
        process.wait(_FAREWELL)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    ended.set()
    while answers:
        answers.popitem()[1].set_exception(_ended(process))


def _ended(process: subprocess.Popen[bytes]) -> EngineError:
    return EngineError(
        f"The process that renders speech has ended (exit code {process.returncode}), perhaps for want of memory. The "
        "next request starts another."
    )


class FarRenderer(Renderer[Far, Far]):
    """A renderer of a model's streamed requests in other processes, which share the calling thread's number of threads.

    A request stays in one process. The model must be as it is in its folder. storage, exact_vocoder: see Engine;
    processes: how many.
    """

    def __init__(
        self,
        model: ModelFolder,
        storage: torch.dtype | None = None,
        exact_vocoder: bool = False,
        processes: int = 1,
    ) -> None:
        self._processes = [FarProcess(model, storage, exact_vocoder) for _ in range(processes)]
        greetings = [process.ask("greet") for process in self._processes]
        greeting: Greeting
        greeting, *_ = (each.result() for each in greetings)
        self.schedule = greeting.schedule
        self._bytes_per_frame = greeting.bytes_per_frame

    @property
    def bytes_per_frame(self) -> int:
        """See Renderer."""
        return self._bytes_per_frame

    @property
    def lost(self) -> bool:
        """See Renderer."""
        return any(process.ended.is_set() for process in self._processes)

    def _least_busy(self) -> FarProcess:
        return min(self._processes, key=lambda process: len(process.requests))

    def prompt(self, voice: Voice) -> Prompt[FarPrompt]:  # type: ignore[override]
        """See Renderer."""
        there = {process: process.state() for process in self._processes}
        heard = {process: process.ask("prompt", far.number, voice) for process, far in there.items()}
        tokens = 0
        for process, answer in heard.items():
            tokens, there[process].nbytes = answer.result()
        return Prompt(FarPrompt(there), tokens)

    def fitted(self, voice: Voice) -> Voice:
        """See Renderer."""
        voice_there: Voice = self._least_busy().ask("fitted", voice).result()
        return voice_there

    def start(  # type: ignore[override]
        self, prompt: Prompt[FarPrompt], speed: float = 1.0, hops: tuple[int, ...] | None = None, seed: int | None = 0
    ) -> RenderState[Far, Far]:
        """See Renderer."""
        process = self._least_busy()
        far = process.state(request=True)
        process.tell("start", far.number, prompt.flow.there[process].number, speed, hops, seed)
        return RenderState(far, Far(process, far.number), SpeedState(speed), self.cut(hops), prompt.tokens)

    def append(
        self, states: Sequence[RenderState[Far, Far]], tokens: Sequence[Sequence[int]], finals: Sequence[bool]
    ) -> Rendered:
        """See Renderer. Rows of several processes are rendered at the same time where there are threads for it."""
        rows: dict[FarProcess, list[int]] = {}
        for row, state in enumerate(states):
            rows.setdefault(state.flow.process, []).append(row)
        threads, groups = torch.get_num_threads(), list(rows.items())
        waves: dict[int, np.ndarray | Exception] = {}
        flow_seconds = vocoder_seconds = 0.0
        for first in range(0, len(groups), threads):
            together = groups[first : first + threads]
            answers = [
                process.ask(
                    "append",
                    threads // len(together),
                    [states[row].flow.number for row in some],
                    [list(tokens[row]) for row in some],
                    [finals[row] for row in some],
                )
                for process, some in together
            ]
            seconds = [(0.0, 0.0)]
            for (_, some), answer in zip(together, answers, strict=True):
                try:
                    done: Progress = answer.result()
                except Exception as error:
                    waves |= dict.fromkeys(some, error)
                    continue
                seconds.append((done.rendered.flow_seconds, done.rendered.vocoder_seconds))
                for row, wave, nbytes in zip(some, done.rendered.waves, done.nbytes, strict=True):
                    waves[row] = wave
                    states[row].taken += len(tokens[row])
                    states[row].flow.nbytes = nbytes
            slowest = max(seconds, key=sum)
            flow_seconds, vocoder_seconds = flow_seconds + slowest[0], vocoder_seconds + slowest[1]
        return Rendered([waves[row] for row in range(len(states))], flow_seconds, vocoder_seconds)
