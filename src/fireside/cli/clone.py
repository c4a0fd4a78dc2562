"""`fireside clone`: a text in the voice of a recording."""

from __future__ import annotations

from typing import Annotated

import typer

from fireside.cli import options
from fireside.cli.report import command, note
from fireside.errors import UsageError

HELP = """Say a text in the voice of a recording.

With --prompt-text (the words spoken in the recording) the voice, its rhythm and its accent are copied more
closely; without it only the voice is, which suits a recording in another language. The model first learns from
the recording for a few seconds; --save-voice keeps what it learnt. Clone only voices whose owner agrees.

\b
Examples:
  fireside clone "It is me." --prompt me.wav --prompt-text "What I say in me.wav." -o it-is-me.wav
  fireside clone "你好。" --prompt me.wav --save-voice me
  fireside say "Me again." -v me
  fireside clone "你好。" --prompt me.wav --model FunAudioLLM/CosyVoice2-0.5B --instruct "用四川话说"
"""


@command
def clone(
    text: options.Text = None,
    file: options.File = None,
    prompt: options.Prompt = None,
    prompt_text: options.PromptText = None,
    save_voice: Annotated[
        str | None, typer.Option("--save-voice", help="Keep the voice under this name.", metavar="NAME")
    ] = None,
    instruct: Annotated[
        str | None,
        typer.Option("--instruct", help='How to say it, as "用开心的语气说" (CosyVoice 2 and 3).'),
    ] = None,
    speed: options.Speed = 1.0,
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
    """Say a text in the voice of a recording."""
    from fireside.cli.render import Outputs, render
    from fireside.cli.texts import read_text

    if prompt is None:
        raise UsageError("clone needs --prompt FILE: a recording of the voice to copy.")
    outputs = Outputs.checked(output, stream)
    words = read_text(text, file)
    tts = options.open_model(model, threads, precision, normaliser, device, compile)
    voice = tts.make_voice(prompt, prompt_text, name=save_voice or "prompt", on_note=note)
    if save_voice:
        tts.add_voice(voice)
    request = tts.request(
        words,
        voice,
        instruction=instruct,
        speed=speed,
        seed=seed,
        streaming=stream,
        sampling=options.parse_sampling(sampling, tts),
    )
    render(tts.chunks(request), outputs, quiet)
    if save_voice and not quiet:
        note(f"The voice is kept: fireside say -v {save_voice} …")
