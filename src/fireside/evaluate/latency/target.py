"""Which server is measured, how it is spoken to, and what it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fireside.errors import UsageError
from fireside.evaluate.latency.client import Client

Protocol = Literal["openai", "ws", "grpc"]


@dataclass(frozen=True)
class Target:
    """url: a server's root; HOST:PORT for grpc. words_per_second: the pace of the text (ws); 0 is all at once."""

    url: str = "http://127.0.0.1:8000"
    protocol: Protocol = "openai"
    model: str = "hearth"
    voice: str = "default"
    response_format: Literal["pcm", "wav"] = "pcm"
    sse: bool = False
    words_per_second: float = 0.0
    sample_rate: int = 24000
    key: str | None = field(default=None, repr=False)

    def client(self) -> Client:
        """A client of it, made inside a running event loop. Raises UsageError for a URL that is none."""
        if self.protocol == "grpc":
            from fireside.evaluate.latency.rpc import GrpcClient

            return GrpcClient(self.url, self.voice, self.sample_rate, self.key)
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"{self.url}: a URL begins with http:// or https://, as http://127.0.0.1:8000.")
        if self.protocol == "ws":
            from fireside.evaluate.latency.websocket import WebSocketClient

            return WebSocketClient(self.url, self.model, self.voice, self.sample_rate, self.key, self.words_per_second)
        from fireside.evaluate.latency.openai import OpenAIClient, Speech

        stream_format: Literal["audio", "sse"] = "sse" if self.sse else "audio"
        speech = Speech(self.model, self.voice, self.response_format, stream_format)
        return OpenAIClient(self.url, speech, self.sample_rate, self.key)
