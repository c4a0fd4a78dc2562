"""Every error a user can meet: one clear sentence that says what to do, and the exit code the CLI returns."""

from __future__ import annotations


class FiresideError(Exception):
    """Base of all errors that are the caller's to act on; `exit_code` is what the CLI exits with."""

    exit_code = 1


class UsageError(FiresideError):
    """An option or argument that cannot be used as given."""

    exit_code = 2


class TextError(FiresideError):
    """Text that cannot be spoken: empty, only punctuation, or in a script the model cannot read."""

    exit_code = 3


class AudioError(FiresideError):
    """Audio that cannot be used: missing, not audio, silent, too short."""

    exit_code = 4


class VoiceError(FiresideError):
    """A voice that does not exist, or cannot be added or removed."""

    exit_code = 5


class ModelError(FiresideError):
    """A model folder that cannot be loaded: missing, truncated or mis-shaped files."""

    exit_code = 6


class ConfigError(FiresideError):
    """A configuration with an unknown key or a value out of range."""

    exit_code = 7


class OutputError(FiresideError):
    """A result that cannot be written where it was asked for."""

    exit_code = 8
