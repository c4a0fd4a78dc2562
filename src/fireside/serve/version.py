"""Which Fireside this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("fireside")
except PackageNotFoundError:  # run from a source tree
    VERSION = "0+source"
