"""The options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fireside.tts import Fireside

Text = Annotated[
    str | None,
    typer.Argument(help="What to say. Without it, -f FILE or standard input is read.", show_default=False),
]
File = Annotated[
    Path | None, typer.Option("--file", "-f", help="Read the text from a UTF-8 file; - is standard input.")
]
Voice = Annotated[str, typer.Option("--voice", "-v", help="Who speaks; `fireside voices` lists them.")]
Prompt = Annotated[
    Path | None, typer.Option("--prompt", "-p", help="A recording of the voice to copy: 3 to 30 s of speech.")
]
PromptText = Annotated[
    str | None, typer.Option("--prompt-text", help="The words spoken in the recording: a closer copy.")
]
Speed = Annotated[float, typer.Option("--speed", help="1.2 is a fifth faster; 0.5 to 2.")]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same audio.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Where to write: .wav, .flac, .mp3 or .opus; speech.wav when not given."),
]
Stream = Annotated[bool, typer.Option("--stream", help="Write WAV to standard output while it is made.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A model folder or a hub name; the bundled hearth when not given."),
]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads to use; all cores when not given.", min=1)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no closing line.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def open_model(model: str | None, threads: int | None) -> Fireside:
    """Load the model a command was asked to use."""
    from fireside.tts import load

    return load(model, threads=threads)
