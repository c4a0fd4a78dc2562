"""What a bar is, and the bars of speed: throughput, first sound under load, drift, underruns, leaving, stopping."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fireside.evaluate.latency.client import Arrival
from fireside.evaluate.latency.distribution import Distribution
from fireside.evaluate.latency.listen import Heard, Manners, listen
from fireside.evaluate.latency.load import Level, closed_loop
from fireside.evaluate.latency.openai import OpenAIClient, Speech
from fireside.evaluate.latency.target import Protocol, Target
from fireside.evaluate.latency.texts import TEXTS
from serving.server import ServerProcess, Unmeasured

FAST = Manners(buffer=None)
PACED = Manners()

LONGER = tuple(f"{first} {second}" for first, second in zip(TEXTS, (*TEXTS[4:], *TEXTS[:4]), strict=True))
SIXTEEN = (*LONGER, *(f"{text} {text}" for text in TEXTS[:6]))
"""Sixteen texts of some six seconds each."""


@dataclass(frozen=True)
class Setting:
    """scale: the share of the issue's numbers that is run. logs: a folder for the servers' own words."""

    scale: float
    model: str | None
    threads: int
    logs: Path

    def count(self, whole: int, least: int = 2) -> int:
        """A number of runs, scaled down."""
        return max(least, round(whole * self.scale))

    def server(self, name: str, *options: str) -> ServerProcess:
        """A fresh server."""
        given = ["--threads", str(self.threads), *(["--model", self.model] if self.model else []), *options]
        return ServerProcess(self.logs / f"{name}.log", *given)


@dataclass(frozen=True)
class Bar:
    """One line of the issue's table. sense: whether more or less is better; None for what has no bar.

    how: what was measured where, and from how much.
    """

    what: str
    value: float
    unit: str
    sense: Literal["at least", "at most"]
    floor: float
    aim: float
    how: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """aim, floor or missed."""
        better = 1 if self.sense == "at least" else -1
        if better * self.value >= better * self.aim:
            return "aim"
        return "floor" if better * self.value >= better * self.floor else "MISSED"


def median(values: Sequence[float]) -> float:
    """Of at least one value."""
    return statistics.median(values)


def target(server: ServerProcess, protocol: Protocol = "openai") -> Target:
    """A server in one of its protocols."""
    return Target(server.grpc if protocol == "grpc" else server.url, protocol, server.model)


async def loop(aim: Target, texts: Sequence[str], listeners: int, manners: Manners) -> Level:
    """So many listeners at once until every text was said. Ends the run when one is not heard to its end."""
    client = aim.client()
    try:
        level = await closed_loop(client, texts, listeners, manners)
    finally:
        await client.close()
    failed = [heard for heard in level.heard if heard.outcome != "ok"]
    if failed:
        raise Unmeasured(f"{len(failed)} of {len(level.heard)} failed: {failed[0].outcome}, {failed[0].message}")
    return level


def cycle(count: int, texts: Sequence[str] = TEXTS) -> list[str]:
    """So many texts, in turn."""
    return list(itertools.islice(itertools.cycle(texts), count))


def throughput(setting: Setting) -> list[Bar]:
    """16 at once over an offline batch of the same, and over the same one after another; in turn in every round.

    Listeners read as fast as they can here: at playback pace one after another could never be faster than the clock,
    and the server would look the better for it.
    """
    rounds, seed = setting.count(10), 7
    offline_command = [sys.executable, str(Path(__file__).with_name("offline.py")), "--threads", str(setting.threads)]
    offline_command += ["--model", setting.model] if setting.model else []
    runs: list[dict[str, float]] = []
    with (
        setting.server("throughput", "--max-streams", "16") as server,
        subprocess.Popen(offline_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as offline,
    ):
        assert offline.stdin is not None
        assert offline.stdout is not None

        async def rate(texts: Sequence[str], listeners: int) -> tuple[float, float]:
            client = OpenAIClient(server.url, Speech(server.model, "default", extra=(("seed", seed),)))
            try:
                level = await closed_loop(client, texts, listeners, FAST)
            finally:
                await client.close()
            if any(heard.outcome != "ok" for heard in level.heard):
                raise Unmeasured(f"not all were heard: {[heard.message for heard in level.heard]}")
            return sum(heard.seconds for heard in level.heard), level.seconds

        asyncio.run(rate(TEXTS[:4], 4))
        for _ in range(rounds):
            offline.stdin.write(json.dumps({"texts": SIXTEEN, "seed": seed}) + "\n")
            offline.stdin.flush()
            answer = json.loads(offline.stdout.readline())
            together, apart = asyncio.run(rate(SIXTEEN, 16)), asyncio.run(rate(SIXTEEN, 1))
            runs.append({
                "offline": answer["audio_seconds"] / answer["seconds"],
                "together": together[0] / together[1],
                "one after another": apart[0] / apart[1],
                "audio offline": answer["audio_seconds"],
                "audio together": together[0],
                "audio one after another": apart[0],
            })  # fmt: skip
        offline.stdin.close()
    rates = {name: median([run[name] for run in runs]) for name in ("offline", "together", "one after another")}
    how = (
        f"medians of {rounds} rounds: offline {rates['offline']:.2f}, 16 at once {rates['together']:.2f}, one after "
        f"another {rates['one after another']:.2f} s of audio a second, over {runs[0]['audio together']:.0f} s of it; "
        "first request to last byte at the client, read as fast as can be"
    )
    over_offline = median([run["together"] / run["offline"] for run in runs])
    over_apart = median([run["together"] / run["one after another"] for run in runs])
    return [
        Bar(
            "throughput of 16 at once over one offline batch",
            over_offline,
            "×",
            "at least",
            0.8,
            0.9,
            how,
            {"runs": runs},
        ),
        Bar("throughput of 16 at once over one after another", over_apart, "×", "at least", 1.5, 3.0, how),
    ]


def first_sound(setting: Setting) -> list[Bar]:
    """TTFA p95 at 4 at once over p50 at 1, in every round; all four begin at the same moment."""
    rounds, runs = setting.count(10), []
    options: tuple[str, ...] = ()
    with setting.server("first_sound_default") as server:
        default = server.max_streams
    if default < 4:
        options = ("--max-streams", "4")
    with setting.server("first_sound", *options) as server:
        openai = target(server)
        asyncio.run(loop(openai, TEXTS[:4], 4, PACED))
        for number in range(rounds):
            alone = asyncio.run(loop(openai, cycle(10)[5 * (number % 2) :][:5], 1, PACED))
            among = asyncio.run(loop(openai, cycle(20), 4, PACED))
            alone_ttfa, among_ttfa = ttfa(alone.heard), ttfa(among.heard)
            runs.append({
                "p50 at 1": Distribution.of(alone_ttfa).p50, "p95 at 4": Distribution.of(among_ttfa).p95,
                "alone": alone_ttfa, "among": among_ttfa,
                "underruns": sum(len(heard.underruns) for heard in (*alone.heard, *among.heard)),
            })  # fmt: skip
    p50, p95 = median([run["p50 at 1"] for run in runs]), median([run["p95 at 4"] for run in runs])
    how = (
        f"medians of {rounds} rounds of 5 requests alone and 20 by 4 listeners: p50 at 1 {1e3 * p50:.0f} ms, p95 at 4 "
        f"{1e3 * p95:.0f} ms; first decoded sample at the client, who reads at playback pace; "
        f"max_streams {max(default, 4)}" + (f" (default {default})" if default < 4 else " by default")
    )
    ratio = median([run["p95 at 4"] / run["p50 at 1"] for run in runs])
    return [Bar("TTFA p95 at 4 over p50 at 1", ratio, "×", "at most", 3.0, 2.0, how, {"runs": runs})]


def drift(setting: Setting) -> list[Bar]:
    """TTFA of the last ten of 100 requests one after another over that of the first ten, the same ten texts."""
    count = max(20, 10 * round(10 * setting.scale))
    with setting.server("drift") as server:
        asyncio.run(loop(target(server), cycle(10), 1, FAST))
        level = asyncio.run(loop(target(server), cycle(count), 1, PACED))
    times = ttfa(level.heard)
    first, last = median(times[:10]), median(times[-10:])
    how = (
        f"medians of ten: requests 1-10 {1e3 * first:.0f} ms, {count - 9}-{count} {1e3 * last:.0f} ms, the same texts; "
        "first decoded sample at the client, one after another at playback pace, after ten to warm up"
    )
    return [Bar("TTFA drift, last ten over first ten", last / first, "×", "at most", 1.15, 1.0, how, {"ttfa": times})]


def underruns(setting: Setting) -> list[Bar]:
    """Underruns of 200 requests at the concurrency that is admitted by default, which must be 0.7 / RTF or more."""
    count = setting.count(200, least=10)
    with setting.server("underruns") as server:
        alone = asyncio.run(loop(target(server), cycle(5, LONGER), 1, FAST))
        rtf = median([heard.rtf for heard in alone.heard if heard.rtf is not None])
        level = asyncio.run(loop(target(server), cycle(count), server.max_streams, PACED))
        streams = server.max_streams
    dry = [gap for heard in level.heard for gap in heard.underruns]
    slack = Distribution.of(min(heard.slacks) for heard in level.heard if heard.slacks)
    least = (
        f", least slack of a request: worst {1e3 * slack.minimum:.0f} ms, median {1e3 * slack.p50:.0f} ms"
        if slack
        else ""
    )
    how = (
        f"{count} requests by {streams} listeners at playback pace, who play from the first sample on; "
        f"{sum(dry):.2f} s of silence{least}; the client was late by {1e3 * level.late:.1f} ms (p99)"
    )
    admitted = (
        f"max_streams {streams} by default; 0.7 / RTF = {0.7 / rtf:.1f} (RTF {rtf:.3f}: median of 5 requests alone, "
    )
    return [
        Bar("underruns", len(dry), "", "at most", 0, 0, how, {"heard": [heard.underruns for heard in level.heard]}),
        Bar("streams admitted by default over 0.7 / RTF", streams / (0.7 / rtf), "×", "at least", 1.0, 1.0,
            admitted + "asked to last byte at the client, read as fast as can be)"),
    ]  # fmt: skip


def leaving(setting: Setting) -> list[Bar]:
    """How long after a client went away mid-stream the server has neither its stream nor its memory."""
    trials, times = setting.count(10), {}
    text = " ".join(LONGER[:4])
    with setting.server("leaving") as server:
        asyncio.run(loop(target(server), TEXTS[:2], 1, FAST))
        before = server.idle(5)
        protocols: tuple[Protocol, ...] = ("openai", "ws", "grpc")
        for protocol in protocols:
            way = target(server, protocol)
            times[protocol] = [asyncio.run(_leave(server, way, text, before)) for _ in range(trials)]
    every = [value for values in times.values() for value in values]
    spread = ", ".join(f"{name} {1e3 * median(found):.0f} ms" for name, found in times.items())
    how = (
        f"medians of {trials}: {spread}; the slowest of all is shown; from when the client has closed to when /metrics "
        "(asked again and again) shows no stream and the memory from before"
    )
    return [
        Bar("client gone: stream and memory free, slowest", 1e3 * max(every), "ms", "at most", 500, 200, how, times)
    ]


async def _leave(server: ServerProcess, way: Target, text: str, before: dict[str, float]) -> float:
    """Seconds from leaving to nothing being left; 10 if something stays."""
    client = way.client()
    try:
        heard = await listen(client, text, Manners(buffer=None, leave_after=0.5))
        start = time.perf_counter()
        if heard.outcome != "left":
            raise Unmeasured(f"{way.protocol}: {heard.outcome} before the client could leave: {heard.message}")
        held = "fireside_stream_memory_bytes"
        while (waited := time.perf_counter() - start) < 10:
            now = await asyncio.to_thread(server.metrics)
            if not now["fireside_active_streams"] and now[held] <= before[held]:
                return time.perf_counter() - start
        return waited
    finally:
        await client.close()


def stopping(setting: Setting) -> list[Bar]:
    """SIGTERM while 8 streams run: all are heard to their end, as long as they were before, and the exit code is 0."""
    texts = LONGER[:8]
    with setting.server("stopping", "--max-streams", "8") as server:
        finished, code, lengths, refused, seconds = asyncio.run(_stop(server, texts))
    how = (
        f"8 listeners at playback pace, SIGTERM when each had its first sample; {sum(lengths[1]):.2f} s of audio, "
        f"without it {sum(lengths[0]):.2f} s; a new request meanwhile: {refused}; exit code {code} in {seconds:.1f} s"
    )
    same = lengths[0] == lengths[1]
    value = finished if code == 0 and same else 0
    return [Bar("SIGTERM: of 8 running streams finish, exit 0", value, "of 8", "at least", 8, 8, how)]


class FirstSounds(OpenAIClient):
    """Tells by `first_sounds` whenever a request got its first sample."""

    def __init__(self, url: str, speech: Speech) -> None:
        super().__init__(url, speech)
        self.first_sounds = asyncio.Semaphore(0)

    async def speak(self, text: str) -> AsyncIterator[Arrival]:
        silent = True
        async for arrival in super().speak(text):
            if silent and len(arrival.samples):
                silent = False
                self.first_sounds.release()
            yield arrival


async def _stop(
    server: ServerProcess, texts: Sequence[str]
) -> tuple[int, int | None, tuple[list[float], list[float]], str, float]:
    client = FirstSounds(server.url, Speech(server.model, "default", extra=(("seed", 7),)))
    try:
        undisturbed = await closed_loop(client, texts, len(texts), FAST)
        client.first_sounds = asyncio.Semaphore(0)
        running = asyncio.gather(*(listen(client, text, PACED) for text in texts))
        for _ in texts:
            await asyncio.wait_for(client.first_sounds.acquire(), 120)
        server.process.send_signal(signal.SIGTERM)
        start = time.perf_counter()
        await asyncio.sleep(0.3)
        other = target(server).client()
        late = await listen(other, "Too late.", FAST)
        await other.close()
        heard: list[Heard] = await running
        code = await asyncio.to_thread(server.process.wait, 120)
    finally:
        await client.close()
    by_text = {one.text: round(one.seconds, 4) for one in undisturbed.heard}
    before, after = [by_text[text] for text in texts], [round(one.seconds, 4) for one in heard]
    finished = sum(one.outcome == "ok" for one in heard)
    return finished, code, (before, after), f"{late.status} {late.message}", time.perf_counter() - start


def ttfa(heard: Sequence[Heard]) -> list[float]:
    """The times to the first sample, in the order of asking."""
    return [one.ttfa for one in sorted(heard, key=lambda one: one.due) if one.ttfa is not None]
