"""The command line:

`fireside say`, `clone`, `convert`, `voices`, `model`. Light to import: models load inside commands.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the `fireside` script."""
    from fireside.cli.app import app

    try:
        app()
    except KeyboardInterrupt:  # while commands are still being set up
        raise SystemExit(130) from None
