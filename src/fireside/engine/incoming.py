"""Text that comes in parts while its speech goes out: how the parts become work for the LM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from fireside.engine.plan import AnyLMConfig, PiecePlan, plan_pieces, prompt_text, prompt_voice
from fireside.errors import TextError, UsageError
from fireside.models.config import LMConfig
from fireside.models.layout import ControlIds
from fireside.models.turns import MixMachine
from fireside.text.frontend import Frontend
from fireside.text.official import TextStream
from fireside.text.sentences import seconds, speakable
from fireside.text.stream import StreamingFrontend

if TYPE_CHECKING:
    from fireside.engine.texts import AnyFrontend
    from fireside.request import SpeechRequest


PIECE_SECONDS = 12.0
"""Speech, as far as a text's length tells, from which on the end of a sentence is the end of its piece."""

_SENTENCE_ENDS = frozenset("。！？!?；;\n")


class Incoming(Protocol):
    """One request's incoming text. Every method returns the pieces that can now be begun."""

    def begin(self) -> list[PiecePlan]:
        """Before the first part."""

    def push(self, text: str) -> list[PiecePlan]:
        """A part came in. Raises TextError for what cannot be spoken."""

    def flush(self) -> list[PiecePlan]:
        """What has come is to be said without waiting for what may follow. Raises TextError as `push`."""

    def finish(self) -> list[PiecePlan]:
        """The text has ended. Raises TextError when there was nothing to say in all of it."""


class Sentences:
    """Every sentence is a piece of its own, begun when it is complete: for models that read whole sentences."""

    def __init__(self, text: StreamingFrontend, speed: float) -> None:
        self._text = text
        self._speed = speed

    def begin(self) -> list[PiecePlan]:
        """See Incoming."""
        return []

    def push(self, text: str) -> list[PiecePlan]:
        """See Incoming."""
        return plan_pieces(self._text.push(text), self._speed, phones=True)

    def flush(self) -> list[PiecePlan]:
        """See Incoming."""
        return plan_pieces(self._text.flush(), self._speed, phones=True)

    def finish(self) -> list[PiecePlan]:
        """See Incoming."""
        return plan_pieces(self._text.finish(), self._speed, phones=True)


class Portions:
    """Text and speech in turn (the mix layout): the LM begins before it knows how the sentence goes on.

    A piece goes on over sentences until it has PIECE_SECONDS of speech to say, and ends with the next one, since what
    LM and flow keep of it grows with it. Where the text was cut into parts plays no role.
    """

    def __init__(self, stream: Callable[[], TextStream], machine: Callable[[], MixMachine], max_ratio: float) -> None:
        """stream, machine: make those of a new piece; max_ratio: the most speech ids for a text id."""
        self._make = stream, machine
        self._max_ratio = max_ratio
        self._any = False
        self._last = ""
        self._open()

    def _open(self) -> None:
        stream, machine = self._make
        self._stream, self._machine = stream(), machine()
        self._begun = False
        self._ids = 0
        self._seconds = 0.0

    def begin(self) -> list[PiecePlan]:
        """See Incoming."""
        return []

    def push(self, text: str) -> list[PiecePlan]:
        """See Incoming."""
        plans: list[PiecePlan] = []
        start = 0
        for index, char in enumerate(text):
            # A full stop ends a sentence when a blank follows it: "3." may become "3.14".
            if char in _SENTENCE_ENDS or (char.isspace() and self._last == "."):
                plans += self._take(text[start : index + 1])
                start = index + 1
                if self._seconds >= PIECE_SECONDS:
                    plans += self._close()
            self._last = char
        return plans + self._take(text[start:])

    def flush(self) -> list[PiecePlan]:
        """See Incoming."""
        return self._close()

    def finish(self) -> list[PiecePlan]:
        """See Incoming."""
        plans = self._close()
        if not self._any:
            raise TextError("There is nothing to say: the text has no words.")
        return plans

    def _take(self, text: str) -> list[PiecePlan]:
        self._any = self._any or speakable(text)
        self._seconds += seconds(text)
        return self._say(self._stream.push(text))

    def _close(self) -> list[PiecePlan]:
        plans = self._say(self._stream.finish())
        if self._begun:
            self._machine.end(int(self._max_ratio * self._ids))
        self._open()
        return plans

    def _say(self, ids: Sequence[int]) -> list[PiecePlan]:
        """Give the LM more to say; its piece is begun with the first of it."""
        if not ids:
            return []
        self._machine.push(ids)
        self._ids += len(ids)
        begun, self._begun = self._begun, True
        return [] if begun else [PiecePlan(machine=self._machine)]


def incoming_text(config: AnyLMConfig, request: SpeechRequest, frontend: AnyFrontend) -> Incoming:
    """What takes in the text of a request. Raises UsageError for a model that cannot speak before it has read."""
    if isinstance(frontend, Frontend):
        return Sentences(StreamingFrontend(frontend), request.speed)
    control = ControlIds.of(config)
    if not isinstance(config, LMConfig) or not control.has_fill:
        raise UsageError("This model reads its whole text before it speaks: give it a text, not a stream of parts.")
    layout, voice = config.layout, prompt_voice(request)
    instruct, transcript = request.control, prompt_text(voice)
    if not layout.mix_instruct_first:
        instruct, transcript = (), [*instruct, *transcript]

    def machine() -> MixMachine:
        return MixMachine(
            control,
            instruct=instruct,
            prompt_text=transcript,
            prompt_speech=voice.prompt_tokens.tolist() if voice else (),
            mix_text=layout.mix_text,
            mix_speech=layout.mix_speech,
        )

    return Portions(lambda: frontend.stream(request.join_parts), machine, config.max_ratio)
