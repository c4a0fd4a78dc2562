"""What a server is told: one typed record, from options of `fireside serve`, a YAML file, or both."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from fireside.errors import ConfigError
from fireside.models.config import Config, first_problem


class ServeConfig(Config):
    """Everything that can be set about a server. Unknown keys are refused by name."""

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 is every one of this machine")
    port: int = Field(default=8000, ge=0, le=65535, description="port of HTTP and WebSocket; 0 takes a free one")
    grpc_port: int | None = Field(default=None, ge=0, le=65535, description="port of gRPC; none when not given")

    model: str | None = Field(default=None, description="a model folder or hub name; hearth when not given")
    precision: str = "fp32"
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, mps; auto is a GPU where there is one")
    compile: bool = Field(default=False, description="record the networks at a few fixed sizes, for GPUs")
    normaliser: str | None = None
    threads: int | None = Field(default=None, ge=1, description="CPU threads of torch")
    aliases: tuple[str, ...] = Field(default=(), description="further names that clients may call the model by")

    max_streams: int | None = Field(default=None, ge=1, description="spoken at once; measured at the start else")
    max_queue: int = Field(default=32, ge=0, description="requests that may wait for a stream, before 429")
    request_seconds: float = Field(default=600.0, gt=0, description="longest time that a request may take")
    result_cache: str | None = Field(default=None, description="whole results: memory:256MB or redis://host:6379/0")

    api_key_file: Path | None = Field(default=None, description="one key a line, as NAME: KEY")
    streams_per_key: int | None = Field(default=None, ge=1, description="requests of one key at once")
    max_text: int = Field(default=10_000, ge=1, description="characters of a text")
    max_upload_bytes: int = Field(default=16 * 2**20, ge=1, description="bytes of a recording that is sent in")
    max_upload_seconds: float = Field(default=120.0, gt=0, description="length of a recording that is sent in")
    uploads: bool = Field(default=True, description="whether recordings may be sent in, to copy a voice")
    cors: tuple[str, ...] = Field(
        default=(), description="origins whose pages may call this server, as https://a.example"
    )

    drain_seconds: float = Field(default=60.0, ge=0, description="time that running streams get on SIGTERM")
    write_timeout: float = Field(default=30.0, gt=0, description="seconds in which a listener must take something")
    idle_timeout: float = Field(default=60.0, gt=0, description="seconds of waiting for text that comes in parts")

    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otlp_endpoint: str | None = Field(default=None, description="where OpenTelemetry traces go, as http://host:4318")


def read_config(file: Path | None, given: dict[str, Any]) -> ServeConfig:
    """The settings of a YAML file, if there is one, under those that were `given`.

    Raises ConfigError naming what is missing, unknown or out of range.
    """
    settings: dict[str, Any] = {}
    if file is not None:
        try:
            settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"The settings in {file} cannot be read: {error}.") from error
        if not isinstance(settings, dict):
            raise ConfigError(f"{file} holds no settings: write lines as  port: 8000")
    try:
        return ServeConfig.model_validate(settings | given)
    except ValidationError as error:
        where = f"{file}: " if file is not None else ""
        raise ConfigError(f"{where}{first_problem(error)}.") from error
