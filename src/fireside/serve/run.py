"""The server's life: bind, load, warm up, serve, and on SIGTERM finish what is running."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import torch
import uvicorn

from fireside.engine.results import MemoryResults, RedisResults, Results
from fireside.engine.service import Limits as ServiceLimits
from fireside.engine.service import Service
from fireside.errors import ConfigError, UsageError
from fireside.request import SpeechRequest
from fireside.serve.app import create_app
from fireside.serve.auth import Keys
from fireside.serve.config import ServeConfig
from fireside.serve.context import Server
from fireside.serve.limits import Limits
from fireside.serve.metrics import Metrics
from fireside.serve.traces import make_tracer
from fireside.serve.version import VERSION
from fireside.tts import Fireside, load, parse_precision

# Both languages, so that the front ends of both are loaded, and as long as what people ask for.
_WARM_UP = "The fire is lit, and there is tea on the table for all of you. 茶也泡好了，请进来坐一会儿。"
_LAST_WORDS = 2.0  # seconds to tell listeners that they are cut off
_LOOK = 0.02  # seconds between two looks at what is still under way
_MB = 2**20

_log = logging.getLogger("fireside.serve")


def run(config: ServeConfig, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `announce` is told, once, where.

    Raises ConfigError, UsageError (as for a port in use) or ModelError before it serves.
    """
    threads = config.threads or torch.get_num_threads()
    keys = Keys.read(config.api_key_file) if config.api_key_file is not None else Keys({})
    with _bound(config.host, config.port, config.write_timeout) as listening:
        if config.grpc_port is not None:
            from fireside.serve.grpc.server import check_port

            check_port(config.host, config.grpc_port)
        tts = load(
            config.model,
            1,  # the threads are the service's
            parse_precision(config.precision),
            config.normaliser,
            config.device,
            config.compile,
        )
        asyncio.run(_serve(config, tts, threads, keys, listening, announce))


async def _serve(
    config: ServeConfig,
    tts: Fireside,
    threads: int,
    keys: Keys,
    listening: socket.socket,
    announce: Callable[[str], None],
) -> None:
    stopping = asyncio.Event()
    results = make_results(config.result_cache)
    service = make_service(config, tts, results, threads)
    tracer = make_tracer(config.otlp_endpoint, VERSION)
    try:
        with _signals(stopping.set):
            await service.start(warm_up(tts))
            # What is there now stays: to look through it for garbage again would stop every stream for 0.2 s.
            gc.collect()
            gc.freeze()
            metrics = Metrics(service, VERSION, tts.name)
            server = Server(config, tts, service, keys, Limits(config), metrics, tracer=tracer)
            if not keys.needed and config.host not in ("127.0.0.1", "::1", "localhost"):
                _log.warning("anybody who reaches this machine can use this server: --api-key-file keeps them out")
            await _listen(server, listening, stopping, announce)
    finally:
        await service.close()
        if results is not None:
            await results.close()
        tracer.close()


async def _listen(
    server: Server, listening: socket.socket, stopping: asyncio.Event, announce: Callable[[str], None]
) -> None:
    """Answer until told to stop, then let what is running finish."""
    config = server.config
    http = make_uvicorn(server)
    async with AsyncExitStack() as stack:
        where = f"http://{_shown(config.host)}:{listening.getsockname()[1]}"
        if config.grpc_port is not None:
            from fireside.serve.grpc.server import serve_grpc

            port = await stack.enter_async_context(serve_grpc(server, config.host, config.grpc_port))
            where += f", gRPC on {_shown(config.host)}:{port}"
        serving = asyncio.create_task(http.serve(sockets=[listening]))
        while not http.started and not serving.done():
            await asyncio.sleep(_LOOK)
        if http.started:
            announce(f"{server.tts.name} on {where} (page at /), up to {server.service.max_streams} streams")
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if stopping.is_set():
            stopping.clear()
            await _drain(server, stopping)
        http.should_exit = True
        await serving


