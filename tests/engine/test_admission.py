"""Places and the queue for them."""

from __future__ import annotations

import asyncio
import time

import pytest

from fireside.engine.admission import Admission
from fireside.errors import BusyError, StoppingError


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_places_are_given_in_turn() -> None:
    async def main() -> None:
        admission, came = Admission(2, 8, 60.0), []

        async def come(name: int) -> None:
            await admission.acquire()
            came.append(name)

        tasks = [asyncio.create_task(come(name)) for name in range(5)]
        await settle()
        assert came == [0, 1]
        assert (admission.taken, admission.queued) == (2, 3)
        admission.release(1.0)
        await settle()
        assert came == [0, 1, 2]
        admission.places = 4
        await settle()
        assert came == [0, 1, 2, 3, 4]
        await asyncio.gather(*tasks)
        assert (admission.taken, admission.queued) == (4, 0)

    asyncio.run(main())


def test_a_full_queue_says_when_to_come_again() -> None:
    async def main() -> None:
        admission = Admission(1, 1, 60.0)
        await admission.acquire()
        for _ in range(200):  # places are held for ten seconds, as a rule
            admission.release(10.0)
            await admission.acquire()
        waiting = asyncio.create_task(admission.acquire())
        await settle()
        with pytest.raises(BusyError, match="20 s") as refused:
            await admission.acquire()
        assert refused.value.retry_after == pytest.approx(20.0, rel=0.05), "two others come first"
        assert refused.value.status == 429
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert admission.queued == 0

    asyncio.run(main())


def test_waiting_has_an_end() -> None:
    async def main() -> None:
        admission = Admission(1, 8, 0.05)
        await admission.acquire()
        started = time.monotonic()
        with pytest.raises(BusyError, match=r"0\.05 s"):
            await admission.acquire()
        assert 0.04 < time.monotonic() - started < 2
        assert admission.queued == 0

    asyncio.run(main())


def test_a_waiter_who_leaves_takes_no_place_along() -> None:
    async def main() -> None:
        admission = Admission(1, 8, 60.0)
        await admission.acquire()
        leaving, staying = (asyncio.create_task(admission.acquire()) for _ in range(2))
        await settle()
        admission.release(1.0)  # the place is granted, and its taker is gone before he hears of it
        leaving.cancel()
        await asyncio.wait_for(staying, 5)
        assert (admission.taken, admission.queued) == (1, 0)

    asyncio.run(main())


def test_a_closed_event_loop_gets_no_place() -> None:
    admission = Admission(1, 8, 60.0)

    async def abandon() -> None:
        await admission.acquire()
        asyncio.get_running_loop().create_task(admission.acquire())
        await settle()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(abandon())
    left = asyncio.all_tasks(loop)
    loop.close()  # without a word to its tasks
    admission.release(1.0)
    assert (admission.taken, admission.queued) == (0, 0)
    for task in left:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_stopping() -> None:
    async def main() -> None:
        admission = Admission(1, 8, 60.0)
        await admission.acquire()
        first, second = (asyncio.create_task(admission.acquire()) for _ in range(2))
        await settle()
        admission.stop()
        with pytest.raises(StoppingError):
            await admission.acquire()
        admission.release(1.0)
        await asyncio.wait_for(first, 5)  # who waited still gets a place
        admission.stop(cut_off=True)
        with pytest.raises(StoppingError):
            await asyncio.wait_for(second, 5)
        assert (admission.taken, admission.queued) == (1, 0)

    asyncio.run(main())
