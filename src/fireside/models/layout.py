"""How text and speech take turns in the LM's sequence: one definition for training and for decoding.

Ids: a speech or control id stands as it is (>= 0, a row of `speech_embedding`); a text id t is written ~t
(< 0). So one list of integers is a whole sequence. The builders below make the sequences of training;
`turns.py` holds the machines that walk through the same sequences at decoding, when the speech is not yet
known.

plain   [sos] [instruct] text [task] speech (eos)
mix     [sos] [instruct] 5 text, 15 speech, 5 text, 15 speech, ... rest of text [task] rest of speech (eos)
block   [sos] [instruct] b1 .. b(1+L) S1 fill b(2+L) S2 fill ... bn [task] S(n-L) fill ... Sn (eos)

b are blocks of whole words, S their speech, L the look-ahead. The fill id is fed in the block layout and
only predicted in the mix layout; eos is only ever predicted. In the block layout a finished block is the
only way to the next one, so no block can be left out or said twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from fireside.models.config import LMConfig, TransformerLMConfig

IGNORE = -1
"""A target that no loss is taken at."""


@dataclass(frozen=True)
class ControlIds:
    """The ids behind the speech ids: half-open range [first, end) of those that the head can say.

    sos and task may lie behind `end` (rows of an embedding of their own, never said), and so does fill where a model
    has none.
    """

    sos: int
    eos: int
    task: int
    fill: int
    first: int
    end: int

    @classmethod
    def after(cls, speech_vocab_size: int, num_control: int) -> ControlIds:
        """CosyVoice 3's order: sos, eos, task, fill, then unused ids."""
        v = speech_vocab_size
        return cls(sos=v, eos=v + 1, task=v + 2, fill=v + 3, first=v, end=v + num_control)

    @classmethod
    def apart(cls, speech_vocab_size: int, num_control: int) -> ControlIds:
        """CosyVoice 1's (`num_control` 1) and 2's (3): eos, unused, fill; sos and task in their own embedding."""
        v, end = speech_vocab_size, speech_vocab_size + num_control
        return cls(sos=end, eos=v, task=end + 1, fill=v + 2 if v + 2 < end else end + 2, first=v, end=end)

    @classmethod
    def of(cls, config: LMConfig | TransformerLMConfig) -> ControlIds:
        """The ids of a model."""
        if isinstance(config, TransformerLMConfig):
            return cls.apart(config.speech_vocab_size, 1)
        order = cls.after if config.control == "shared" else cls.apart
        return order(config.speech_vocab_size, config.num_control)

    @property
    def has_fill(self) -> bool:
        """Whether the head can say fill; if not, text and speech cannot take turns."""
        return self.fill < self.end


def text_ids(ids: Iterable[int]) -> list[int]:
    """Text ids as they stand in a sequence."""
    return [~i for i in ids]


@dataclass
class LMSequence:
    """What the LM reads, and what it shall say after each position (IGNORE where nothing is asked)."""

    inputs: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def feed(self, ids: Sequence[int]) -> None:
        """Positions after which nothing is predicted, unless speech follows."""
        self.inputs += ids
        self.targets += [IGNORE] * len(ids)

    def speak(self, speech: Sequence[int], then: int) -> None:
        """Speech, each id predicted from the position before it; `then` is predicted after the last."""
        following = [*speech, then]
        self.targets[-1] = following[0]
        self.inputs += speech
        self.targets += following[1:]


def plain_sequence(
    control: ControlIds, text: Sequence[int], speech: Sequence[int], instruct: Sequence[int] = ()
) -> LMSequence:
    """All text, then all speech."""
    sequence = LMSequence()
    sequence.feed([control.sos, *text_ids(instruct), *text_ids(text), control.task])
    sequence.speak(speech, control.eos)
    return sequence


def mix_sequence(
    control: ControlIds,
    text: Sequence[int],
    speech: Sequence[int],
    instruct: Sequence[int] = (),
    mix_text: int = 5,
    mix_speech: int = 15,
) -> LMSequence:
    """Fixed portions in turn; the last portion of text, which may be empty, is followed by all remaining
    speech.

    The speech must outlast the full portions: len(speech) > mix_speech * (len(text) // mix_text).
    """
    sequence = LMSequence()
    sequence.feed([control.sos, *text_ids(instruct)])
    full = len(text) // mix_text
    if len(speech) <= full * mix_speech:
        raise ValueError(f"{len(speech)} speech ids do not outlast {full} portions of {mix_speech}")
    for i in range(full):
        sequence.feed(text_ids(text[i * mix_text : (i + 1) * mix_text]))
        sequence.speak(speech[i * mix_speech : (i + 1) * mix_speech], control.fill)
    sequence.feed([*text_ids(text[full * mix_text :]), control.task])
    sequence.speak(speech[full * mix_speech :], control.eos)
    return sequence


