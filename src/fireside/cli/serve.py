"""`fireside serve`: a server for many listeners."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fireside.cli import options
from fireside.cli.report import command, note
from fireside.errors import UsageError

HELP = """Serve speech to many at once: OpenAI's and CosyVoice's HTTP routes, WebSocket, gRPC, and a web page at /.

\b
Examples:
  fireside serve
  fireside serve --model ~/models/CosyVoice2-0.5B --host 0.0.0.0 --api-key-file keys.txt --max-streams 32
  fireside serve --grpc-port 50000 --log-format json --config serve.yaml

Every setting can also stand in the YAML file of --config, by its name with _ for -, as  max_streams: 8
What is given on the command line goes before it.
"""


@command
def serve(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; 127.0.0.1, or 0.0.0.0 for every network.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port of HTTP and WebSocket; 8000. 0: a free one.")] = None,
    grpc_port: Annotated[int | None, typer.Option("--grpc-port", help="Port of gRPC; none when not given.")] = None,
    model: options.Model = None,
    precision: Annotated[str | None, typer.Option("--precision", help="fp32, fp16, bf16 or int8.")] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps, or auto: a GPU where there is one.")
    ] = None,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Record the networks at a few fixed sizes, for GPUs.")
    ] = None,
    normaliser: options.Normaliser = None,
    threads: options.Threads = None,
    alias: Annotated[
        list[str] | None, typer.Option("--alias", help="Another name of the model, as tts-1; may be repeated.")
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option("--max-streams", help="Spoken at once; measured at the start when not given.")
    ] = None,
    max_queue: Annotated[int | None, typer.Option("--max-queue", help="Requests that may wait; 32.")] = None,
    request_seconds: Annotated[
        float | None, typer.Option("--request-seconds", help="Longest time of a request; 600.")
    ] = None,
    result_cache: Annotated[
        str | None, typer.Option("--result-cache", help="Keep whole results: memory:256MB or redis://host:6379/0.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="Keys that clients must show, one a line as NAME: KEY.")
    ] = None,
    streams_per_key: Annotated[
        int | None, typer.Option("--streams-per-key", help="Requests of one key at once; no limit when not given.")
    ] = None,
    max_text: Annotated[int | None, typer.Option("--max-text", help="Characters of a text; 10000.")] = None,
    max_upload_bytes: Annotated[
        int | None, typer.Option("--max-upload-bytes", help="Bytes of a recording that is sent in; 16777216.")
    ] = None,
    max_upload_seconds: Annotated[
        float | None, typer.Option("--max-upload-seconds", help="Length of a recording that is sent in; 120.")
    ] = None,
    uploads: Annotated[
        bool | None, typer.Option("--uploads/--no-uploads", help="Whether recordings may be sent in.")
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option("--cors", help="Origin whose pages may call, as https://a.example; may be repeated."),
    ] = None,
    drain_seconds: Annotated[
        float | None, typer.Option("--drain-seconds", help="Time for running streams to finish on SIGTERM; 60.")
    ] = None,
    log_format: Annotated[str | None, typer.Option("--log-format", help="text or json.")] = None,
    log_level: Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option("--otlp-endpoint", help="Send OpenTelemetry traces there, as http://host:4318.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A YAML file of settings.")] = None,
    debug: options.Debug = False,
) -> None:
    """Serve speech to many at once."""
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in {
            "host": host,
            "port": port,
            "grpc_port": grpc_port,
            "model": model,
            "precision": precision,
            "device": device,
            "compile": compile,
            "normaliser": normaliser,
            "threads": threads,
            "aliases": alias,
            "max_streams": max_streams,
            "max_queue": max_queue,
            "request_seconds": request_seconds,
            "result_cache": result_cache,
            "api_key_file": api_key_file,
            "streams_per_key": streams_per_key,
            "max_text": max_text,
            "max_upload_bytes": max_upload_bytes,
            "max_upload_seconds": max_upload_seconds,
            "uploads": uploads,
            "cors": cors,
            "drain_seconds": drain_seconds,
            "log_format": log_format,
            "log_level": log_level,
            "otlp_endpoint": otlp_endpoint,
        }.items()
        if value is not None and value != []
    }
    try:
        from fireside.serve import logs
        from fireside.serve.config import read_config
        from fireside.serve.run import run
    except ImportError as error:
        if (error.name or "").startswith("fireside"):
            raise
        raise UsageError("The server is not installed: pip install 'fireside[serve]'") from error
    settings = read_config(config, given)
    logs.configure(settings.log_format, settings.log_level)
    run(settings, lambda where: note(f"fireside: {where}"))
