"""Machines that walk through a layout at decoding: what to feed next, what may follow, when it is over.

A machine belongs to one request and knows nothing of tensors. The decoder asks `next()` for a step, feeds
its ids, draws an id (or takes the forced one) and hands it to `accept()`. `next()` returns None while more
text must come, and after the end (`done`). What a machine feeds depends on its text and on the ids drawn,
never on when text came in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Literal, Protocol

from fireside.errors import ModelError, TextError
from fireside.models.layout import BlockFeed, ControlIds, text_ids

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges of ids."""


class Event(Enum):
    """What a decoded id can be other than a speech id."""

    BOUNDARY = "boundary"
    """The speech of a portion of text is complete."""
    END = "end"
    """The speech is complete."""


@dataclass(frozen=True)
class Step:
    """Forget the last `rewind` positions and feed these ids; then draw an id that is in none of the banned ranges,
    unless one is forced.

    shared: so many of a first step's ids are what the voice begins with, whatever it is to say.
    """

    feed: list[int]
    banned: Ranges
    forced: int | None = None
    rewind: int = 0
    shared: int = 0


class Machine(Protocol):
    """One request's way through its layout."""

    @property
    def done(self) -> bool:
        """Whether nothing more will be said."""

    @property
    def history(self) -> Sequence[int]:
        """Ids drawn so far, as repetition-aware sampling looks at them."""

    def next(self) -> Step | None:
        """The next step; None when done, or when text must come first."""

    def accept(self, token: int) -> int | tuple[int, ...] | Event:
        """Take the id that followed the step: the speech id itself, or the ids that are settled with it, or what it
        means."""


def all_but(control: ControlIds, allowed: Sequence[int]) -> Ranges:
    """Ban every control id but the allowed ones."""
    edges = [control.first - 1, *sorted(allowed), control.end]
    return tuple((a + 1, b) for a, b in pairwise(edges) if a + 1 < b)


class PlainMachine:
    """All text, then speech until a stop id or `max_tokens`.

    Any control id stops. Before `min_tokens` all of them are banned; with `stop_mask="first_only"` the
    original's slip is repeated, which bans the first of them only: eos in CosyVoice 1 and 2, sos in 3. Lengths
    count generated ids; the prompt is given.
    """

    def __init__(
        self,
        control: ControlIds,
        text: Sequence[int],
        prompt_text: Sequence[int] = (),
        prompt_speech: Sequence[int] = (),
        min_tokens: int = 0,
        max_tokens: int = 2**31,
        stop_mask: Literal["all", "first_only"] = "all",
    ) -> None:
        self.history: list[int] = []
        self.done = False
        self._control = control
        self._limits = min_tokens, max_tokens
        self._mask: Ranges = ((control.first, control.end),)
        if stop_mask == "first_only":
            self._mask = ((control.first, control.first + 1),)
        words = text_ids([*prompt_text, *text])
        self._feed = [control.sos, *words, control.task, *prompt_speech]

    def next(self) -> Step | None:
        """See Machine."""
        if self.done:
            return None
        early = len(self.history) < self._limits[0]
        return Step(self._feed, self._mask if early else ())

    def accept(self, token: int) -> int | Event:
        """See Machine."""
        if token >= self._control.first:
            self.done = True
            return Event.END
        self.history.append(token)
        self._feed = [token]
        self.done = len(self.history) >= self._limits[1]
        return token


@dataclass(frozen=True)
class Original:
    """What the original does in the mix layout and we do not, each to be switched on for comparison.

    early_start: with an instruct prefix and no prompt speech, decoding begins before any text was fed.
    one_portion_per_piece: a piece of incoming text feeds one portion at most; the rest waits for the next
    piece, or is fed in one go when the text has ended. repeat_last: then the last speech id is fed a second
    time, before it. first_only: the first control id alone is banned (in CosyVoice 3 that is sos, not eos), and
    nothing in the last portion.
    """

    early_start: bool = False
    one_portion_per_piece: bool = False
    repeat_last: bool = False
    first_only: bool = False

    @classmethod
    def all(cls) -> Original:
        """Everything as the original has it."""
        return cls(True, True, True, True)


