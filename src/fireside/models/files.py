"""Files of a model folder: whether they are there, and are what they should be."""

from __future__ import annotations

import zipfile
from pathlib import Path

from fireside.errors import ModelError

_LFS = b"version https://git-lfs.github.com/spec/"
_ZIP = b"PK\x03\x04"


def check_whole(file: Path, purpose: str = "") -> None:
    """Raises ModelError when a file is missing, a Git LFS pointer, empty, or an archive cut short.

    purpose: what the file is for, as 'it turns mel into sound'.
    """
    what = f"{file.name} ({purpose})" if purpose else file.name
    if not file.is_file():
        raise ModelError(f"The model folder {file.parent} lacks {what}: get the model again.")
    with file.open("rb") as stream:
        start = stream.read(len(_LFS))
    if start == _LFS:
        raise ModelError(
            f"{file} is a Git LFS pointer, a note of where the file is, and not the file: run 'git lfs pull' in "
            f"{file.parent}, or download {what} itself."
        )
    if not start:
        raise ModelError(f"{file} is truncated: it is empty; get the model again.")
    if start.startswith(_ZIP) and not zipfile.is_zipfile(file):
        raise ModelError(f"{file} is truncated: its end is missing; get {what} again.")
