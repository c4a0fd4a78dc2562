"""Fireside: text in, speech out, in a voice that came with the package or in yours.

>>> from fireside import load
>>> load().say("Good evening.").save("hello.wav")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fireside.errors import FiresideError
from fireside.request import AudioChunk, SpeechRequest, Timings
from fireside.voices import Voice, VoiceCard

if TYPE_CHECKING:
    from fireside.tts import Fireside, Speech, load

__all__ = [
    "AudioChunk",
    "Fireside",
    "FiresideError",
    "Speech",
    "SpeechRequest",
    "Timings",
    "Voice",
    "VoiceCard",
    "load",
]


def __getattr__(name: str) -> object:
    # `import fireside` is to cost nothing; torch is imported when a model is first loaded.
    if name in {"Fireside", "Speech", "load"}:
        from fireside import tts

        return getattr(tts, name)
    raise AttributeError(f"module 'fireside' has no attribute '{name}'")
