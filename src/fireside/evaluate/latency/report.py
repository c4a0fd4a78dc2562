"""The figures of a level, as a table on the terminal and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from fireside.evaluate.latency.distribution import Distribution
from fireside.evaluate.latency.listen import Heard
from fireside.evaluate.latency.load import Level

FIGURES: dict[str, tuple[str, str]] = {
    "first_byte": ("first byte", "of the body"),
    "ttfa": ("TTFA", "the first decoded sample is there"),
    "audible": ("audible TTFA", "the loudspeaker plays the first sample above -40 dBFS"),
    "second_chunk": ("second chunk", "its first sample is there"),
    "gaps": (
        "between chunks",
        "from a chunk's first sample to the next one's, pauses of reading included",
    ),
    "slack": ("least slack", "audio left to play when a chunk came, the least of a request; below 0 is an underrun"),
    "rtf": ("RTF", "from asking to the last byte over the audio's length, pauses of reading included"),
}
"""What is measured of every request that was heard to its end, by its name in the JSON: a short name, and what it is.
Seconds from when the request was due, but for gaps, slack and rtf."""


def values(level: Level, figure: str) -> list[float]:
    """A figure of all requests of a level that were heard to their end; what never happened is left out."""
    whole = [heard for heard in level.heard if heard.outcome == "ok"]
    if figure == "gaps":
        return [gap for heard in whole for gap in heard.gaps]
    if figure == "slack":
        return [min(heard.slacks) for heard in whole if heard.slacks]
    return [value for heard in whole if (value := getattr(heard, figure)) is not None]


def server_medians(level: Level) -> dict[str, float]:
    """The median of every figure that the server itself gives."""
    accounts = [heard.server for heard in level.heard if heard.server]
    names = dict.fromkeys(name for account in accounts for name in account)
    spread = {name: Distribution.of(account[name] for account in accounts if name in account) for name in names}
    return {name: found.p50 for name, found in spread.items() if found}


def summary(level: Level) -> dict[str, Any]:
    """Everything that is said of a level; distributions as in `Distribution`."""
    whole: list[Heard] = [heard for heard in level.heard if heard.outcome == "ok"]
    audio = sum(heard.seconds for heard in whole)
    underruns = [gap for heard in whole for gap in heard.underruns]
    spread = {figure: Distribution.of(values(level, figure)) for figure in FIGURES}
    return {
        "kind": level.load.kind,
        "load": level.load.size,
        "requests": len(level.heard),
        "outcomes": dict(Counter(heard.outcome for heard in level.heard)),
        "seconds": level.seconds,
        "audio_seconds": audio,
        "audio_per_second": audio / level.seconds if level.seconds else 0.0,
        "underruns": len(underruns),
        "underrun_requests": sum(bool(heard.underruns) for heard in whole),
        "underrun_seconds": sum(underruns),
        "client_late_p99": level.late,
        "figures": {figure: found and asdict(found) for figure, found in spread.items()},
        "server_medians": server_medians(level),
    }


def document(levels: Sequence[Level], settings: dict[str, Any]) -> dict[str, Any]:
    """The whole run: its settings, a summary of every level, and every request by itself."""
    return {
        "settings": settings,
        "figures": {name: f"{short}: {meaning}" for name, (short, meaning) in FIGURES.items()},
        "levels": [
            summary(level) | {"each": [asdict(heard) | {"rtf": heard.rtf} for heard in level.heard]} for level in levels
        ],
    }


def table(levels: Sequence[Level]) -> Table:
    """One row for each figure of each level, times in ms."""
    shown = Table(title="Seen by the client, in ms", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("load", "figure", "n", "mean", "sd", "min", "p50", "p90", "p95", "p99", "max"):
        shown.add_column(column, justify="left" if column in ("load", "figure") else "right", no_wrap=True)
    for level in levels:
        name = str(level.load)
        for figure, (short, _) in FIGURES.items():
            found = Distribution.of(values(level, figure))
            if found is None:
                continue
            ends = (found.p90, found.p95, found.p99, found.maximum)
            row = (found.mean, found.variance**0.5, found.minimum, found.p50, *ends)
            cells = [f"{value:.2f}" if figure == "rtf" else f"{1e3 * value:.0f}" for value in row]
            shown.add_row(name, short, str(found.count), *cells)
            name = ""
        shown.add_section()
    return shown


def legend() -> str:
    """What every figure of the table is."""
    return "\n".join(f"{short}: {meaning}" for short, meaning in FIGURES.values())


def sentence(level: Level) -> str:
    """What the table does not say: throughput, underruns, and what went wrong."""
    said = summary(level)
    words = [
        f"{level.load}: {said['audio_per_second']:.2f} s of audio a second",
        f"{said['underruns']} underruns in {said['underrun_requests']} requests",
    ]
    if said["underruns"]:
        words[-1] += f" ({said['underrun_seconds']:.2f} s of silence)"
    for outcome, count in said["outcomes"].items():
        if outcome != "ok":
            first = next(heard for heard in level.heard if heard.outcome == outcome)
            words.append(f"{count} {outcome}" + (f" ({first.message})" if first.message else ""))
    if said["server_medians"]:
        stages = ", ".join(f"{name} {value:.3f}" for name, value in said["server_medians"].items())
        words.append(f"the server's own medians: {stages}")
    words.append(f"the client was at most {1e3 * level.late:.1f} ms late (p99)")
    return "; ".join(words) + "."
