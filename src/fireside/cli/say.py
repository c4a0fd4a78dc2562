"""`fireside say`: a text in a voice of the model or one of your own."""

from __future__ import annotations

from typing import Annotated

import typer

from fireside.cli import options
from fireside.cli.report import command
from fireside.errors import UsageError

HELP = """Say a text: English, Mandarin, or both in one sentence.

\b
Examples:
  fireside say "Good evening. The fire is lit, and there is tea." -o hello.wav
  fireside say -f chapter.txt -v default --speed 1.1 -o chapter.mp3
  echo "你好，欢迎来到 Fireside。" | fireside say --stream | ffplay -nodisp -autoexit -
  chatbot | fireside say --live --stream | ffplay -nodisp -autoexit -
  fireside say "Good evening." --model ~/models/CosyVoice-300M-SFT --voice 英文女

Pronunciation by hand stands in brackets: CMU phones, as [T][AH0][M][EY1][T][OW0], or pinyin with tones, as
[ch][óng][q][ìng].
"""


@command
def say(
    text: options.Text = None,
    file: options.File = None,
    voice: options.Voice = "default",
    speed: options.Speed = 1.0,
    instruct: Annotated[
        str | None, typer.Option("--instruct", help='How to say it, as "speak slowly" or "快一点".')
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Speak standard input while it is still being written.")] = False,
    seed: options.Seed = None,
    sampling: options.Sampling = None,
    output: options.Output = None,
    stream: options.Stream = False,
    model: options.Model = None,
    threads: options.Threads = None,
    precision: options.Precision = "fp32",
    device: options.Device = "auto",
    compile: options.Compile = False,
    normaliser: options.Normaliser = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Say a text."""
    from fireside.cli.render import Outputs, render
    from fireside.cli.texts import live_text, read_text

    if live and (text is not None or file is not None):
        raise UsageError("--live speaks what comes on standard input: leave the text and -f FILE out.")
    outputs = Outputs.checked(output, stream)
    words = live_text() if live else read_text(text, file)
    tts = options.open_model(model, threads, precision, normaliser, device, compile)
    request = tts.request(
        words,
        voice,
        instruction=instruct,
        speed=speed,
        seed=seed,
        streaming=stream or live,
        sampling=options.parse_sampling(sampling, tts),
    )
    render(tts.chunks(request), outputs, quiet)