class MixMachine:
    """Portions of `mix_text` text ids and `mix_speech` speech ids in turn, while text streams in through
    `push`.

    `fill` ends the speech of a portion; it is drawn, or forced where the portion is full. `max_tokens`
    bounds the speech after the last text. Raises ModelError for a model without fill.
    """

    def __init__(
        self,
        control: ControlIds,
        instruct: Sequence[int] = (),
        prompt_text: Sequence[int] = (),
        prompt_speech: Sequence[int] = (),
        mix_text: int = 5,
        mix_speech: int = 15,
        max_tokens: int = 2**31,
        original: Original | None = None,
    ) -> None:
        if not control.has_fill:
            raise ModelError("This model cannot read text that is still being written: give it the whole text.")
        self.history: list[int] = []
        self.done = False
        self._control = control
        self._mix = mix_text, mix_speech
        self._original = original or Original()
        self._room = max_tokens
        self._feed = [control.sos, *text_ids(instruct)]
        self._prompt = list(prompt_speech)
        self._text: deque[int] = deque(prompt_text)
        self._pieces: deque[list[int]] = deque()
        self._ended = False
        self._last_portion = False
        self._speaking = False
        self._started = False
        self._next_fill = (len(prompt_speech) // mix_speech + 1) * mix_speech - len(prompt_speech)
        eos, fill = all_but(control, [control.eos]), all_but(control, [control.fill])
        self._banned = (fill, eos)
        if self._original.first_only:
            self._banned = (((control.first, control.first + 1),), ())

    def push(self, ids: Sequence[int]) -> None:
        """A piece of text came in."""
        self._pieces.append(list(ids))

    def end(self, max_tokens: int | None = None) -> None:
        """No more text will come; `max_tokens` in place of the bound given at the start, when it follows from the
        text."""
        self._ended = True
        if max_tokens is not None:
            self._room = max_tokens

    def _portion(self) -> list[int]:
        return text_ids([self._text.popleft() for _ in range(self._mix[0])])

    def _ready(self) -> bool:
        """Feed what the text at hand allows; whether speech can follow."""
        portion, speech = self._mix
        while self._prompt and len(self._text) >= portion:
            self._feed += [*self._portion(), *self._prompt[:speech]]
            self._prompt = self._prompt[speech:]
            self._started = True
        if self._prompt:
            return False
        started = len(self._feed) > 1 if self._original.early_start else self._started
        if self.history and self.history[-1] == self._control.fill:
            if len(self._text) < portion:
                return False
            self._feed = self._portion()
        elif not self.history and not started:
            if len(self._text) < portion:
                return False
            self._feed += self._portion()
            self._started = True
        return True

    def _listen(self) -> bool:
        """Take in text until speech can follow, or the text has ended; False when neither is so yet."""
        if self._original.one_portion_per_piece:
            while self._pieces:
                self._text += self._pieces.popleft()
                if self._ready():
                    return True
        else:
            while self._pieces:
                self._text += self._pieces.popleft()
            if self._ready():
                return True
        if not self._ended:
            return False
        if self.history and not self._original.repeat_last:
            self._feed = []
        self._feed = [*self._feed, *text_ids(self._text), self._control.task, *self._prompt]
        self._text.clear()
        self._prompt = []
        self._last_portion = True
        return True

    def next(self) -> Step | None:
        """See Machine."""
        if self.done or not (self._speaking or self._listen()):
            return None
        self._speaking = True
        if self._last_portion:
            return Step(self._feed, self._banned[1])
        forced = None
        if len(self.history) == self._next_fill:
            forced = self._control.fill
        return Step(self._feed, self._banned[0], forced)

    def accept(self, token: int) -> int | Event:
        """See Machine."""
        control = self._control
        if token >= control.first and token not in (control.eos, control.fill):
            raise ValueError(f"the control id {token} has no place in speech")
        if token == control.fill and not self._last_portion:
            self._next_fill = len(self.history) + self._mix[1] + 1
            self.history.append(token)
            self._speaking = False
            return Event.BOUNDARY
        self.history.append(token)
        if token >= control.first:
            self.done = True
            return Event.END
        self._feed = [token]
        if self._last_portion:
            self._room -= 1
            self.done = self._room <= 0
        return token


class BlockMachine:
    """Blocks of whole words, each with its own speech; text streams in through `push`, a block at a time.

    A block has at least one speech id, at least `min_ratio` a text id that are not `silent` (or a short text
    could end in the silence before it), and at most `max_ratio` a text id plus `extra`; then its end is forced.
    Its end is `fill`, and eos for the last block, and no other control id can be drawn: so no block is skipped
    or said twice. The prompt is given as blocks with their speech.
    """

    def __init__(
        self,
        control: ControlIds,
        lookahead: int,
        instruct: Sequence[int] = (),
        prompt_blocks: Sequence[Sequence[int]] = (),
        prompt_speech: Sequence[Sequence[int]] = (),
        max_ratio: float = 6.0,
        extra: int = 25,
        min_ratio: float = 0.0,
        silent: Collection[int] = (),
    ) -> None:
        if len(prompt_blocks) != len(prompt_speech) or not all(prompt_speech):
            raise ValueError("every prompt block needs its speech")
        self.history: list[int] = []
        self.done = False
        self._control = control
        self._text = BlockFeed(control.task, lookahead)
        self._text.blocks = [list(block) for block in prompt_blocks]
        self._prompt = [list(spoken) for spoken in prompt_speech]
        self._limits = max_ratio, extra
        self._min_ratio = min_ratio
        self._silent = frozenset(silent)
        self._feed = [control.sos, *text_ids(instruct)]
        self._opening = control.sos
        self._index = 0
        self._count = 0
        self._spoken = 0
        self._shared = 0
        self._speaking = False
        self._none = all_but(control, [])
        self._fill = all_but(control, [control.fill])
        self._eos = all_but(control, [control.eos])

    def push(self, block: Sequence[int]) -> None:
        """A block of text came in."""
        if not block:
            raise ValueError("a block of text is not empty")
        self._text.blocks.append(list(block))

    def end(self) -> None:
        """No more text will come. Raises TextError when there is nothing to say behind the prompt."""
        if len(self._text.blocks) <= len(self._prompt):
            raise TextError("There is nothing to say: the text has no words.")
        self._text.ended = True

    @property
    def index(self) -> int:
        """The block that is being said, counted from the first one of the prompt."""
        return self._index

    @property
    def blocks(self) -> Sequence[Sequence[int]]:
        """The text so far, that of the prompt included."""
        return self._text.blocks

    @property
    def prompt_speech(self) -> Sequence[Sequence[int]]:
        """The speech of the prompt's blocks."""
        return self._prompt

    def is_speech(self, token: int) -> bool:
        """Whether an id is speech, and not the end of a block."""
        return token < self._control.first

    def restart(self) -> int:
        """Forget what has been said of the block, to say it again; how many ids that was."""
        forgotten = self._count
        del self.history[len(self.history) - forgotten :]
        self._count = self._spoken = 0
        self._feed = [self._opening]
        return forgotten

    @property
    def _last(self) -> bool:
        return self._text.complete and self._index == len(self._text.blocks) - 1

    def _listen(self) -> bool:
        """Feed text and the prompt's speech up to the block to be said; False when text is missing."""
        while True:
            text = self._text.before(self._index)
            if text is None:
                return False
            self._feed += text
            if self._index >= len(self._prompt):
                return True
            self._feed += [*self._prompt[self._index], self._control.fill]
            self._index += 1
            if self._text.fed <= len(self._prompt):
                self._shared = len(self._feed)

    def next(self) -> Step | None:
        """See Machine."""
        if self.done or not (self._speaking or self._listen()):
            return None
        if not self._speaking:
            self._speaking, self._opening = True, self._feed[-1]
        end = self._control.eos if self._last else self._control.fill
        max_ratio, extra = self._limits
        length = len(self._text.blocks[self._index])
        if self._count >= int(max_ratio * length) + extra:
            return Step(self._feed, self._none, forced=end)
        if self._count == 0 or self._spoken < int(self._min_ratio * length):
            return Step(self._feed, self._none, shared=self._shared)
        return Step(self._feed, self._eos if self._last else self._fill)

    def accept(self, token: int) -> int | Event:
        """See Machine."""
        if token < self._control.first:
            self.history.append(token)
            self._count += 1
            self._spoken += token not in self._silent
            self._feed = [token]
            return token
        if token != (self._control.eos if self._last else self._control.fill) or self._count == 0:
            raise ValueError(f"the control id {token} has no place here")
        self._count = self._spoken = 0
        self._speaking = False
        if self._last:
            self.done = True
            return Event.END
        self._index += 1
        self._feed = [self._control.fill]
        return Event.BOUNDARY
