"""The program that renders for a FarRenderer: it reads calls from its input and writes answers to its output.

It ends when its input does, and not before: who called it decides what a signal means.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

import torch

from fireside.engine.beside import set_threads
from fireside.engine.far import Answer, Call, Greeting, Progress
from fireside.engine.render import Prompt, Rendered, Renderer, RenderState
from fireside.engine.stages import streaming_renderer, vocoder_stage
from fireside.errors import EngineError

if TYPE_CHECKING:
    from fireside.models.checkpoint import ModelFolder
    from fireside.voices import Voice

QUIET_SECONDS = 5.0
"""For so long nothing was rendered when free memory is given back: what comes next has to get it anew, page by page,
which one listener after another would hear as a later first sound."""

SLOW = {"prompt": 0, "fitted": 10}
"""What is done each in a thread beside, with one core: a new voice takes seconds, in which others must go on hearing.
And its niceness: somebody waits for a prompt to be heard who wants to hear speech, and fitting can wait for that."""


class Answers:
    """Where answers are written, from any thread."""

    def __init__(self, to: IO[bytes]) -> None:
        self._to = to
        self._lock = threading.Lock()

    def __call__(self, answer: Answer) -> None:
        """Write one."""
        with self._lock:
            pickle.dump(answer, self._to)
            self._to.flush()


class FarStates:
    """The renderer and the states of its prompts and requests, by their numbers; its public methods are the calls.

    load: makes the renderer, when it is first needed.
    """

    def __init__(self, load: Callable[[], Renderer[Any, Any]]) -> None:
        self._load = load
        self._trimming = threading.Timer(QUIET_SECONDS, trim)
        self._prompts: dict[int, Prompt[Any]] = {}
        self._states: dict[int, RenderState[Any, Any]] = {}

    @cached_property
    def _renderer(self) -> Renderer[Any, Any]:
        return self._load()

    def greet(self) -> Greeting:
        """See Greeting."""
        return Greeting(self._renderer.schedule, self._renderer.bytes_per_frame)

    def prompt(self, number: int, voice: Voice) -> tuple[int, int]:
        """Hear a voice's prompt: the tokens and bytes of what it leaves behind."""
        prompt = self._prompts[number] = self._renderer.prompt(voice)
        return prompt.tokens, prompt.flow.nbytes

    def fitted(self, voice: Voice) -> Voice:
        """See Renderer."""
        voice = self._renderer.fitted(voice)
        self._settle()
        return voice

    def start(self, number: int, prompt: int, speed: float, hops: tuple[int, ...] | None, seed: int | None) -> None:
        """Begin a request behind the prompt of that number."""
        self._trimming.cancel()
        self._states[number] = self._renderer.start(self._prompts[prompt], speed, hops, seed)

    def append(
        self, threads: int, numbers: Sequence[int], tokens: Sequence[Sequence[int]], finals: Sequence[bool]
    ) -> Progress:
        """Render hops with so many threads."""
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        states = [self._states[number] for number in numbers]
        done = self._renderer.append(states, tokens, finals)
        waves = [portable(wave) if isinstance(wave, Exception) else wave for wave in done.waves]
        return Progress(Rendered(waves, done.flow_seconds, done.vocoder_seconds), [state.nbytes for state in states])

    def drop(self, number: int) -> None:
        """Free a state, and soon after the last request's the memory that all of them left."""
        self._prompts.pop(number, None)
        self._states.pop(number, None)
        self._settle()

    def _settle(self) -> None:
        if not self._states:
            self._trimming.cancel()
            self._trimming = threading.Timer(QUIET_SECONDS, trim)
            self._trimming.daemon = True
            self._trimming.start()


def trim() -> None:
    """Give free memory back to the system, where the C library can (glibc)."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def yielding(nice: int) -> None:
    """Have this thread compute with one core, and so nicely to other threads, where threads can be (Linux)."""
    set_threads(1)
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def portable(error: Exception) -> Exception:
    """An error as it is, where it can travel; else what it says."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return EngineError(f"{type(error).__name__}: {error}")
    return error


def serve(states: FarStates, calls: IO[bytes], answer: Answers) -> None:
    """Do what is called, in order but for what is SLOW, until there is no more."""
    slowly = {method: ThreadPoolExecutor(1, f"fireside-{method}", yielding, (nice,)) for method, nice in SLOW.items()}

    def do(call: Call) -> None:
        try:
            outcome = getattr(states, call.method)(*call.arguments)
        except Exception as error:
            if call.number is not None:
                answer(Answer(call.number, error=portable(error)))
            return
        if call.number is not None:
            answer(Answer(call.number, outcome))

    while True:
        try:
            call: Call = pickle.load(calls)  # what our own process wrote
        except EOFError:
            break
        if call.method in SLOW:
            slowly[call.method].submit(do, call)
        else:
            do(call)
    for thread in slowly.values():
        thread.shutdown(cancel_futures=True)


def main() -> None:
    """Serve on standard input and output; whatever else would be printed goes to the log."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    calls = sys.stdin.buffer
    kind, path, dtype, storage, exact_vocoder = pickle.load(calls)

    def load() -> Renderer[Any, Any]:
        model: ModelFolder = kind(path, dtype)
        renderer = streaming_renderer(model, vocoder_stage(model.vocoder, exact_vocoder), storage)
        gc.freeze()  # what is there now stays, and need not be looked through for garbage
        return renderer

    try:
        serve(FarStates(load), calls, Answers(answers))
    except BrokenPipeError:  # nobody is there any more who would read
        os._exit(1)


if __name__ == "__main__":
    main()
