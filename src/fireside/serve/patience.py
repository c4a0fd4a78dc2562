"""Waiting for somebody, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fireside.errors import StalledError

T = TypeVar("T")


async def patiently(work: Awaitable[T], seconds: float, sentence: str) -> T:
    """What `work` gives. Raises StalledError with the sentence when it takes longer, and cancels it.

    Before Python 3.12 asyncio.wait_for swallows a cancellation that comes as the work ends: a stream that was cancelled
    would go on. This never does."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise StalledError(sentence)
        return task.result()
    finally:
        task.cancel()
