"""What routes ask of the request they are given."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from fireside.serve.auth import Client
from fireside.serve.context import Server
from fireside.serve.middleware import protocol_of
from fireside.serve.speaking import Listener


def server_of(request: Request) -> Server:
    """The server that a request came to."""
    server: Server = request.app.state.server
    return server


def client_of(request: Request) -> Client:
    """Whoever's key the request showed."""
    client: Client = request.scope["fireside.client"]
    return client


def listener_of(request: Request) -> Listener:
    """Who asks for speech."""
    return server_of(request).listener(
        client_of(request),
        protocol_of(request.url.path),
        request.scope["fireside.request_id"],
        request.headers.get("traceparent"),
    )


TheServer = Annotated[Server, Depends(server_of)]
TheClient = Annotated[Client, Depends(client_of)]
TheListener = Annotated[Listener, Depends(listener_of)]
