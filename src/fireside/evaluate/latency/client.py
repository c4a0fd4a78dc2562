"""What the measuring client needs of a protocol: a text in, pieces of audio as they come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import numpy as np

PCM = np.dtype("<i2")
SILENCE = np.empty(0, PCM)


class Refused(Exception):
    """The server did not take a request: its status, what it said, and when it wants to be asked again."""

    def __init__(self, status: int | str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message, self.retry_after = status, message, retry_after

    @property
    def busy(self) -> bool:
        """Whether the server is merely full."""
        return self.status in (429, 503, "RESOURCE_EXHAUSTED", "UNAVAILABLE", 1013)


class Broken(Exception):
    """A stream that did not end as it should have, after it was taken."""


@dataclass(frozen=True)
class Arrival:
    """What one read of the network gave: samples [n] int16, none when it held only a header.

    opens_chunk: the first piece of what the server sent in one go: an HTTP chunk, an event, a message. report: the
    server's own split of the time in seconds, where its protocol has one.
    """

    samples: np.ndarray = field(repr=False)
    opens_chunk: bool = True
    report: Mapping[str, float] | None = None


class Client(ABC):
    """One protocol of one server. Used by many listeners at once; connections are kept and used again."""

    sample_rate: int

    @abstractmethod
    def speak(self, text: str) -> AsyncIterator[Arrival]:
        """The audio of a text as it comes; closing the iterator goes away from the server.

        Raises Refused before the first arrival, Broken when the stream ends too early or in an error.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""


class Pcm:
    """Bytes in pieces of any length to whole samples [n] int16."""

    def __init__(self) -> None:
        self._half = b""

    def samples(self, data: bytes) -> np.ndarray:
        """The samples that are whole by now."""
        data = self._half + data
        whole = len(data) // PCM.itemsize * PCM.itemsize
        self._half = data[whole:]
        return np.frombuffer(data[:whole], PCM)
