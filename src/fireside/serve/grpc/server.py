"""The gRPC server, in the event loop of the HTTP server."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from fireside.errors import UsageError
from fireside.serve.grpc import cosyvoice_pb2, cosyvoice_pb2_grpc, fireside_pb2, fireside_pb2_grpc
from fireside.serve.grpc.cosyvoice import CosyVoice
from fireside.serve.grpc.health import Health
from fireside.serve.grpc.reflection import NAME, Reflection
from fireside.serve.grpc.speech import Speech
from fireside.serve.grpc.voices import Voices

if TYPE_CHECKING:
    from fireside.serve.context import Server

_BESIDE_STREAMS = 16  # calls for voices, health and the like that may run beside those that speak
_BESIDE_AUDIO = 2**16  # bytes of a message beside its recording
_GRACE = 5.0  # seconds for what is left when the streams have ended

SERVICES = tuple(
    service.full_name
    for file in (cosyvoice_pb2.DESCRIPTOR, fireside_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
)
"""Those that speak and keep voices; health and reflection stand beside them."""


@asynccontextmanager
async def serve_grpc(server: Server, host: str, port: int) -> AsyncIterator[int]:
    """Serve on a port (0: a free one) until left; gives the port. Streams are to be drained before it is left.

    Raises UsageError when the port cannot be had.
    """
    calls = server.service.max_streams + server.config.max_queue + _BESIDE_STREAMS
    listening = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),  # else two servers share a port without a word
            ("grpc.max_receive_message_length", server.config.max_upload_bytes + _BESIDE_AUDIO),
        ],
        maximum_concurrent_rpcs=calls,
    )
    cosyvoice_pb2_grpc.add_CosyVoiceServicer_to_server(CosyVoice(server), listening)
    fireside_pb2_grpc.add_SpeechServicer_to_server(Speech(server), listening)
    fireside_pb2_grpc.add_VoicesServicer_to_server(Voices(server), listening)
    health_pb2_grpc.add_HealthServicer_to_server(Health(server, SERVICES), listening)
    known = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(Reflection(server, known), listening)
    check_port(host, port)
    address = f"[{host}]" if ":" in host else host
    try:
        bound = listening.add_insecure_port(f"{address}:{port}")
    except RuntimeError as error:
        raise UsageError(_not_bound(host, port)) from error
    await listening.start()
    try:
        yield bound
    finally:
        await listening.stop(_GRACE)


def check_port(host: str, port: int) -> None:
    """Raises UsageError when gRPC could not listen there: before a model is loaded, and before gRPC itself tries and
    fails, which it tells on stderr in lines of its own."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise UsageError(_not_bound(host, port)) from error


def _not_bound(host: str, port: int) -> str:
    return (
        f"gRPC cannot listen on port {port} of {host}, in use or not this machine's: choose another with --grpc-port."
    )
