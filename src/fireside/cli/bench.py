"""`fireside bench`: what a server feels like to those who listen to it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fireside.cli import options
from fireside.cli.report import command, note
from fireside.errors import OutputError, UsageError

if TYPE_CHECKING:
    from fireside.evaluate.latency.listen import Manners
    from fireside.evaluate.latency.load import Level, Load, Progress
    from fireside.evaluate.latency.target import Target

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure a running server.")

SERVE_HELP = """Measure a speech server from outside, by the clock of those who listen to it.

It speaks OpenAI's POST /v1/audio/speech to any server that knows it, Fireside's WebSocket, and CosyVoice's gRPC. A
listener plays from the first sample on and stops reading when it is --buffer ahead of its loudspeaker. Connections
are kept and used again; opening the first ones is not counted. A chunk is what the server sends in one go.

\b
Examples:
  fireside bench serve
  fireside bench serve --concurrency 1,4,16 --requests 50 --json run.json --plot run.png
  fireside bench serve --rate 0.5,1,2
  fireside bench serve --url localhost:50000 --protocol grpc --voice 中文女
  fireside bench serve --url http://localhost:8880 --model kokoro --voice af_heart
"""


@app.callback()
def bench() -> None:
    """Keep `serve` a command of its own, though it is the only one."""


@app.command("serve", help=SERVE_HELP, short_help="Latency, underruns and throughput of a server.")
@command
def serve(
    url: Annotated[
        str, typer.Option("--url", help="Where the server is; HOST:PORT for grpc.")
    ] = "http://127.0.0.1:8000",
    protocol: Annotated[
        Literal["openai", "ws", "grpc"], typer.Option("--protocol", help="What to speak with it.")
    ] = "openai",
    concurrency: Annotated[
        str | None,
        typer.Option("--concurrency", "-c", help="Listeners at once, one level each, as 1,4,16; 1 when not given."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="New listeners a second, one level each, as 0.5,1: an open loop.")
    ] = None,
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, help="Requests of each level.")] = 20,
    warm_up: Annotated[
        int, typer.Option("--warm-up", min=0, help="Requests of each listener before a level, not counted.")
    ] = 1,
    voice: Annotated[str, typer.Option("--voice", "-v", help="A voice of the server.")] = "default",
    model: Annotated[str, typer.Option("--model", "-m", help="The model's name on the server.")] = "hearth",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Texts to say, one a line; ten of our own when not given.")
    ] = None,
    response_format: Annotated[
        Literal["pcm", "wav"], typer.Option("--format", help="What to ask for (openai).")
    ] = "pcm",
    sse: Annotated[bool, typer.Option("--sse", help="Ask for server-sent events (openai).")] = False,
    words: Annotated[
        float, typer.Option("--words-per-second", min=0, help="Type the text at this pace (ws); 0: all at once.")
    ] = 0.0,
    sample_rate: Annotated[int, typer.Option("--sample-rate", min=1, help="Of the server's audio, in Hz.")] = 24000,
    buffer: Annotated[
        float, typer.Option("--buffer", min=0, help="Seconds ahead of its loudspeaker that a listener reads.")
    ] = 2.0,
    fast: Annotated[bool, typer.Option("--fast", help="Read as fast as can be, not at the pace of playing.")] = False,
    prebuffer: Annotated[
        float, typer.Option("--prebuffer", min=0, help="Seconds of audio that the loudspeaker waits for at first.")
    ] = 0.0,
    patience: Annotated[
        float, typer.Option("--patience", min=1, help="Seconds without a byte until a listener gives up.")
    ] = 60.0,
    key: Annotated[
        str | None, typer.Option("--api-key", envvar="FIRESIDE_API_KEY", help="Sent as a bearer token.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures and every request by itself.")
    ] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw the distributions: .png, .svg, .pdf.")] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure a server; print, write and draw what was seen."""
    loads = _loads(concurrency, rate)
    if prebuffer > buffer and not fast:
        raise UsageError(f"--prebuffer {prebuffer:g} is more than the {buffer:g} s of --buffer that a listener reads.")
    _check_files(json_file, plot_file)
    _need("aiohttp", *(["grpc"] if protocol == "grpc" else []), *(["matplotlib"] if plot_file else []))
    from fireside.evaluate.latency.listen import Manners
    from fireside.evaluate.latency.target import Target

    texts = _texts(file)
    target = Target(url, protocol, model, voice, response_format, sse, words, sample_rate, key)
    manners = Manners(None if fast else buffer, prebuffer, patience)
    levels = asyncio.run(_measure(target, loads, texts, requests, warm_up, manners, quiet))
    settings = _settings(target, manners) | {"requests": requests, "warm_up": warm_up, "texts": texts}
    _show(levels, settings, json_file, plot_file)


