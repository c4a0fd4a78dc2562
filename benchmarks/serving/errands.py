"""The mixed requests of the soak: every way in that a server has, used as it should be, left midway, or used badly."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import grpc
import numpy as np
import soundfile

from fireside.evaluate.latency.client import Client
from fireside.evaluate.latency.listen import Manners, listen
from fireside.evaluate.latency.texts import TEXTS
from fireside.serve.grpc import cosyvoice_pb2, cosyvoice_pb2_grpc
from serving.bars import target
from serving.server import ServerProcess

PATIENCE = 60.0
"""Seconds without a byte after which a request counts as hung."""


@dataclass(frozen=True)
class Told:
    """What became of a request: fine (as it should be), busy (an honest 429), lost (a wrong or no answer), hung."""

    kind: str
    outcome: str
    detail: str = ""


class Lost(Exception):
    """An answer that is not what was due."""


class World:
    """The clients of all protocols, and a recording to clone from."""

    def __init__(self, server: ServerProcess, recording: bytes) -> None:
        self.url, self.model, self.recording = server.url, server.model, recording
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=PATIENCE),
        )
        self.listeners: dict[str, Client] = {
            "openai pcm": target(server).client(),
            "openai wav": replace(target(server), response_format="wav").client(),
            "openai sse": replace(target(server), sse=True).client(),
            "websocket": target(server, "ws").client(),
            "websocket typed": replace(target(server, "ws"), words_per_second=20.0).client(),
            "grpc": target(server, "grpc").client(),
        }
        self.channel = grpc.aio.insecure_channel(server.grpc)

    async def close(self) -> None:
        """Close every connection."""
        for client in self.listeners.values():
            await client.close()
        await self.session.close()
        await self.channel.close(grace=None)

    def prompt_pcm(self) -> bytes:
        """The recording as the original's gRPC wants it: int16 at 16 kHz."""
        samples, rate = soundfile.read(io.BytesIO(self.recording), dtype="float32")
        at = np.arange(0, len(samples) - 1, rate / 16000)
        return (np.interp(at, np.arange(len(samples)), samples) * 32767).astype("<i2").tobytes()


Errand = Callable[[World, random.Random, bool], Awaitable[None]]
"""Does one request; the last argument says to go away midway. Raises Lost, or what a client raises."""


def listening(name: str) -> Errand:
    """A whole listener of one protocol, at playback pace or as fast as can be."""

    async def errand(world: World, draw: random.Random, leave: bool) -> None:
        pace = draw.choice((None, 2.0))
        leave_after = draw.choice((0.05, 0.5, 1.0)) if leave else None
        heard = await listen(world.listeners[name], draw.choice(TEXTS), Manners(pace, 0.0, PATIENCE, leave_after))
        if heard.outcome == "busy":
            raise Busy(heard.message)
        if heard.outcome == "hung":
            raise asyncio.TimeoutError
        if heard.outcome not in (("left", "ok") if leave else ("ok",)):
            raise Lost(f"{heard.outcome}: {heard.message}")

    return errand


class Busy(Exception):
    """The server said that it is full."""


def route(path: str, response: str, **kwargs: Any) -> Errand:
    """A request whose whole answer is audio: int16 for `pcm`, else a file of that format."""

    async def errand(world: World, draw: random.Random, leave: bool) -> None:
        given = filled(kwargs, world, draw)
        async with world.session.post(world.url + path, **given) as answer:
            if answer.status == 429:
                raise Busy(await answer.text())
            if answer.status != 200:
                raise Lost(f"{answer.status}: {(await answer.text())[:200]}")
            if leave:
                await answer.content.readany()
                answer.close()
                return
            body = await answer.read()
        if response == "pcm":
            seconds = len(body) / 2 / 24000
        else:
            samples, rate = soundfile.read(io.BytesIO(body))
            seconds = len(samples) / rate
        if seconds < 0.3:
            raise Lost(f"only {seconds:.2f} s of {response}")

    return errand


