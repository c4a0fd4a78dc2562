"""The HTTP application: routes of every dialect behind one gate, errors in one shape."""

from __future__ import annotations

import errno
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from fireside.errors import FiresideError, VoiceNotSavedError
from fireside.serve import cosyvoice, health, openai, page, voices, websocket
from fireside.serve.context import Server
from fireside.serve.middleware import Gate, is_public, protocol_of, respond
from fireside.serve.problems import Problem
from fireside.serve.version import VERSION

_TYPES_OF_FIELDS = ("str", "constrained-str", "VoiceId")
_EXPOSED = ["X-Request-Id", "X-Sample-Rate", "X-Seed", "Server-Timing", "Retry-After"]


def create_app(server: Server) -> FastAPI:
    """Everything that HTTP and WebSocket clients can reach of a server."""
    app = FastAPI(
        title="Fireside",
        version=VERSION,
        summary="Text in, speech out, for many at once.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.state.server = server
    for dialect in (openai, voices, cosyvoice, health):
        app.include_router(dialect.router)
    app.router.routes.extend([*websocket.routes(server), *page.routes()])
    app.add_exception_handler(FiresideError, _told)
    app.add_exception_handler(RequestValidationError, _told)
    app.add_exception_handler(HTTPException, _told)
    app.add_middleware(Gate, server=server)
    if server.config.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(server.config.cors),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=_EXPOSED,
        )
    app.openapi = lambda: _document(app, server)  # type: ignore[method-assign]
    return app


async def _told(request: Request, error: Exception) -> JSONResponse:
    """An error as an answer, in the dialect of the route."""
    server: Server = request.app.state.server
    path, request_id = request.url.path, request.scope["fireside.request_id"]
    if isinstance(error, HTTPException) and isinstance(error.__cause__, FiresideError):
        error = error.__cause__
    if isinstance(error, HTTPException) and getattr(error.__cause__, "errno", None) == errno.ENOSPC:
        error = VoiceNotSavedError("The disk of this server is full: the upload could not be taken.")
    if isinstance(error, RequestValidationError | HTTPException):
        problem = _invalid(error) if isinstance(error, RequestValidationError) else _plain(error, path)
        server.metrics.told(protocol_of(path), problem.code)
    else:
        problem = server.explain(error, protocol_of(path), request_id)
    answer = respond(problem, path)
    if isinstance(error, HTTPException):
        answer.headers.update(error.headers or {})
    return answer


def _invalid(error: RequestValidationError) -> Problem:
    """The first thing that is wrong with a request, in a sentence."""
    first = error.errors()[0]
    # Behind the name of a field with several types stands the one that was tried.
    place = [str(part) for part in first["loc"][1:] if part not in _TYPES_OF_FIELDS]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", first["msg"])
        return Problem(400, f"The body is not JSON: {reason}.", "invalid_json")
    param = ".".join(place) or None
    if first["type"] == "missing":
        message = f"`{param}` is missing." if param else "The body is missing."
    elif first["type"] == "extra_forbidden":
        message = f"`{param}` is not known here; leave it out."
    else:
        message = f"`{param or 'The body'}`: {first['msg']}."
    return Problem(400, message, "invalid_request", param=param)


def _plain(error: HTTPException, path: str) -> Problem:
    """An error of the framework's: no such route, no such method."""
    status = error.status_code
    if status == 404 and error.detail == "Not Found":
        return Problem(404, f"There is nothing at {path[:200]}: see /openapi.json.", "unknown_route")
    code = HTTPStatus(status).phrase.lower().replace(" ", "_")
    return Problem(status, str(error.detail).rstrip(".") + ".", code)


def _document(app: FastAPI, server: Server) -> dict[str, Any]:
    """The OpenAPI document, with the key where one is needed."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        document["components"]["schemas"].pop("HTTPValidationError", None)
        document["components"]["schemas"].pop("ValidationError", None)
        for path, methods in document["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                if server.keys.needed and not is_public(path):
                    operation["security"] = [{"key": []}]
        if server.keys.needed:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = document
    return app.openapi_schema
