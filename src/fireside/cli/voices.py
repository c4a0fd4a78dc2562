"""`fireside voices`: list, show, add and remove voices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fireside.cli import options
from fireside.cli.report import command, note

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

HELP = """The voices a model can speak in: its own, and those you added.

\b
Examples:
  fireside voices
  fireside voices add me --prompt me.wav --prompt-text "What I say in me.wav." --consent "my own voice"
  fireside voices show me
  fireside voices remove me
"""


@app.callback(help=HELP)
@command
def voices(context: typer.Context, model: options.Model = None, debug: options.Debug = False) -> None:
    """List the voices when no other command is named."""
    context.obj = model
    if context.invoked_subcommand is None:
        _print_list(model)


@app.command("list")
@command
def list_voices(context: typer.Context, model: options.Model = None, debug: options.Debug = False) -> None:
    """List every voice: name, language, whose it is, and what is known of it."""
    _print_list(model or context.obj)


def _print_list(model: str | None) -> None:
    tts = options.open_model(model, None)
    cards = tts.voices
    if not cards:
        note(f"The model {tts.name} has no voice of its own; fireside voices add NAME --prompt FILE makes one.")
    width = max((len(card.name) for card in cards), default=0)
    for card in cards:
        owner = "bundled" if card.bundled else "yours"
        print(f"{card.name:<{width}}  {card.language or '?':<4}  {owner:<7}  {card.description}".rstrip())


@app.command()
@command
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A voice's name.", show_default=False)],
    model: options.Model = None,
    debug: options.Debug = False,
) -> None:
    """Show what is known of a voice."""
    tts = options.open_model(model or context.obj, None)
    voice = tts.voice(name)
    card = voice.card
    seconds = len(voice.prompt_tokens) / tts.token_rate
    rows = {
        "name": card.name,
        "language": card.language,
        "description": card.description,
        "licence": card.licence,
        "consent": card.consent,
        "model": card.model,
        "prompt": f"{seconds:.1f} s of speech" if seconds else "none",
        "prompt text": card.prompt_text or ("known" if card.words else "unknown"),
    }
    for key, value in rows.items():
        if value:
            print(f"{key + ':':<13}{value}")


@app.command()
@command
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The name to keep the voice under.", show_default=False)],
    prompt: Annotated[
        Path,
        typer.Option("--prompt", "-p", help="A recording of the voice: 3 to 30 s of speech.", show_default=False),
    ],
    prompt_text: options.PromptText = None,
    language: Annotated[str, typer.Option("--language", help="The language it speaks, as en or zh.")] = "",
    description: Annotated[str, typer.Option("--description", help="A few words about it.")] = "",
    consent: Annotated[str, typer.Option("--consent", help="Who allowed the use of this voice.")] = "",
    model: options.Model = None,
    debug: options.Debug = False,
) -> None:
    """Keep the voice of a recording under a name."""
    tts = options.open_model(model or context.obj, None)
    voice = tts.make_voice(
        prompt,
        prompt_text,
        name=name,
        language=language,
        description=description,
        consent=consent,
        on_note=note,
    )
    tts.add_voice(voice)
    print(f"{name}: added; try  fireside say -v {name} …")


@app.command()
@command
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A voice you added.", show_default=False)],
    model: options.Model = None,
    debug: options.Debug = False,
) -> None:
    """Delete a voice you added."""
    options.open_model(model or context.obj, None).remove_voice(name)
    print(f"{name}: removed")
