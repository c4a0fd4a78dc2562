"""Text in parts, and waiting that ends: what WebSocket and gRPC share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `serve`")

from fireside.engine.stream import FLUSH, Flush
from fireside.errors import StalledError, TextError, UsageError
from fireside.serve.parts import TextParts
from fireside.serve.patience import patiently


def given(parts: TextParts, *acts: Callable[[], None]) -> list[str | Flush]:
    """What the engine gets of parts when all these acts come before it asks."""

    async def read() -> list[str | Flush]:
        for act in acts:
            act()
        return [part async for part in parts]

    return asyncio.run(asyncio.wait_for(read(), 5))


def test_parts_that_wait_are_joined() -> None:
    parts = TextParts(100)
    acts = [lambda: parts.push("Good"), lambda: parts.push(""), lambda: parts.push(" day"), parts.flush, parts.flush]
    assert given(parts, *acts, lambda: parts.push("."), parts.end, parts.flush) == ["Good day", FLUSH, "."]
    with pytest.raises(UsageError, match="has ended"):
        parts.push("More")


def test_a_part_wakes_who_waits() -> None:
    async def talk() -> list[str | Flush]:
        parts = TextParts(100)

        async def read() -> list[str | Flush]:
            return [part async for part in parts]

        reading = asyncio.create_task(read())
        for text in ("a", "b"):
            await asyncio.sleep(0.01)
            parts.push(text)
        await asyncio.sleep(0.01)
        parts.end()
        return await asyncio.wait_for(reading, 5)

    assert asyncio.run(talk()) == ["a", "b"]


def test_a_text_that_is_too_long_fails_once() -> None:
    parts = TextParts(10)
    with pytest.raises(TextError, match="more than the 10 characters"):
        given(parts, lambda: parts.push("12345"), lambda: parts.push("678901"), lambda: parts.push("more"))


def test_patience() -> None:
    async def wait(seconds: float) -> str:
        return await patiently(asyncio.sleep(seconds, "done"), 0.05, "Too long.")

    assert asyncio.run(wait(0)) == "done"
    with pytest.raises(StalledError, match="Too long"):
        asyncio.run(wait(5))


def test_a_cancellation_is_never_swallowed() -> None:
    """Also when it comes in the very moment in which the work ends."""

    async def race() -> bool:
        ends = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(patiently(ends, 5, "Too long."))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ends.set_result(None)
        waiting.cancel()
        await asyncio.wait([waiting])
        return waiting.cancelled()

    assert asyncio.run(race())
