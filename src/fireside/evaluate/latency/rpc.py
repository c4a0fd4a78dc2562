"""The client of CosyVoice's gRPC service: the original's `Inference` with a named voice, ours and theirs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import cast

import grpc

from fireside.evaluate.latency.client import Arrival, Broken, Client, Pcm, Refused
from fireside.serve.grpc import cosyvoice_pb2, cosyvoice_pb2_grpc

_OPTIONS = (("grpc.http2.bdp_probe", 0), ("grpc.max_receive_message_length", -1))


class GrpcClient(Client):
    """One channel for all listeners, as applications have it. url: `HOST:PORT`, with or without a scheme."""

    def __init__(self, url: str, voice: str, sample_rate: int = 24000, key: str | None = None) -> None:
        self._voice, self.sample_rate = voice, sample_rate
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._channel = grpc.aio.insecure_channel(re.sub(r"^\w+://", "", url).rstrip("/"), options=_OPTIONS)
        self._inference = cosyvoice_pb2_grpc.CosyVoiceStub(self._channel).Inference

    async def speak(self, text: str) -> AsyncIterator[Arrival]:
        asked = cosyvoice_pb2.sftRequest(spk_id=self._voice, tts_text=text)
        call = self._inference(cosyvoice_pb2.Request(sft_request=asked), metadata=self._metadata)
        pcm, begun = Pcm(), False
        try:
            async for response in call:
                begun = True
                yield Arrival(pcm.samples(response.tts_audio))
        except grpc.aio.AioRpcError as problem:
            status, details = problem.code().name, problem.details() or ""
            if begun:
                raise Broken(f"{status}: {details}") from problem
            raise Refused(status, details, _retry_after(problem)) from problem
        finally:
            call.cancel()

    async def close(self) -> None:
        await self._channel.close(grace=None)


def _retry_after(problem: grpc.aio.AioRpcError) -> float | None:
    for key, value in cast("Iterable[tuple[str, str]]", problem.trailing_metadata() or ()):
        if key == "retry-after":
            with suppress(ValueError):
                return float(value)
    return None
