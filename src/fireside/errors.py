"""Every error a user can meet: one clear sentence that says what to do, and what the CLI and a server answer with."""

from __future__ import annotations


class FiresideError(Exception):
    """Base of all errors that are the caller's to act on.

    `exit_code` is what the CLI exits with, `status` the HTTP status that a server answers with.
    """

    exit_code = 1
    status = 500


class UsageError(FiresideError):
    """An option or argument that cannot be used as given."""

    exit_code = 2
    status = 400


class TextError(FiresideError):
    """Text that cannot be spoken: empty, only punctuation, or in a script the model cannot read."""

    exit_code = 3
    status = 400


class AudioError(FiresideError):
    """Audio that cannot be used: missing, not audio, silent, too short."""

    exit_code = 4
    status = 400


class VoiceError(FiresideError):
    """A voice that does not exist, or cannot be added or removed."""

    exit_code = 5
    status = 400


class ModelError(FiresideError):
    """A model folder that cannot be loaded: missing, truncated or mis-shaped files."""

    exit_code = 6


class ConfigError(FiresideError):
    """A configuration with an unknown key or a value out of range."""

    exit_code = 7
    status = 400


class OutputError(FiresideError):
    """A result that cannot be written where it was asked for."""

    exit_code = 8


class EngineError(FiresideError):
    """A model that failed in the midst of a request; `__cause__` is what it raised. Other requests go on."""

    exit_code = 9


class StoppingError(FiresideError):
    """An engine that is shutting down and takes no new requests. retry_after: seconds after which to come again."""

    status = 503

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BusyError(FiresideError):
    """As many requests as can be served are being served, or wait.

    retry_after: seconds after which a place can be hoped for.
    """

    status = 429

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TimeLimitError(FiresideError):
    """A request that took longer than it may."""

    status = 504


class StalledError(FiresideError):
    """A listener who takes no audio, or a text that stopped coming."""

    status = 408


class UnknownModelError(UsageError):
    """A model that this server does not have."""

    status = 404


class UnknownVoiceError(VoiceError):
    """A voice that there is not."""

    status = 404


class VoiceNotSavedError(VoiceError):
    """A voice that could not be written, as on a full disk."""

    status = 507


class VoiceExistsError(VoiceError):
    """A voice's name that is taken, or a voice that is the model's own and stays."""

    status = 409


class AuthError(FiresideError):
    """A key that is missing or not known."""

    status = 401


class TooLargeError(FiresideError):
    """More data than a server takes."""

    status = 413


class OriginError(FiresideError):
    """A web page of another origin that this server was not told to answer."""

    status = 403
