"""The options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fireside.errors import UsageError

if TYPE_CHECKING:
    from fireside.models.config import SamplingConfig
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
    typer.Option(
        "--model",
        "-m",
        help="A model folder, ours or CosyVoice's, or a hub name; the bundled hearth when not given.",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads to use; all cores when not given.", min=1)]
Precision = Annotated[
    str,
    typer.Option(
        "--precision", help="fp32 is exact; bf16 and int8 are smaller and, with large models, faster; fp16 is for GPUs."
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="cpu, cuda, cuda:1, mps, or auto: an NVIDIA GPU where there is one, else cpu.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Record the networks at a few fixed sizes: slow to start, made for GPUs.")
]
Normaliser = Annotated[
    str | None,
    typer.Option(
        "--normaliser",
        "--normalizer",
        help="What reads numbers and units for a CosyVoice model: wetext (its default), ttsfrd or none.",
    ),
]
Sampling = Annotated[
    str | None,
    typer.Option(
        "--sampling",
        help="Constants of the sampling in place of the model's, as top_p=0.8,top_k=25,window=10,tau=0.1.",
        metavar="NAME=VALUE,…",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no closing line.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def parse_sampling(given: str | None, tts: Fireside) -> SamplingConfig | None:
    """The model's sampling with the constants that were given; None when there are none.

    Raises UsageError naming what is not known or out of range.
    """
    if given is None:
        return None
    from pydantic import ValidationError

    from fireside.models.config import SamplingConfig, first_problem

    constants = [constant.partition("=") for constant in given.split(",")]
    own = tts.model.config.lm.sampling.model_dump()
    try:
        return SamplingConfig.model_validate(own | {name.strip(): value.strip() for name, _, value in constants})
    except ValidationError as error:
        raise UsageError(f"--sampling {given}: {first_problem(error)}; it takes {', '.join(own)}.") from error


def open_model(
    model: str | None,
    threads: int | None,
    precision: str = "fp32",
    normaliser: str | None = None,
    device: str = "auto",
    compile: bool = False,
) -> Fireside:
    """Load the model a command was asked to use. Raises UsageError for a precision or a device that there is not."""
    from fireside.tts import load, parse_precision

    return load(model, threads, parse_precision(precision), normaliser, device, compile)