def filled(kwargs: dict[str, Any], world: World, draw: random.Random) -> dict[str, Any]:
    """What `post` is given, with a text for "TEXT", the recording for "PROMPT", the model's name for "MODEL"."""
    words = {"TEXT": draw.choice(TEXTS), "PROMPT": world.recording, "MODEL": world.model}

    def value(given: Any) -> Any:
        return words.get(given, given) if isinstance(given, str) else given

    made = {
        name: {key: value(field) for key, field in given.items()} if isinstance(given, dict) else given
        for name, given in kwargs.items()
    }
    return made | ({"data": form(made["data"])} if isinstance(made.get("data"), dict) else {})


def form(fields: dict[str, Any]) -> aiohttp.FormData:
    """A form as the original's clients send it, bytes as a file."""
    made = aiohttp.FormData()
    for name, value in fields.items():
        if isinstance(value, bytes):
            made.add_field(name, value, filename="prompt.wav", content_type="application/octet-stream")
        else:
            made.add_field(name, value)
    return made


def speech(**changes: Any) -> dict[str, Any]:
    """The body of an OpenAI request."""
    return {"model": "MODEL", "voice": "default", "input": "TEXT", "response_format": "pcm"} | changes


async def zero_shot_grpc(world: World, draw: random.Random, leave: bool) -> None:
    """The original's zero-shot call with a recording."""
    asked = cosyvoice_pb2.Request(
        zero_shot_request=cosyvoice_pb2.zeroshotRequest(
            tts_text=draw.choice(TEXTS),
            prompt_text="The fire is lit, and there is tea.",
            prompt_audio=world.prompt_pcm(),
        )
    )
    call = cosyvoice_pb2_grpc.CosyVoiceStub(world.channel).Inference(asked, timeout=5 * PATIENCE)
    size = 0
    try:
        async for response in call:
            size += len(response.tts_audio)
            if leave:
                call.cancel()
                return
    except grpc.aio.AioRpcError as problem:
        if problem.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise Busy(problem.details()) from problem
        raise Lost(f"{problem.code().name}: {problem.details()}") from problem
    if size < 0.3 * 2 * 24000:
        raise Lost(f"only {size} bytes")


def refused(path: str, *statuses: int, **kwargs: Any) -> Errand:
    """A request that must be answered by one of these statuses, in a sentence."""

    async def errand(world: World, draw: random.Random, leave: bool) -> None:
        given = filled(kwargs, world, draw)
        async with world.session.post(world.url + path, **given) as answer:
            text = await answer.text()
            if answer.status not in statuses:
                raise Lost(f"{answer.status} where {statuses} is due: {text[:200]}")
            said = json.loads(text)["error"]
            if not (said["message"] if isinstance(said, dict) else said):
                raise Lost("no sentence says what is wrong")

    return errand


def websocket_refused(code: int, *messages: str | bytes) -> Errand:
    """A WebSocket that is closed with this code after such messages."""

    async def errand(world: World, draw: random.Random, leave: bool) -> None:
        async with world.session.ws_connect(f"{world.url}/v1/audio/stream") as socket:
            for message in messages:
                await (socket.send_bytes(message) if isinstance(message, bytes) else socket.send_str(message))
            while (await socket.receive(timeout=PATIENCE)).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                pass
            if socket.close_code != code:
                raise Lost(f"closed with {socket.close_code}, not {code}")

    return errand


async def unknown_voice_grpc(world: World, draw: random.Random, leave: bool) -> None:
    """gRPC's way of saying that there is no such voice."""
    asked = cosyvoice_pb2.Request(sft_request=cosyvoice_pb2.sftRequest(spk_id="nobody", tts_text="Hello."))
    try:
        async for _ in cosyvoice_pb2_grpc.CosyVoiceStub(world.channel).Inference(asked, timeout=PATIENCE):
            raise Lost("a voice that there is not spoke")
    except grpc.aio.AioRpcError as problem:
        if problem.code() is not grpc.StatusCode.NOT_FOUND:
            raise Lost(f"{problem.code().name} where NOT_FOUND is due") from problem