async def _drain(server: Server, stopping: asyncio.Event) -> None:
    """Take nothing new, and wait for the last byte of what is running; a second signal ends the waiting, and them."""
    service, limits, seconds = server.service, server.limits, server.config.drain_seconds
    _log.info("draining", extra={"streams": limits.streams, "seconds": seconds})
    drained = asyncio.create_task(service.drain(seconds))
    ends = time.monotonic() + seconds
    while (limits.streams or not drained.done()) and time.monotonic() < ends and not stopping.is_set():
        await asyncio.sleep(_LOOK)
    if limits.streams:
        _log.warning("cutting off", extra={"streams": limits.streams})
        await service.close()
        ends = time.monotonic() + _LAST_WORDS
        while limits.streams and time.monotonic() < ends:
            await asyncio.sleep(_LOOK)
    await drained


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its own signals, which would cut WebSockets and end the process by the signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_uvicorn(server: Server) -> uvicorn.Server:
    """The HTTP server of an application, to be given its sockets."""
    config = uvicorn.Config(
        create_app(server),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=2**16,
        ws_per_message_deflate=False,  # audio does not get smaller
        timeout_graceful_shutdown=1,  # for what is left when the streams have ended
    )
    return _Uvicorn(config)


def make_results(place: str | None) -> Results | None:
    """The cache of whole results at 'memory:256MB' or 'redis://host:port/db'; None for none.

    Raises ConfigError for any other place.
    """
    if place is None:
        return None
    if place.startswith(("redis://", "rediss://", "unix://")):
        return RedisResults(place)
    kind, _, size = place.partition(":")
    number = size.upper().removesuffix("MB")
    if kind != "memory" or not number.isdecimal() or int(number) == 0:
        raise ConfigError(f"There is no result cache '{place}': use memory:256MB or redis://host:6379/0.")
    return MemoryResults(int(number) * _MB)


def make_service(config: ServeConfig, tts: Fireside, results: Results | None, threads: int | None = None) -> Service:
    """The service of a model under a server's settings, not started yet; threads: as Service."""
    limits = ServiceLimits(
        max_streams=config.max_streams,
        max_queue=config.max_queue,
        request_seconds=config.request_seconds,
        stall_seconds=config.idle_timeout,
    )
    return Service(tts.engine, limits, results=results, threads=threads, apart=True)


def warm_up(tts: Fireside) -> SpeechRequest | None:
    """What is said once at the start: parts are loaded, and how fast that goes decides how many are spoken at once.

    None for a model that has no voice of its own to say it in.
    """
    return tts.request(_WARM_UP, streaming=True, seed=0) if tts.voices else None


@contextmanager
def _bound(host: str, port: int, write_timeout: float) -> Iterator[socket.socket]:
    """A socket bound to an address. Raises UsageError saying why it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UsageError(f"There is no address '{host}' to listen on: use 127.0.0.1, or 0.0.0.0 for all.") from error
    with socket.socket(family, kind, protocol) as listening:
        if sys.platform != "win32":  # where it would let two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # A client that reads no more keeps its last bytes in the kernel for ever: its connections inherit this.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * write_timeout))
        try:
            listening.bind(address)
        except OSError as error:
            raise UsageError(_not_bound(host, port, error)) from error
        yield listening


def _not_bound(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use: choose another with --port, or stop the program that has it."
    if error.errno == errno.EACCES:
        return f"Port {port} may not be used by you: choose one from 1024 on with --port."
    return f"The server cannot listen on {host}, port {port}: {error.strerror}."


@contextmanager
def _signals(stop: Callable[[], Any]) -> Iterator[None]:
    """Call `stop` in the event loop on SIGINT and SIGTERM."""
    loop = asyncio.get_running_loop()
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, lambda *_: loop.call_soon_threadsafe(stop)) for each in wanted}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
