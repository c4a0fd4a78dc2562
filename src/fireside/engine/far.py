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
from functools import partial
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

import torch

from fireside.engine.render import Prompt, Rendered, Renderer, RenderState, Schedule
from fireside.engine.speed import SpeedState
from fireside.errors import EngineError

if TYPE_CHECKING:
    from fireside.models.checkpoint import ModelFolder
    from fireside.voices import Voice

PROGRAM = "fireside.engine.far_process"

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
    """A state in the other process, by its number there; it is dropped there when this is dropped here."""

    number: int
    nbytes: int = 0

    def fork(self) -> Far:
        """Not here: a continuation is begun in the other process."""
        raise NotImplementedError


class FarProcess:
    """The other process, with calls to it from any thread. It ends when this is dropped, or this process ends."""

    def __init__(self, model: ModelFolder, storage: torch.dtype | None, exact_vocoder: bool) -> None:
        # Its own session: Ctrl-C and a signal to all of a terminal's processes are for this one to deal with.
        self._process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        # Calls go through a queue, since dropped states are told of from wherever Python collects garbage.
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._answers: dict[int, Future[Any]] = {}
        self._numbers = itertools.count(1)
        self.ended = threading.Event()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        first = partial(pickle.dump, (type(model), model.path, model.dtype, storage, exact_vocoder))
        for target, arguments in (
            (_send, (self._process.stdin, first, self._calls)),
            (_receive, (self._process, self._process.stdout, self._answers, self.ended)),
        ):
            threading.Thread(target=target, args=arguments, name="fireside-far", daemon=True).start()
        weakref.finalize(self, self._calls.put, None)

    def call(self, method: str, *arguments: Any) -> Any:
        """Have something done, and wait for what comes of it. Raises what was raised there, and EngineError when the
        process has ended."""
        number = next(self._numbers)
        answer: Future[Any] = Future()
        self._answers[number] = answer
        self._calls.put(Call(number, method, arguments))
        if self.ended.is_set() and self._answers.pop(number, None) is not None:
            raise _ended(self._process)
        return answer.result()

    def tell(self, method: str, *arguments: Any) -> None:
        """Have something done that nothing comes of."""
        self._calls.put(Call(None, method, arguments))

    def state(self, nbytes: int = 0) -> Far:
        """A number for a new state."""
        far = Far(next(self._numbers), nbytes)
        weakref.finalize(far, self._calls.put, Call(None, "drop", (far.number,))).atexit = False
        return far


def _send(to: IO[bytes], first: partial[None], calls: SimpleQueue[Call | None]) -> None:
    """A thread's: what is put into the queue, up to None."""
    try:
        first(to)
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
    """A renderer of a model's streamed requests in another process, which has the calling thread's number of threads.

    The model must be as it is in its folder. storage, exact_vocoder: see Engine.
    """

    def __init__(self, model: ModelFolder, storage: torch.dtype | None = None, exact_vocoder: bool = False) -> None:
        self._process = FarProcess(model, storage, exact_vocoder)
        greeting: Greeting = self._process.call("greet")
        self.schedule = greeting.schedule
        self._bytes_per_frame = greeting.bytes_per_frame

    @property
    def bytes_per_frame(self) -> int:
        """See Renderer."""
        return self._bytes_per_frame

    @property
    def lost(self) -> bool:
        """See Renderer."""
        return self._process.ended.is_set()

    def prompt(self, voice: Voice) -> Prompt[Far]:
        """See Renderer."""
        far = self._process.state()
        tokens, far.nbytes = self._process.call("prompt", far.number, voice)
        return Prompt(far, tokens)

    def calibrated(self, voice: Voice) -> Voice:
        """See Renderer."""
        voice_there: Voice = self._process.call("calibrated", voice)
        return voice_there

    def start(
        self, prompt: Prompt[Far], speed: float = 1.0, hops: tuple[int, ...] | None = None, seed: int | None = 0
    ) -> RenderState[Far, Far]:
        """See Renderer."""
        far = self._process.state()
        self._process.tell("start", far.number, prompt.flow.number, speed, hops, seed)
        return RenderState(far, Far(far.number), SpeedState(speed), self.cut(hops), prompt.tokens)

    def append(
        self, states: Sequence[RenderState[Far, Far]], tokens: Sequence[Sequence[int]], finals: Sequence[bool]
    ) -> Rendered:
        """See Renderer."""
        numbers = [state.flow.number for state in states]
        rows = [list(row) for row in tokens]
        try:
            done: Progress = self._process.call("append", torch.get_num_threads(), numbers, rows, list(finals))
        except Exception as error:
            return Rendered([error] * len(states), 0.0, 0.0)
        for state, row, nbytes in zip(states, rows, done.nbytes, strict=True):
            state.taken += len(row)
            state.flow.nbytes = nbytes
        return done.rendered
