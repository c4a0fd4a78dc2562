"""A server in a thread of the test's own, on a free port, with a fake or a real service behind it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fake_service import FakeService

from fireside.engine.service import Service
from fireside.serve.auth import Keys
from fireside.serve.config import ServeConfig
from fireside.serve.context import Server
from fireside.serve.limits import Limits
from fireside.serve.metrics import Metrics
from fireside.serve.run import make_results, make_service, make_uvicorn
from fireside.tts import Fireside, load

KEY = "a-key-that-is-long-enough"


@dataclass(frozen=True)
class Running:
    """Where a server listens, and the server; its service is a fake but in `running_for_real`."""

    url: str
    server: Server

    @property
    def service(self) -> FakeService:
        return cast(FakeService, self.server.service)


@contextmanager
def running(
    model: Path, service: FakeService | None = None, *, keys: dict[str, str] | None = None, **config: Any
) -> Iterator[Running]:
    """Serve a model folder's voices with tones."""
    tts = load(model)
    settings = ServeConfig(port=0, **config)
    server = _server(settings, tts, cast(Service, service or FakeService()), keys)
    with _serving(server) as url:
        yield Running(url, server)


@contextmanager
def running_for_real(model: Path, **config: Any) -> Iterator[Running]:
    """Serve a model folder with the real service."""
    tts = load(model)
    settings = ServeConfig(port=0, **config)
    service = make_service(settings, tts, make_results(settings.result_cache))
    server = _server(settings, tts, service, None)
    with _serving(server, service) as url:
        yield Running(url, server)


def _server(config: ServeConfig, tts: Fireside, service: Service, keys: dict[str, str] | None) -> Server:
    return Server(config, tts, service, Keys(keys or {}), Limits(config), Metrics(service, "0", tts.name))


@contextmanager
def _serving(server: Server, service: Service | None = None) -> Iterator[str]:
    """The address of a server that runs in a thread. service: one to start and close with it."""
    http = make_uvicorn(server)

    async def serve(listening: socket.socket) -> None:
        async with service or nullcontext():
            await http.serve(sockets=[listening])

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(serve(listening)), daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not http.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert http.started
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            http.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
