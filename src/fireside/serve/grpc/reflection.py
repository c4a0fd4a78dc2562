"""The standard reflection service: what can be called here, for clients without the protos."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from grpc_reflection.v1alpha import reflection

from fireside.serve.grpc.calls import Context, answering

if TYPE_CHECKING:
    from fireside.serve.context import Server

NAME = reflection.SERVICE_NAME


class Reflection(reflection.aio.ReflectionServicer):
    """grpc.reflection.v1alpha, for those who have a key."""

    def __init__(self, server: Server, services: Iterable[str]) -> None:
        super().__init__(services)
        self._server = server

    async def ServerReflectionInfo(self, request_iterator: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        """Answers questions about services and their messages."""
        async with answering(self._server, context):
            async for answer in super().ServerReflectionInfo(request_iterator, context):
                yield answer
