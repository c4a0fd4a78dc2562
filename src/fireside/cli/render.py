"""Writes the chunks of a request where they were asked for, with a progress bar and a closing line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fireside.cli.report import Interrupted
from fireside.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from fireside.request import AudioChunk

DEFAULT_OUTPUT = Path("speech.wav")


class Sink(Protocol):
    """Takes audio as it is made."""

    def write(self, samples: np.ndarray) -> None:
        """Append samples."""


@dataclass(frozen=True)
class Outputs:
    """Where the audio goes: a file, standard output, or both."""

    file: Path | None
    stream: bool

    @classmethod
    def checked(cls, file: Path | None, stream: bool) -> Outputs:
        """Before any work: raises OutputError or UsageError for what could not be written afterwards."""
        from fireside.audio.io import check_writable

        if str(file) == "-":
            file, stream = None, True
        if stream and sys.stdout.isatty():
            raise UsageError("--stream writes WAV to standard output: send it to a player or a file, as  > out.wav")
        if file is None and not stream:
            file = DEFAULT_OUTPUT
        if file is not None:
            check_writable(file)
        return cls(file, stream)

    @property
    def name(self) -> str:
        """What to call them in messages."""
        return str(self.file) if self.file is not None else "standard output"


def render(chunks: Iterator[AudioChunk], outputs: Outputs, quiet: bool) -> None:
    """Write every chunk as it comes. Ctrl-C keeps what was made: raises Interrupted, which says so."""
    from fireside.audio.io import AudioWriter, WavStream

    last: AudioChunk | None = None
    try:
        with ExitStack() as stack:
            progress = None if quiet or not sys.stderr.isatty() else _progress(stack)
            sinks: list[Sink] = []
            for chunk in chunks:
                if not sinks:
                    if outputs.file is not None:
                        sinks.append(stack.enter_context(AudioWriter(outputs.file, chunk.sample_rate)))
                    if outputs.stream:
                        sinks.append(WavStream(sys.stdout.buffer, chunk.sample_rate))
                for sink in sinks:
                    sink.write(chunk.samples)
                last = chunk
                if progress is not None:
                    progress(chunk)
    except KeyboardInterrupt:
        if last is None:
            raise
        seconds = last.timings.audio_seconds
        raise Interrupted(f"interrupted; {seconds:.1f} s of audio were made and are kept in {outputs.name}.") from None
    if last is not None and not quiet:
        timings = last.timings
        line = (
            f"{outputs.name}: {timings.audio_seconds:.2f} s of audio, TTFA {timings.ttfa:.2f} s, RTF {timings.rtf:.2f}"
        )
        print(line, file=sys.stderr if outputs.stream else sys.stdout, flush=True)


class _Bar(Protocol):
    def __call__(self, chunk: AudioChunk) -> None: ...


def _progress(stack: ExitStack) -> _Bar:
    """A progress bar on standard error, gone when the stack closes."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = stack.enter_context(
        Progress(
            TextColumn("speaking"),
            BarColumn(),
            TextColumn("{task.fields[made]:.1f} s of audio"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
    )
    task = bar.add_task("speaking", total=1.0, made=0.0)

    def update(chunk: AudioChunk) -> None:
        bar.update(task, completed=chunk.progress, made=chunk.timings.audio_seconds)

    return update
