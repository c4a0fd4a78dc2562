"""Where a command's text comes from: the argument, a file, or standard input."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from fireside.errors import TextError, UsageError


def read_text(text: str | None, file: Path | None) -> str:
    """The text to speak.

    Raises UsageError when there is none or two, TextError for a file that is not text.
    """
    if text is not None and file is not None:
        raise UsageError("Give the text either as an argument or with -f FILE, not both.")
    if text is not None and text != "-":
        return text
    if file is None and text is None and sys.stdin.isatty():
        raise UsageError('There is nothing to say: give a text, as fireside say "Good evening.", or -f FILE.')
    if file is None or str(file) == "-":
        return _decode(sys.stdin.buffer.read(), "standard input")
    try:
        return _decode(file.read_bytes(), str(file))
    except OSError as error:
        raise TextError(f"The text file {file} cannot be read: {error.strerror or error}.") from error


def live_text() -> Iterator[str]:
    """Standard input, part by part, as its writer writes it. Raises TextError for what is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    source = sys.stdin.buffer
    while True:
        data = source.read1() if isinstance(source, io.BufferedReader) else source.read()
        try:
            yield decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise TextError(f"The text in standard input is not UTF-8 ({error.reason}): send it as UTF-8.") from error
        if not data:
            return


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"The text in {where} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
