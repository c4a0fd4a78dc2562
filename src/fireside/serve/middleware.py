"""The gate that every HTTP request passes: its id, its key, its origin, the size of its body, its log line."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fireside.errors import BusyError, FiresideError, TooLargeError
from fireside.serve.auth import Client, bearer, check_origin
from fireside.serve.context import Server
from fireside.serve.problems import Problem
from fireside.serve.speaking import Dialect

_log = logging.getLogger("fireside.serve.http")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = ("/health", "/ready", "/metrics")
_FORK = ("/tts", "/api/speakers")


class Gate:
    """Pure ASGI around the whole application. What it finds out is in the scope, where `routing.py` looks."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        scope["fireside.request_id"] = request_id
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["X-Request-Id"] = request_id
                added["X-Content-Type-Options"] = "nosniff"
            await send(message)

        body = _Body(self._server, receive)
        try:
            try:
                scope["fireside.client"] = self._admit(scope, headers)
            except FiresideError as error:
                problem = self._server.explain(error, protocol_of(scope["path"]), request_id)
                await respond(problem, scope["path"])(scope, receive, answer)
                return
            await self._app(scope, body.receive, answer)
        except Exception as error:  # ours, since errors of clients are told inside
            problem = self._server.explain(error, protocol_of(scope["path"]), request_id)
            if not status:
                await respond(problem, scope["path"])(scope, receive, answer)
        finally:
            body.close()
            level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
            facts = {
                "request_id": request_id,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(1000 * (time.perf_counter() - started), 1),
            }
            _log.log(level, "request", extra=facts)

    def _admit(self, scope: Scope, headers: Headers) -> Client:
        """Who that is. Raises AuthError, OriginError, TooLargeError or BusyError."""
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            check_origin(headers.get("origin"), headers.get("host"), self._server.config.cors)
        needed = not is_public(scope["path"]) and scope["method"] != "OPTIONS"
        client = self._server.keys.check(bearer(headers.get("authorization"))) if needed else Client("public")
        length = headers.get("content-length", "0")
        if length.isdecimal():
            self._server.limits.take_body(0, int(length))
        return client


class _Body:
    """Counts what comes in of a request's body, and stops it where it is too much."""

    def __init__(self, server: Server, receive: Receive) -> None:
        self._limits, self._receive = server.limits, receive
        self._size = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            try:
                self._limits.take_body(size, self._size + size)
            except (TooLargeError, BusyError) as error:
                # As an HTTPException it passes through the parsers of bodies, which call anything else a bad body.
                raise HTTPException(error.status) from error
            self._size += size
        return message

    def close(self) -> None:
        self._limits.return_body(self._size)


def respond(problem: Problem, path: str) -> JSONResponse:
    """The answer that tells of a problem, in the dialect of the path."""
    if path in _FORK:  # which knows no 404 for a speaker
        status = 400 if problem.status == 404 else problem.status
        return JSONResponse({"error": problem.message}, status, problem.headers)
    return JSONResponse(problem.body, problem.status, problem.headers)


def protocol_of(path: str) -> Dialect:
    """Whose dialect a path belongs to; 'http' where it is nobody's."""
    if path.startswith("/v1/audio/speech"):
        return "openai"
    if path.startswith("/inference_"):
        return "cosyvoice"
    return "fork" if path in _FORK else "http"


def is_public(path: str) -> bool:
    """Whether a path needs no key."""
    return path in ("/", "/health", "/ready", "/v1/info", "/openapi.json") or path.startswith("/page/")
