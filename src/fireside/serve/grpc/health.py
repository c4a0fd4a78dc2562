"""The standard health service: whether calls are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fireside.serve.grpc.calls import Context, answering

if TYPE_CHECKING:
    from fireside.serve.context import Server

_LOOK = 0.2  # seconds between two looks for somebody who watches


class Health(health_pb2_grpc.HealthServicer):
    """grpc.health.v1; `Check` needs no key. services: the names that can be asked for; '' is the whole server."""

    def __init__(self, server: Server, services: Collection[str]) -> None:
        self._server, self._services = server, services

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """Whether a service takes calls now."""
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(StatusCode.NOT_FOUND, f"There is no service '{request.service}' here.")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """The same whenever it changes, until the server shuts down."""
        async with answering(self._server, context) as call:
            last: int | None = None
            over = False
            while not over:
                over = self._server.draining
                status = self._status(request.service)
                if status != last:
                    await call.send(health_pb2.HealthCheckResponse(status=status))
                    last = status
                await asyncio.sleep(0 if over else _LOOK)

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service and service not in self._services:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        if self._server.service.ready:
            return health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse.NOT_SERVING