def _loads(concurrency: str | None, rate: str | None) -> list[Load]:
    from fireside.evaluate.latency.load import Load

    if concurrency is not None and rate is not None:
        raise UsageError("--concurrency is so many listeners at once, --rate so many new ones a second: give one.")
    if rate is not None:
        return [Load("open", size) for size in _numbers("--rate", rate, float)]
    return [Load("closed", size) for size in _numbers("--concurrency", concurrency or "1", int)]


def _numbers(option: str, given: str, kind: type[int] | type[float]) -> list[float]:
    try:
        values = [float(kind(part)) for part in given.split(",")]
    except ValueError:
        values = [0.0]
    if not all(0 < value < 1e6 for value in values):
        example = "1,4,16" if kind is int else "0.5,1,2"
        raise UsageError(f"{option} {given}: numbers above 0 with commas between them are needed, as {example}.")
    return values


def _need(*modules: str) -> None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"fireside bench needs {' and '.join(missing)}: pip install 'fireside[bench]'")


def _check_files(json_file: Path | None, plot_file: Path | None) -> None:
    """Raise now what writing them would raise when everything is measured."""
    if plot_file is not None and plot_file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot {plot_file}: a name that ends in .png, .svg or .pdf is needed.")
    for file in (json_file, plot_file):
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise OutputError(f"{file} cannot be written: give a file in a folder that exists.")


def _texts(file: Path | None) -> tuple[str, ...]:
    from fireside.evaluate.latency.texts import TEXTS

    if file is None:
        return TEXTS
    try:
        lines = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as UTF-8 text: {error}") from error
    if not lines:
        raise UsageError(f"{file} has no text: one text a line is needed.")
    return lines


async def _measure(
    target: Target,
    loads: Sequence[Load],
    texts: Sequence[str],
    requests: int,
    warm_up: int,
    manners: Manners,
    quiet: bool,
) -> list[Level]:
    from fireside.evaluate.latency.load import closed_loop, run

    client = target.client()
    try:
        levels = []
        for load in loads:
            listeners = int(load.size) if load.kind == "closed" else 1
            warm = [texts[index % len(texts)] for index in range(warm_up * listeners)]
            await closed_loop(client, warm, listeners, manners)
            with _progress(str(load), requests, quiet) as progress:
                levels.append(await run(client, load, texts, requests, manners, progress))
        return levels
    finally:
        await client.close()


@contextmanager
def _progress(name: str, requests: int, quiet: bool) -> Iterator[Progress]:
    from fireside.evaluate.latency.load import ignore

    if quiet or not sys.stderr.isatty():
        yield ignore
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=requests)
        yield lambda heard: bar.advance(task)


def _settings(target: Target, manners: Manners) -> dict[str, Any]:
    """What was asked for and where, for the JSON; the key stays out of it."""
    import os
    import platform
    from dataclasses import asdict
    from datetime import datetime, timezone

    asked = {name: value for name, value in asdict(target).items() if name != "key"}
    machine = f"{platform.machine()} {platform.system()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    return asked | asdict(manners) | {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }  # fmt: skip


def _show(levels: Sequence[Level], settings: dict[str, Any], json_file: Path | None, plot_file: Path | None) -> None:
    from rich.console import Console

    from fireside.evaluate.latency.report import document, legend, sentence, table

    if all(heard.outcome != "ok" for level in levels for heard in level.heard):
        first = levels[0].heard[0]
        raise OutputError(f"no request to {settings['url']} was answered with audio: {first.outcome}, {first.message}")
    Console().print(table(levels))
    for level in levels:
        print(sentence(level))
    print(f"\n{legend()}")
    if json_file is not None:
        try:
            json_file.write_text(json.dumps(document(levels, settings), indent=1, ensure_ascii=False), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{json_file} cannot be written: {error}") from error
    if plot_file is not None:
        from fireside.evaluate.latency.plot import plot

        plot(levels, f"{settings['url']}, {settings['protocol']}, as its listeners saw it", plot_file)
    written = [str(file) for file in (json_file, plot_file) if file is not None]
    if written:
        note(f"{' and '.join(written)} written")
