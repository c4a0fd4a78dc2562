"""Joins the pieces of a text into one stream of audio: no clicks, and pauses as long as a reader's.

Each piece starts shortly before its first sound and ends with the pause asked for; what the model said as
silence around it is cut or topped up. Works chunk by chunk: only silence that may turn out to be the end is
held back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SOUND = 10 ** (-45 / 20)
"""Amplitude from which a sample counts as sound."""

_ONSET = 0.06  # seconds kept before the first sound: quiet consonants lie below the threshold
_DECAY = 0.08  # seconds after the last sound that belong to it
_HOLD = 0.6  # seconds of silence held back at most; more than any pause, less than a listener's patience
_FADE = 0.005


def _nothing() -> np.ndarray:
    return np.zeros(0, np.float32)


@dataclass
class JoinState:
    """One request's join. `trim` false leaves the silence of the model as it is, and fades only."""

    rate: int
    trim: bool = True
    heard: bool = False
    opened: bool = False
    since: int = 0  # samples given out after the last sound
    held: np.ndarray = field(default_factory=_nothing)


def join(state: JoinState, samples: np.ndarray, end: bool = False, pause: float = 0.0) -> np.ndarray:
    """What can be played after `samples` [n] have come; `end` closes a piece with `pause` seconds of silence.

    With `trim` off, or nothing heard in the whole piece, no pause is made.
    """
    known = np.concatenate([state.held, samples.astype(np.float32, copy=False)])
    state.held = _nothing()
    if state.trim and not state.heard:
        sounds = np.flatnonzero(np.abs(known) > SOUND)
        state.heard = len(sounds) > 0
        onset = int(_ONSET * state.rate)
        known = known[max(0, sounds[0] - onset) :] if state.heard else known[max(0, len(known) - onset) :]
        if not state.heard and not end:
            state.held = known
            return _nothing()
    fade = int(_FADE * state.rate)
    if not state.opened and len(known) >= fade:
        known[:fade] *= np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
        state.opened = True
    quiet = _quiet(state, known)
    if not end:
        hold = min(max(min(quiet, int(_HOLD * state.rate)), fade), len(known))
        state.held = known[len(known) - hold :]
        known = known[: len(known) - hold]
        state.since = _since(state, known)
        return known
    missing = 0
    if state.trim and state.heard:
        wanted = int(pause * state.rate)
        known = known[: len(known) - min(len(known), max(0, quiet - wanted))]
        missing = max(0, wanted - quiet)
    fade = min(fade, len(known))
    if fade:
        known[len(known) - fade :] *= np.linspace(1, 0, fade, endpoint=True, dtype=np.float32)
    state.heard, state.opened, state.since = False, False, 0
    return np.concatenate([known, np.zeros(missing, np.float32)])


def _since(state: JoinState, samples: np.ndarray) -> int:
    """Samples from the last sound, in `samples` or before them, to their end."""
    sounds = np.flatnonzero(np.abs(samples) > SOUND)
    return len(samples) - int(sounds[-1]) - 1 if len(sounds) else state.since + len(samples)


def _quiet(state: JoinState, samples: np.ndarray) -> int:
    """Samples of silence up to the end of `samples`, the last sound's decay not counted."""
    return max(0, _since(state, samples) - int(_DECAY * state.rate)) if state.trim else 0
