"""`python -m fireside` is `fireside`."""

from fireside.cli import main

main()
