"""The command table."""

from __future__ import annotations

from typing import Annotated

import typer

from fireside.cli import bench, clone, convert, model, say, serve, voices

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Fireside: text in, speech out, in a voice that came with the package or in yours.

\b
  fireside say "Good evening." -o hello.wav    a sentence
  fireside clone "It is me." --prompt me.wav   in the voice of a recording
  fireside convert me.wav --voice default      its words in another voice
  fireside voices                              who can speak
  fireside serve                               a server and a web page on port 8000
  fireside model check ~/models/CosyVoice2     what a model folder holds

Each command explains itself: fireside say --help.""",
)
app.command("say", help=say.HELP, short_help="Say a text.")(say.say)
app.command("clone", help=clone.HELP, short_help="Say a text in the voice of a recording.")(clone.clone)
app.command("convert", help=convert.HELP, short_help="Give a recording another voice.")(convert.convert)
app.command("serve", help=serve.HELP, short_help="Serve speech to many at once.")(serve.serve)
app.add_typer(voices.app, name="voices", short_help="List, show, add and remove voices.")
app.add_typer(model.app, name="model", short_help="Check a model folder; convert an official one.")
app.add_typer(bench.app, name="bench", short_help="Measure a running server.")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"fireside {version('fireside')}")
        except PackageNotFoundError:  # run from a source tree
            print("fireside (not installed)")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Options of `fireside` itself."""