class BlockFeed:
    """Which text goes in front of which speech block, as the blocks come in.

    A block is fed only when it is known whether it is the last one (another is there, or the text has
    ended), since `task` follows the last block at once. What is fed so depends on the text alone, never on
    when it came.
    """

    def __init__(self, task: int, lookahead: int) -> None:
        self.task = task
        self.lookahead = lookahead
        self.blocks: list[list[int]] = []
        self.ended = False
        self.fed = 0

    @property
    def complete(self) -> bool:
        """Whether all text has been fed, and `task` with it."""
        return self.ended and self.fed == len(self.blocks)

    def before(self, index: int) -> list[int] | None:
        """What to feed in front of speech block `index` (from 0), or None when more text must come first."""
        want = index + 1 + self.lookahead
        if self.ended:
            want = min(want, len(self.blocks))
        if want <= self.fed:
            return []
        if not self.ended and want >= len(self.blocks):
            return None
        ids = [i for block in self.blocks[self.fed : want] for i in text_ids(block)]
        self.fed = want
        return [*ids, self.task] if self.complete else ids


def block_sequence(
    control: ControlIds,
    blocks: Sequence[Sequence[int]],
    speech: Sequence[Sequence[int]],
    lookahead: int,
    instruct: Sequence[int] = (),
) -> LMSequence:
    """Blocks of text with their speech, one speech block (not empty) for each text block."""
    if len(blocks) != len(speech) or not blocks or not all(speech):
        raise ValueError("every text block needs its speech, and there must be one block at least")
    text = BlockFeed(control.task, lookahead)
    text.blocks = [list(block) for block in blocks]
    text.ended = True
    sequence = LMSequence()
    sequence.feed([control.sos, *text_ids(instruct)])
    for i, spoken in enumerate(speech):
        sequence.feed(text.before(i) or [])
        last = i == len(speech) - 1
        sequence.speak(spoken, control.eos if last else control.fill)
        if not last:
            sequence.feed([control.fill])
    return sequence


class BlockMaker:
    """Merges words into blocks as they come.

    A block is full when it has `min_block` ids, or when a word with one of the `closing` ids
    (punctuation) comes.
    """

    def __init__(self, min_block: int, closing: Collection[int] = ()) -> None:
        self.min_block = min_block
        self.closing = frozenset(closing)
        self._open: list[int] = []

    def push(self, word: Sequence[int]) -> list[int] | None:
        """Add a word; the block that it completes, if it does."""
        self._open += word
        full = len(self._open) >= self.min_block or not self.closing.isdisjoint(word)
        return self.flush() if full else None

    def flush(self) -> list[int] | None:
        """End the text: what is left over, if anything."""
        block, self._open = self._open, []
        return block or None


def make_blocks(words: Iterable[Sequence[int]], min_block: int, closing: Collection[int] = ()) -> list[list[int]]:
    """Merge words (each its text ids, punctuation and boundary included) into blocks; see BlockMaker."""
    maker = BlockMaker(min_block, closing)
    blocks = [maker.push(word) for word in words]
    return [block for block in (*blocks, maker.flush()) if block]


def aligned_blocks(
    words: Sequence[Sequence[int]],
    word_ends: Sequence[int],
    tokens: Sequence[int],
    min_block: int,
    closing: Collection[int] = (),
) -> tuple[list[list[int]], list[list[int]]]:
    """Text blocks of a recording, and the speech of each; `word_ends` are exclusive ends in `tokens`.

    A block without a speech token of its own joins the next one (at the end: the last). `tokens` is not
    empty.
    """
    maker = BlockMaker(min_block, closing)
    texts: list[list[int]] = []
    speech: list[list[int]] = []
    carried: list[int] = []
    start = 0
    for word, end in zip(words, word_ends, strict=True):
        block = maker.push(word)
        if block is None:
            continue
        carried += block
        if end > start:
            texts.append(carried)
            speech.append(list(tokens[start:end]))
            carried, start = [], end
    carried += maker.flush() or []
    if start < len(tokens):
        texts.append(carried)
        speech.append(list(tokens[start:]))
    elif carried:
        texts[-1] += carried
    return texts, speech
