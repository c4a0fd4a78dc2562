"""The gRPC client against a service of the original's shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from fake_speech import tone

from fireside.evaluate.latency.listen import Heard, Manners, listen
from fireside.evaluate.latency.target import Target
from fireside.serve.grpc import cosyvoice_pb2, cosyvoice_pb2_grpc


class Servicer(cosyvoice_pb2_grpc.CosyVoiceServicer):
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.gone = 0

    async def Inference(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.asked.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        text = request.sft_request.tts_text
        if text == "full":
            context.set_trailing_metadata((("retry-after", "4"),))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "It is full.")
        try:
            for _ in range(3):
                await asyncio.sleep(0.1)
                yield cosyvoice_pb2.Response(tts_audio=tone(0.3, silent=0.1))
                if text == "fails":
                    await context.abort(grpc.StatusCode.INTERNAL, "The model failed.")
        except (asyncio.CancelledError, GeneratorExit):
            self.gone += 1
            raise


def hear(servicer: Servicer, text: str, manners: Manners) -> Heard:
    async def run() -> Heard:
        server = grpc.aio.server()
        cosyvoice_pb2_grpc.add_CosyVoiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        client = Target(f"127.0.0.1:{port}", "grpc", voice="中文女", key="secret").client()
        try:
            return await listen(client, text, manners)
        finally:
            await client.close()
            await server.stop(1)

    return asyncio.run(run())


def test_original_service():
    servicer = Servicer()
    heard = hear(servicer, "你好", Manners(buffer=None))
    assert heard.outcome == "ok", heard
    assert heard.seconds == pytest.approx(0.9)
    assert heard.chunks == 3
    assert heard.ttfa is not None
    assert heard.ttfa >= 0.1
    assert heard.audible == pytest.approx(heard.ttfa + 0.1)
    assert servicer.asked == [
        cosyvoice_pb2.Request(sft_request=cosyvoice_pb2.sftRequest(spk_id="中文女", tts_text="你好"))
    ]
    assert servicer.metadata[0]["authorization"] == "Bearer secret"


def test_other_ends():
    full = hear(Servicer(), "full", Manners())
    assert (full.outcome, full.status, full.message, full.retry_after) == (
        "busy",
        "RESOURCE_EXHAUSTED",
        "It is full.",
        4,
    )
    broken = hear(Servicer(), "fails", Manners())
    assert (broken.outcome, broken.message) == ("broken", "INTERNAL: The model failed.")
    servicer = Servicer()
    assert hear(servicer, "你好", Manners(leave_after=0.2)).outcome == "left"
    assert servicer.gone == 1