def noise(seconds: float, amplitude: float) -> bytes:
    """A WAV of noise, or of silence."""
    file = io.BytesIO()
    samples = amplitude * np.random.default_rng(0).standard_normal(round(16000 * seconds))
    soundfile.write(file, samples.astype(np.float32), 16000, format="WAV")
    return file.getvalue()


SPEECH, CLONE = "/v1/audio/speech", "/inference_cross_lingual"
GOOD: dict[str, Errand] = {
    **{name: listening(name) for name in ("openai pcm", "openai wav", "openai sse", "grpc")},
    **{name: listening(name) for name in ("websocket", "websocket typed")},
    **{f"openai {kind}": route(SPEECH, kind, json=speech(response_format=kind)) for kind in ("mp3", "opus", "flac")},
    "openai whole": route(SPEECH, "wav", json=speech(response_format="wav", stream=False)),
    "openai slowly": route(SPEECH, "pcm", json=speech(instructions="speak slowly", speed=0.9)),
    "inference_sft": route("/inference_sft", "pcm", data={"tts_text": "TEXT", "spk_id": "default"}),
    "inference_zero_shot": route(
        "/inference_zero_shot",
        "pcm",
        data={"tts_text": "TEXT", "prompt_text": "The fire is lit, and there is tea.", "prompt_wav": "PROMPT"},
    ),
    "inference_cross_lingual": route(
        CLONE, "pcm", data={"tts_text": "TEXT", "prompt_wav": "PROMPT"}
    ),
    "fork": route("/tts", "pcm", data={"text": "TEXT", "speaker": ""}),
    "grpc zero shot": zero_shot_grpc,
}  # fmt: skip
"""Requests that are answered with audio."""

_START = json.dumps({"type": "start"})
BAD: dict[str, Errand] = {
    "malformed JSON": refused(SPEECH, 400, data=b'{"model": "hearth", ', headers={"Content-Type": "application/json"}),
    "no body": refused(SPEECH, 400),
    "unknown voice": refused(SPEECH, 404, json=speech(input="Hello.", voice="nobody")),
    "unknown model": refused(SPEECH, 404, json=speech(input="Hello.", model="nothing")),
    "unknown format": refused(SPEECH, 400, json=speech(input="Hello.", response_format="tape")),
    "unknown field": refused(SPEECH, 400, json=speech(input="Hello.", colour="red")),
    "empty text": refused(SPEECH, 400, json=speech(input="")),
    "only punctuation": refused(SPEECH, 400, json=speech(input="?!…")),
    "over-long text": refused(SPEECH, 400, 413, json=speech(input="word " * 100_000)),
    "speed": refused(SPEECH, 400, json=speech(input="Hello.", speed=9)),
    "broken upload": refused(CLONE, 400, data={"tts_text": "Hello.", "prompt_wav": b"RIFFnothing"}),
    "silent upload": refused(CLONE, 400, data={"tts_text": "Hello.", "prompt_wav": noise(4, 0)}),
    "huge upload": refused(CLONE, 400, 413, data={"tts_text": "Hello.", "prompt_wav": b"\0" * 40_000_000}),
    "no such route": refused("/v1/audio/song", 404, 405, json={}),
    "websocket binary": websocket_refused(1003, _START, b"\0\1"),
    "websocket not JSON": websocket_refused(1007, _START, "{"),
    "websocket unknown message": websocket_refused(1008, json.dumps({"type": "sing"})),
    "grpc unknown voice": unknown_voice_grpc,
}  # fmt: skip
"""Requests that must be refused, each in its way."""


async def send(kind: str, errand: Errand, world: World, draw: random.Random, leave: bool) -> Told:
    """Do a request and judge what became of it."""
    name = f"{kind}, left" if leave else kind
    try:
        await errand(world, draw, leave)
    except Busy as full:
        return Told(name, "busy", str(full))
    except asyncio.TimeoutError:
        return Told(name, "hung")
    except (Lost, aiohttp.ClientError, grpc.aio.AioRpcError, OSError, ValueError, KeyError) as problem:
        return Told(name, "lost", f"{type(problem).__name__}: {problem}"[:300])
    return Told(name, "fine")
