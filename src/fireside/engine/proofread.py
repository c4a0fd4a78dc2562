"""Reads back what the LM says, block by block, and has a block said again when its words cannot be heard in it.

The speech tokenizer was taught phones by CTC (Graves et al. 2006), so it knows how likely the text's sounds are in
speech tokens before any of them becomes sound. A block that it understands well enough is spoken at once; of several
that it does not, the best. Draws come from the request's own sampler, so the same seed gives the same speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from fireside.engine.judge import PhoneJudge
from fireside.errors import ConfigError
from fireside.models.config import LMConfig
from fireside.models.speech_tokenizer import SpeechTokenizer
from fireside.models.turns import BlockMachine, Event, Step
from fireside.text.phones import is_spoken

if TYPE_CHECKING:
    from fireside.models.checkpoint import ModelFolder

CONTEXT = 24  # speech tokens in front of what is judged, about a second
FIRST = 45
"""Speech tokens from the beginning of a request for which somebody waits in silence, or has little to hear meanwhile:
three chunks of hearth's flow."""


class Judge(Protocol):
    """How badly sounds are heard in speech."""

    def __call__(self, context: Sequence[int], speech: Sequence[int], phones: Sequence[int]) -> float:
        """See SpeechTokenizer.nats."""


def judge_of(model: ModelFolder) -> Judge | None:
    """The judge of a model whose LM is to be read back, if it is."""
    config = model.config.lm
    if not isinstance(config, LMConfig) or config.proofread.tries == 1:
        return None
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, SpeechTokenizer):
        raise ConfigError("lm.proofread: this model's speech tokenizer knows no phones; set tries to 1.")
    return PhoneJudge(tokenizer) if model.device.type == "cpu" else tokenizer.nats


class ProofreadMachine:
    """A BlockMachine whose blocks are judged when they are complete; see turns.Machine.

    tries: how often a block is said at most; first_tries: the same of those that begin among the first FIRST tokens.
    good: nats per phone up to which it is taken at once. The ids of a block come out together, when it is settled.
    """

    def __init__(
        self, inner: BlockMachine, judge: Judge, tries: int, good: float, first_tries: int | None = None
    ) -> None:
        self._inner = inner
        self._judge = judge
        self._tries, self._good = tries, good
        self._first_tries = tries if first_tries is None else min(tries, first_tries)
        self._settled = 0
        self._said: list[list[int]] = [list(speech) for speech in inner.prompt_speech]
        self._speech: list[int] = []
        self._heard: list[tuple[float, list[int]]] = []
        self._known: float | None = None  # nats of the block before, which are part of every judgement of this one
        self._rewind = 0
        self._again: list[int] = []

    @property
    def done(self) -> bool:
        """See Machine."""
        return self._inner.done

    @property
    def history(self) -> Sequence[int]:
        """See Machine."""
        return self._inner.history

    def next(self) -> Step | None:
        """See Machine."""
        step = self._inner.next()
        if step is None or not (self._rewind or self._again):
            return step
        return replace(step, feed=[*self._again, *step.feed], rewind=self._rewind)

    def accept(self, token: int) -> tuple[int, ...] | Event:
        """See Machine."""
        self._rewind, self._again = 0, []
        if self._inner.is_speech(token):
            self._speech.append(token)
            self._inner.accept(token)
            return ()
        tries = self._first_tries if self._settled < FIRST else self._tries
        phones = [phone for phone in self._inner.blocks[self._inner.index] if is_spoken(phone)]
        limit = self._good * len(phones)
        nats = self._nats(phones, limit)
        said, self._speech = self._speech, []
        self._heard.append((nats, said))
        if nats > limit and len(self._heard) < tries:
            # One position more than was said: the id in front is fed once more, for another draw after it.
            self._rewind = self._inner.restart() + 1
            return ()
        best = min(self._heard, key=lambda heard: heard[0])[1]
        self._heard, self._known = [], None
        if best is not said:
            self._rewind, self._again = self._inner.restart(), best
            for speech in best:
                self._inner.accept(speech)
        self._said.append(best)
        self._settled += len(best)
        self._inner.accept(token)
        return tuple(best)

    def _nats(self, phones: Sequence[int], limit: float) -> float:
        """The nats of the block that has been said, of so many phones: on its own, or what it adds to those of the
        block before it, whichever is less.

        Sounds reach over the edge of a block, so it is heard together with the one before, too. What stays below the
        limit, in whichever way, is answer enough.
        """
        index = self._inner.index
        before = [phone for phone in self._inner.blocks[index - 1] if is_spoken(phone)] if index else []
        previous = self._said[index - 1] if index else []
        context = [token for speech in self._said[: max(0, index - 1)] for token in speech][-CONTEXT:]
        # In the midst of another language sounds are taken for that one's: then a block is clearer on its own.
        alone = self._judge((), self._speech, phones)
        if alone <= limit or not (context or previous):
            return alone
        nats = self._judge(context, [*previous, *self._speech], [*before, *phones])
        if nats > limit:
            if self._known is None:
                self._known = self._judge(context, previous, before)
            if self._known < float("inf"):
                nats -= self._known
        return min(nats, alone)
