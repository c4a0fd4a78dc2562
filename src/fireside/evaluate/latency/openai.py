"""The client of `POST /v1/audio/speech`, OpenAI's own or anybody's who speaks it."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from fireside.evaluate.latency.client import SILENCE, Arrival, Broken, Client, Pcm, Refused
from fireside.evaluate.latency.wav import WavBody

RECEIVE_BUFFER = 16 * 1024
"""Bytes that the kernel, and once more the client library, take in ahead of a listener who does not read."""


@dataclass(frozen=True)
class Speech:
    """What is asked of every text. extra: fields of the body that only some servers know, as `speed` or `seed`."""

    model: str
    voice: str
    response_format: Literal["pcm", "wav"] = "pcm"
    stream_format: Literal["audio", "sse"] = "audio"
    extra: tuple[tuple[str, Any], ...] = ()


class OpenAIClient(Client):
    """Reads headerless or WAV int16 mono, raw or in server-sent events.

    url: the server's root or its `/v1`. sample_rate: of headerless audio; a WAV header that says otherwise breaks the
    stream. key: sent as a bearer token.
    """

    def __init__(self, url: str, speech: Speech, sample_rate: int = 24000, key: str | None = None) -> None:
        root = url.rstrip("/")
        self._url = f"{root if root.endswith('/v1') else root + '/v1'}/audio/speech"
        self._speech, self.sample_rate = speech, sample_rate
        self._session = open_session(key)

    async def speak(self, text: str) -> AsyncIterator[Arrival]:
        speech = self._speech
        body = {"model": speech.model, "voice": speech.voice, "input": text, "response_format": speech.response_format}
        if speech.stream_format == "sse":
            body["stream_format"] = "sse"
        decoder = WavBody(self.sample_rate) if speech.response_format == "wav" else Pcm()
        async with posting(self._session, self._url, body | dict(speech.extra)) as response:
            if response.status != 200:
                raise await refusal(response)
            try:
                if speech.stream_format == "sse":
                    async for event in _events(response):
                        yield Arrival(decoder.samples(event)) if isinstance(event, bytes) else _report(event)
                else:
                    async for data, opens in _chunks(response):
                        yield Arrival(decoder.samples(data), opens)
                    yield Arrival(SILENCE, report=_server_timing(response))
            except (aiohttp.ClientError, OSError) as problem:
                raise Broken(f"{type(problem).__name__}: {problem}") from problem

    async def close(self) -> None:
        await self._session.close()


def open_session(key: str | None) -> aiohttp.ClientSession:
    """A session without limits of its own, whose sockets take in little ahead of their reader."""
    connector = aiohttp.TCPConnector(limit=0, socket_factory=_small_socket)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    return aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout, read_bufsize=RECEIVE_BUFFER)


def _small_socket(address: Any) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return made


@asynccontextmanager
async def posting(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any]
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The response to a JSON body; leaving goes away from a server that is not at the end.

    Raises Refused when there is no server, or none that answers.
    """
    try:
        response = await session.post(url, json=body)
    except (aiohttp.ClientError, OSError) as problem:
        raise Refused(type(problem).__name__, str(problem)) from problem
    try:
        yield response
    finally:
        # A connection whose body was not read to the end is closed, others are kept: what `release` does by itself
        # only once it has seen the end.
        if response.content.at_eof():
            response.release()
        else:
            response.close()


async def refusal(response: aiohttp.ClientResponse) -> Refused:
    """What a server says when it does not take a request."""
    try:
        text = (await response.content.read(4096)).decode(errors="replace")
    except (aiohttp.ClientError, OSError) as problem:
        text = str(problem)
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = text.strip()
    wait = response.headers.get("Retry-After", "")
    return Refused(response.status, str(message), float(wait) if wait.isdigit() else None)


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[bytes, bool]]:
    """Bytes as they come, and whether they open an HTTP chunk; without chunked encoding every read is one."""
    opens = True
    async for data, closes in response.content.iter_chunks():
        yield data, opens
        opens = closes or not response.headers.get("Transfer-Encoding")


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes | dict[str, Any]]:
    """OpenAI's server-sent events: the bytes of each delta, then the last event.

    Raises Broken for an error's event, for what is no event, and for a stream without an end.
    """
    async for line in _lines(response):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        try:
            event = json.loads(data)
            kind = event.get("type")
            audio = base64.b64decode(event["audio"], validate=True) if kind == "speech.audio.delta" else None
        except (ValueError, KeyError, AttributeError, TypeError) as problem:
            raise Broken(f"an event that is not one: {data[:80]!r}") from problem
        if audio is not None:
            yield audio
        elif kind == "speech.audio.done":
            yield event
            return
        elif kind == "error" or "error" in event:
            raise Broken(str(event.get("error")))
    raise Broken("the events ended without speech.audio.done")


def _report(done: dict[str, Any]) -> Arrival:
    """Fireside's split of the time, which it puts into the last event; nothing from other servers."""
    own = done.get("fireside")
    timings = own.get("timings") if isinstance(own, dict) else None
    return Arrival(SILENCE, report=numbers(timings))


def _server_timing(response: aiohttp.ClientResponse) -> dict[str, float]:
    """The durations of the header of that name, in seconds."""
    header = response.headers.get("Server-Timing", "")
    return {name: float(ms) / 1000 for name, ms in re.findall(r"([\w-]+)\s*;\s*dur=([\d.]+)", header)}


def numbers(timings: Any) -> dict[str, float]:
    """The fields of a server's account that are numbers."""
    given = timings if isinstance(timings, dict) else {}
    return {name: float(value) for name, value in given.items() if isinstance(value, (int, float))}


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length, without their ends."""
    rest = b""
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")
