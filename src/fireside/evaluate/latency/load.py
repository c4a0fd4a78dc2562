"""How many listen at once: a fixed number of them who each ask again when they are done, or arrivals by the clock."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from fireside.evaluate.latency.client import Client
from fireside.evaluate.latency.distribution import Distribution
from fireside.evaluate.latency.listen import Heard, Manners, listen

TICK = 0.005
"""Seconds between two looks at how late the client itself is."""

MOST_WAIT = 5.0
"""Most seconds that a listener of the closed loop who was told that the server is full waits before the next try."""

Progress = Callable[[Heard], None]
"""Told of every request when it is over."""


def ignore(heard: Heard) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class Load:
    """closed: `size` listeners at any time. open: `size` new ones a second, at random moments (Poisson), whether or not
    the earlier ones are done; times count from those moments."""

    kind: Literal["closed", "open"]
    size: float

    def __str__(self) -> str:
        return f"{self.size:g} at once" if self.kind == "closed" else f"{self.size:g} a second"


@dataclass(frozen=True)
class Level:
    """A load and what its listeners heard.

    seconds: first asked to last heard. late: seconds by which the client's own loop woke up too late, 99th percentile:
    times below it are the client's.
    """

    load: Load
    heard: tuple[Heard, ...]
    seconds: float
    late: float


async def run(
    client: Client, load: Load, texts: Iterable[str], requests: int, manners: Manners, progress: Progress = ignore
) -> Level:
    """So many requests under a load, the texts in turn."""
    said = itertools.islice(itertools.cycle(texts), requests)
    if load.kind == "closed":
        return await closed_loop(client, said, int(load.size), manners, progress)
    return await open_loop(client, said, load.size, manners, progress)


async def closed_loop(
    client: Client, texts: Iterable[str], listeners: int, manners: Manners, progress: Progress = ignore
) -> Level:
    """So many listeners at once until every text was asked for; one that is refused is not asked for again."""
    waiting, heard = iter(texts), list[Heard]()

    async def listener() -> None:
        for text in waiting:
            one = await listen(client, text, manners)
            heard.append(one)
            progress(one)
            if one.outcome == "busy":
                await asyncio.sleep(min(one.retry_after or 1.0, MOST_WAIT))

    return await _watched(Load("closed", listeners), heard, [listener() for _ in range(listeners)])


async def open_loop(
    client: Client, texts: Iterable[str], rate: float, manners: Manners, progress: Progress = ignore, seed: int = 0
) -> Level:
    """A request for every text, `rate` of them a second on average; the same seed gives the same moments."""
    draw, due, heard = random.Random(seed), time.perf_counter(), list[Heard]()

    async def listener(text: str, due: float) -> None:
        await asyncio.sleep(due - time.perf_counter())
        one = await listen(client, text, manners, due)
        heard.append(one)
        progress(one)

    listeners = []
    for text in texts:
        due += draw.expovariate(rate)
        listeners.append(listener(text, due))
    return await _watched(Load("open", rate), heard, listeners)


async def _watched(load: Load, heard: list[Heard], listeners: list[Coroutine[Any, Any, None]]) -> Level:
    late: list[float] = []
    watch = asyncio.create_task(_watch(late))
    start = time.perf_counter()
    try:
        await asyncio.gather(*listeners)
    finally:
        seconds = time.perf_counter() - start
        watch.cancel()
    spread = Distribution.of(late)
    return Level(load, tuple(heard), seconds, spread.p99 if spread else 0.0)


async def _watch(late: list[float]) -> None:
    while True:
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        late.append(max(time.perf_counter() - due, 0.0))
