"""What every call has in common: who calls, what an error becomes, and a listener who does not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from grpc.aio import AbortError, ServicerContext

from fireside.errors import StalledError
from fireside.serve.auth import ANYBODY, bearer

if TYPE_CHECKING:
    from fireside.serve.context import Server
    from fireside.serve.speaking import Listener

Context = ServicerContext[Any, Any]

_STATUS = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    408: StatusCode.DEADLINE_EXCEEDED,
    409: StatusCode.ALREADY_EXISTS,
    413: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
    507: StatusCode.RESOURCE_EXHAUSTED,
}

_LONGEST = 500  # characters of a status's details: they are a header, and may repeat what a client sent


class Call:
    """A call being answered: for whom, and its messages."""

    def __init__(self, context: Context, listener: Listener, patience: float) -> None:
        self.listener = listener
        self._context, self._patience = context, patience
        self._writing: asyncio.Future[None] | None = None

    async def send(self, message: Any) -> None:
        """Send a message; waits while the client does not read. Raises StalledError when it does not for too long."""
        self._writing = asyncio.ensure_future(self._context.write(message))
        done, _ = await asyncio.wait({self._writing}, timeout=self._patience)
        if not done:
            raise StalledError(f"The audio was not read for {self._patience:g} s: the call was ended.")
        self._writing.result()

    async def end(self, status: StatusCode, sentence: str, trailing: tuple[tuple[str, str], ...]) -> None:
        """End the call with an error. Always raises."""
        if self._writing is not None:
            # gRPC takes no status while a message is on its way. Everything else is free by now; the call itself waits
            # until its client reads on, and learns why, or goes away, which cancels this.
            await asyncio.wait({self._writing})
        await self._context.abort(status, sentence, trailing)

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._writing is not None:
            self._writing.cancel()


@asynccontextmanager
async def answering(server: Server, context: Context) -> AsyncIterator[Call]:
    """Answer a call: checks its key, and turns what is raised inside into a status with a sentence.

    Trailing metadata name the error (`fireside-error-code`) and when to come again (`retry-after`, seconds)."""
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    listener = server.listener(ANYBODY, "grpc", traceparent=metadata.get("traceparent"))
    call = Call(context, listener, server.config.write_timeout)
    try:
        client = server.keys.check(bearer(metadata.get("authorization")))
        call.listener = replace(listener, client=client)
        yield call
    except AbortError:
        raise
    except Exception as error:
        problem = server.explain(error, "grpc", listener.request_id)
        trailing = [("fireside-error-code", problem.code)]
        if problem.retry_after is not None:
            trailing.append(("retry-after", f"{problem.retry_after:.1f}"))
        sentence = problem.message if len(problem.message) <= _LONGEST else f"{problem.message[:_LONGEST]}…"
        await call.end(_STATUS.get(problem.status, StatusCode.INTERNAL), sentence, tuple(trailing))
    finally:
        call.close()
