"""`fireside model`: what a model folder holds, and an official one as one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fireside.cli import options
from fireside.cli.report import command

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

HELP = """Model folders: what is there, what is missing, and official ones made ours.

\b
Examples:
  fireside model check ~/models/CosyVoice-300M
  fireside model convert ~/models/CosyVoice2-0.5B out/ --precision bf16
"""


@app.callback(help=HELP)
def model() -> None:
    """Only groups its commands."""


@app.command()
@command
def check(
    folder: Annotated[
        str | None, typer.Argument(help="A model folder or a hub name; hearth when not given.", show_default=False)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not look into the weights.")] = False,
    debug: options.Debug = False,
) -> None:
    """Tell what is in a model folder, what is missing, and what each missing file is for."""
    from fireside.hub import resolve
    from fireside.models.inspection import inspect_folder

    path = resolve(folder)
    found = inspect_folder(path, weights=not quick)
    print(f"{path}: {found.kind}")
    width = max(len(file.name) for file in found.files)
    for file in found.files:
        state = "ok" if not file.problem else "MISSING" if file.problem == "missing" else "WRONG"
        if file.problem and not file.needed:
            state = "absent" if file.problem == "missing" else state
        print(f"  {state:<8}{file.name:<{width}}  {file.purpose}")
        if file.problem not in ("", "missing"):
            print(f"  {'':<8}{file.problem}")
    if found.not_needed:
        print(f"  not needed: {', '.join(found.not_needed)}")
    if found.config is not None:
        print(f"  modes: {', '.join(found.config.modes)}; {found.config.mel.sample_rate} Hz")
    print("complete" if found.complete else "not complete: get the files above that are MISSING or WRONG")
    if not found.complete:
        from fireside.errors import ModelError

        raise typer.Exit(ModelError.exit_code)


@app.command()
@command
def convert(
    folder: Annotated[str, typer.Argument(help="An official folder or a hub name.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    precision: Annotated[
        Literal["fp32", "bf16", "int8"],
        typer.Option(
            "--precision", help="fp32: as it is. bf16: LM and flow in half the bytes. int8: the LM in a quarter."
        ),
    ] = "fp32",
    debug: options.Debug = False,
) -> None:
    """Write an official model as a folder of ours: safetensors and fireside.yaml."""
    from fireside.errors import UsageError
    from fireside.hub import resolve
    from fireside.models.official import OfficialFolder, open_folder
    from fireside.repack import repack

    opened = open_folder(resolve(folder))
    if not isinstance(opened, OfficialFolder):
        raise UsageError(f"{opened.path} is a folder of Fireside's already.")
    files = repack(opened, out, precision)
    size = sum(file.stat().st_size for file in files)
    print(f"{out}: {len(files)} files, {size / 1e6:.0f} MB")
