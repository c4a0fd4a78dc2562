"""The soak: thousands of mixed requests, a quarter left midway, a tenth bad; nothing lost, hung or leaked."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections import Counter
from typing import Any

import psutil
import soundfile

import fireside
from serving.bars import Bar, Setting
from serving.errands import BAD, GOOD, Told, World, send
from serving.server import ServerProcess

SETTLE = 6.0
"""Seconds of quiet before memory is looked at: free memory goes back to the system when the last stream has ended."""

PARTS = 10
"""The soak stops for a moment this many times, so that memory is compared between like and like."""


def soak(setting: Setting) -> list[Bar]:
    """2,000 requests by twice as many clients as there are streams; RSS and the rest when all is quiet, ten times."""
    count = setting.count(2000, least=80)
    recording = _recording(setting)
    with setting.server("soak") as server:
        told, states, seconds = asyncio.run(_soak(server, recording, count))
    wrong = [one for one in told if one.outcome in ("lost", "hung")]
    busy = sum(one.outcome == "busy" for one in told)
    kinds = Counter(one.kind.partition(",")[0] for one in told)
    warm, end = states[1], states[-1]
    growth = end["rss"] / warm["rss"] - 1
    leaked = sum(
        end[name] > warm[name] + slack
        for name, slack in (("fireside_active_streams", 0), ("fireside_queue_depth", 0),
                            ("fireside_stream_memory_bytes", 0), ("files", 8), ("threads", 4))
    )  # fmt: skip
    left, bad = sum(", left" in one.kind for one in told), sum(kinds[kind] for kind in BAD)
    how = (
        f"{count} requests of {len(kinds)} kinds in {seconds:.0f} s, {left} left midway, {bad} bad, {busy} told to "
        "come back (429); streams, queue, stream memory, open files and threads compared when all was quiet"
    )
    on_the_way = ", ".join(f"{state['rss'] / 2**20:.0f}" for state in states)
    memory = (
        f"RSS of the server when quiet, after {count // PARTS} requests {warm['rss'] / 2**20:.0f} MB, at the end "
        f"{end['rss'] / 2**20:.0f} MB; on the way {on_the_way}"
    )
    details = {
        "states": states,
        "kinds": dict(kinds),
        "wrong": [f"{one.kind}: {one.outcome} {one.detail}" for one in wrong],
        "busy": [f"{one.kind}: {one.detail}" for one in told if one.outcome == "busy"][:20],
    }
    return [
        Bar("soak: lost, hung or leaked", len(wrong) + leaked, "", "at most", 0, 0, how, details),
        Bar("soak: RSS growth after warm-up", 100 * growth, "%", "at most", 5, 2, memory),
    ]


async def _soak(
    server: ServerProcess, recording: bytes, count: int
) -> tuple[list[Told], list[dict[str, float]], float]:
    world, draw = World(server, recording), random.Random(4)
    plan = [_drawn(draw) for _ in range(count)]
    told: list[Told] = []
    states = [_state(server)]
    start = time.perf_counter()

    async def client(waiting: Any) -> None:
        for kind, leave, seed in waiting:
            errand = BAD.get(kind) or GOOD[kind]
            told.append(await send(kind, errand, world, random.Random(seed), leave))

    try:
        size = -(-count // PARTS)
        for part in range(0, count, size):
            waiting = iter(plan[part : part + size])
            await asyncio.gather(*(client(waiting) for _ in range(2 * server.max_streams)))
            states.append(await asyncio.to_thread(_state, server))
    finally:
        await world.close()
    return told, states, time.perf_counter() - start


def _drawn(draw: random.Random) -> tuple[str, bool, int]:
    """A kind of request, whether it is left midway, and a seed for its own choices."""
    if draw.random() < 0.1:
        return draw.choice(list(BAD)), False, draw.randrange(2**31)
    return draw.choice(list(GOOD)), draw.random() < 0.25 / 0.9, draw.randrange(2**31)


def _state(server: ServerProcess) -> dict[str, float]:
    """Memory and the rest when nothing runs."""
    found = server.idle(10)
    time.sleep(SETTLE)
    names = ("fireside_active_streams", "fireside_queue_depth", "fireside_stream_memory_bytes")
    files = server.process.num_fds() if hasattr(psutil.Process, "num_fds") else 0
    return {name: found[name] for name in names} | {
        "rss": server.rss(), "files": files, "threads": server.process.num_threads(),
    }  # fmt: skip


def _recording(setting: Setting) -> bytes:
    """Four seconds of the model's own speech, to clone from."""
    speech = fireside.load(setting.model).say("The fire is lit, and there is tea. Nobody was cold.", seed=3)
    file = io.BytesIO()
    soundfile.write(file, speech.samples, speech.sample_rate, format="WAV")
    return file.getvalue()
