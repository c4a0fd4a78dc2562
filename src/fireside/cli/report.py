"""How commands end: one sentence on stderr and the right exit code instead of a traceback."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from fireside.errors import FiresideError

INTERRUPTED = 130
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Interrupted(Exception):
    """Ctrl-C after something was made: the message says what was kept."""


def note(text: str) -> None:
    """Say something to the person at the terminal; stdout is for audio and listings."""
    print(text, file=sys.stderr, flush=True)


def _settle_stdout() -> None:
    """When its reader has gone away, point stdout elsewhere, or Python complains again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command(function: _Command) -> _Command:
    """Wrap a command so that errors meant for the user become a sentence and an exit code.

    With --debug, or FIRESIDE_DEBUG set, the traceback is shown instead.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        debug = kwargs.get("debug") or os.environ.get("FIRESIDE_DEBUG")
        try:
            return function(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            _settle_stdout()
            raise typer.Exit(0) from None
        except Interrupted as stop:
            note(f"fireside: {stop}")
            raise typer.Exit(INTERRUPTED) from None
        except KeyboardInterrupt:
            note("fireside: interrupted before any audio was made.")
            raise typer.Exit(INTERRUPTED) from None
        except FiresideError as error:
            if debug:
                raise
            note(f"fireside: {error}")
            _settle_stdout()
            raise typer.Exit(error.exit_code) from None
        except Exception as error:
            if debug:
                raise
            note(f"fireside: {type(error).__name__}: {error} (unexpected: --debug shows where)")
            raise typer.Exit(1) from None

    return run  # type: ignore[return-value]
