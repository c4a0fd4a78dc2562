"""What one client may have at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from fireside.errors import BusyError, TextError, TooLargeError
from fireside.serve.auth import Client
from fireside.serve.config import ServeConfig

_UPLOADS_AT_ONCE = 8
_LATER = 2.0  # seconds, for a client that has too many streams of its own


class Limits:
    """Counts what is under way. For one event loop."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._streams: Counter[str] = Counter()
        self._body_bytes = 0

    @property
    def streams(self) -> int:
        """Requests for speech that are under way, to the last byte of their audio."""
        return self._streams.total()

    @contextmanager
    def stream(self, client: Client) -> Iterator[None]:
        """Holds one stream of a client's. Raises BusyError when it has as many as it may have."""
        most = self._config.streams_per_key
        if most is not None and self._streams[client.name] >= most:
            raise BusyError(
                f"This key has {most} requests running, as many as it may: wait until one has ended.",
                retry_after=_LATER,
            )
        self._streams[client.name] += 1
        try:
            yield
        finally:
            self._streams[client.name] -= 1
            if not self._streams[client.name]:
                del self._streams[client.name]

    def text(self, text: str) -> str:
        """The text, if a request may have it. Raises TextError."""
        if not text.strip():
            raise TextError("There is nothing to say: the text is empty.")
        if len(text) > self._config.max_text:
            raise TextError(
                f"The text has {len(text)} characters, more than the {self._config.max_text} that this server takes: "
                "send it in parts."
            )
        return text

    @property
    def max_body(self) -> int:
        """Most bytes of a request: a recording as base64, a text at four bytes a character, and some room."""
        return 4 * (self._config.max_upload_bytes // 3 + self._config.max_text) + 2**16

    def take_body(self, size: int, whole: int) -> None:
        """Count `size` more bytes of a request's body, which has `whole` of them by now.

        Raises TooLargeError for a body that is too large, BusyError when too much is being sent in at once.
        """
        if whole > self.max_body:
            raise TooLargeError(
                f"The request is larger than this server takes: a recording may have {self._config.max_upload_bytes} "
                f"bytes, a text {self._config.max_text} characters."
            )
        if self._body_bytes + size > _UPLOADS_AT_ONCE * self.max_body:
            raise BusyError("Too much is being sent to this server at once: try again in a moment.", retry_after=_LATER)
        self._body_bytes += size

    def return_body(self, size: int) -> None:
        """The bytes of a body are no longer held."""
        self._body_bytes -= size
