"""What a caller asks of the engine and what comes back: plain records, no behaviour of a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from fireside.models.config import SamplingConfig
    from fireside.voices import Voice

MIN_SPEED = 0.5
MAX_SPEED = 2.0


@dataclass(frozen=True)
class SpeechRequest:
    """One utterance to make: a text in a voice, or pieces of speech tokens in a voice (conversion,
    benchmarks).

    One of `text` and `tokens` is set. A text may also be an iterator of its parts, spoken as they come, or None
    when the parts come by `Engine.feed`. `speed` > 1 is faster (the mel is interpolated in time). `seed` drives
    sampling only; None draws one. `control` holds text-token ids put before the text (an instruction);
    `use_prompt_text` false leaves the voice's prompt out of the LM (cross-lingual, instruct), never out of
    the flow; `use_speaker` false leaves its embedding out of an LM that reads one. `streaming` asks for chunks
    as early as can be: released models then use the chunk mask, and the full mask without it. `hops` is how many
    chunks of that mask are made at a time, the last entry for all that follow: small at first for an early
    first sound. `sampling` replaces the model's own. `normalise` false leaves a text as it is written, in one
    piece, for models whose text can be; `join_parts` false makes ids of every incoming part by itself."""

    voice: Voice
    text: str | Iterator[str] | None = ""
    tokens: tuple[tuple[int, ...], ...] = ()
    speed: float = 1.0
    seed: int | None = None
    control: tuple[int, ...] = ()
    use_prompt_text: bool = True
    use_speaker: bool = True
    streaming: bool = False
    hops: tuple[int, ...] | None = None
    sampling: SamplingConfig | None = None
    normalise: bool = True
    join_parts: bool = True


STAGES = ("queue", "front_end", "lm_prefill", "lm_decode", "flow", "vocoder", "encode", "write")
"""Where a request's time can go, in the order in which it goes there; fields of Timings."""


@dataclass(frozen=True)
class Timings:
    """Where a request's time went, in seconds of wall clock, up to the chunk that carries it.

    `queue` is the wait for admission; LM, flow and vocoder times are those of the batched calls that the request took
    part in; `encode` and `write` are a server's to fill. `elapsed` is all the time since the request was made, `total`
    all the engine's work while it was there, without what its caller did between two chunks. `ttfa` counts from when
    the request was made to its first samples, `audible_ttfa` to when a listener hears the first one above -40 dBFS."""

    queue: float = 0.0
    front_end: float = 0.0
    lm_prefill: float = 0.0
    lm_decode: float = 0.0
    flow: float = 0.0
    vocoder: float = 0.0
    encode: float = 0.0
    write: float = 0.0
    elapsed: float = 0.0
    ttfa: float = 0.0
    audible_ttfa: float = 0.0
    total: float = 0.0
    audio_seconds: float = 0.0
    lm_tokens: int = 0

    @property
    def rtf(self) -> float:
        """Processing time over audio time."""
        return self.total / self.audio_seconds if self.audio_seconds > 0 else float("inf")

    @property
    def waiting(self) -> float:
        """What of `elapsed` went by without work on the request: the turns of others, a caller who was elsewhere."""
        return max(0.0, self.elapsed - sum(getattr(self, stage) for stage in STAGES))

    @property
    def split(self) -> dict[str, float]:
        """All of `elapsed`, by where it went; in the timings of the first chunk that is the time to first audio."""
        return {**{stage: getattr(self, stage) for stage in STAGES}, "waiting": self.waiting}

    def plus(self, **changes: float) -> Timings:
        """A copy with some fields increased."""
        return replace(self, **{name: getattr(self, name) + value for name, value in changes.items()})


@dataclass(frozen=True)
class AudioChunk:
    """A piece of a request's audio, in order. `final` marks the last.

    tokens: the speech tokens spoken in it (before `speed`); progress: the share of the request that is done,
    0..1, an estimate until the end; timings: those up to this chunk."""

    samples: np.ndarray = field(repr=False)
    sample_rate: int
    index: int
    final: bool
    timings: Timings
    progress: float = 1.0
    tokens: tuple[int, ...] = field(default=(), repr=False)

    @property
    def seconds(self) -> float:
        """Length of this chunk."""
        return len(self.samples) / self.sample_rate
