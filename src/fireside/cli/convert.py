"""`fireside convert`: the words and rhythm of one recording in another voice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fireside.cli import options
from fireside.cli.report import command, note
from fireside.errors import UsageError

HELP = """Give a recording another voice: the words and their rhythm stay, who speaks changes.

\b
Examples:
  fireside convert source.wav --voice default -o converted.wav
  fireside convert source.wav --prompt other.wav -o converted.flac
"""


@command
def convert(
    source: Annotated[Path, typer.Argument(help="The recording whose words to keep.", show_default=False)],
    voice: Annotated[
        str | None, typer.Option("--voice", "-v", help="The voice to give it; `fireside voices` lists them.")
    ] = None,
    prompt: options.Prompt = None,
    speed: options.Speed = 1.0,
    output: options.Output = None,
    stream: options.Stream = False,
    model: options.Model = None,
    threads: options.Threads = None,
    precision: options.Precision = "fp32",
    device: options.Device = "auto",
    compile: options.Compile = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Give a recording another voice."""
    from fireside.cli.render import Outputs, render

    if (voice is None) == (prompt is None):
        raise UsageError("convert needs one of --voice NAME and --prompt FILE: the voice to give the recording.")
    outputs = Outputs.checked(output, stream)
    tts = options.open_model(model, threads, precision, device=device, compile=compile)
    target = voice if prompt is None else tts.make_voice(prompt, on_note=note)
    render(tts.chunks(tts.conversion(source, target, speed=speed, streaming=stream)), outputs, quiet)
