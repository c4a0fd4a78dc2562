"""The web page at `/`: static files of our own under `/page`, with a content security policy that allows nothing
else. It is a client of the HTTP routes like any other and knows no secret."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "media-src blob:",  # a recording is played back before it is sent
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked about every time, sent again only when its ETag has changed
}
_TYPES = {".js": "text/javascript; charset=utf-8"}  # which some systems register as text/plain


class _Files(StaticFiles):
    """Static files under the page's own headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        kind = _TYPES.get(Path(path).suffix)
        if kind:
            response.headers["Content-Type"] = kind
        return response


def routes() -> list[BaseRoute]:
    """`GET /` and `GET /page/{file}`, to be added to an application's routes; they need no key."""
    files = _Files(directory=FOLDER)

    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    return [Route("/", index, methods=["GET"], include_in_schema=False), Mount("/page", files)]
