"""Places for requests: as many at once as can be served well, the others wait in turn or are told to come again."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass

from fireside.errors import BusyError, StoppingError

_FIRST_GUESS = 5.0  # seconds that a request holds its place, before any has been seen to
_MEMORY = 0.9  # how much of their average stays when one more has been seen


@dataclass(eq=False)
class _Waiter:
    """Somebody in the queue; granted is set under the lock, `place` in the event loop that waits."""

    loop: asyncio.AbstractEventLoop
    place: asyncio.Future[None]
    granted: bool = False


class Admission:
    """Hands out places, first come first served. May be used from several event loops and threads.

    places: how many there are; max_queue: how many may wait for one; queue_seconds: for how long.
    """

    def __init__(self, places: int, max_queue: int, queue_seconds: float) -> None:
        self._places, self._max_queue, self._queue_seconds = places, max_queue, queue_seconds
        self._taken = 0
        self._stopping = False
        self._held = _FIRST_GUESS
        self._queue: deque[_Waiter] = deque()
        self._lock = threading.Lock()

    @property
    def places(self) -> int:
        """How many there are."""
        return self._places

    @places.setter
    def places(self, places: int) -> None:
        with self._lock:
            self._places = places
            self._grant()

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return self._taken

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._queue)

    @property
    def stopping(self) -> bool:
        """Whether nobody new is taken in."""
        return self._stopping

    @property
    def retry_after(self) -> float:
        """Seconds until one more than those who wait could have a place, by how long places were held lately."""
        ahead = max(0, self._taken + len(self._queue) + 1 - self._places)
        return ahead * self._held / max(1, self._places)

    def stop(self, cut_off: bool = False) -> None:
        """Take nobody new in. Those who wait still get their places, unless they are cut off."""
        with self._lock:
            self._stopping = True
            while cut_off and self._queue:
                self._wake(self._queue.popleft())

    async def acquire(self) -> None:
        """Wait for a place. Raises BusyError when too many wait or it takes too long, StoppingError after `stop`."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._stopping:
                raise stopping()
            if self._taken < self._places and not self._queue:
                self._taken += 1
                return
            if len(self._queue) >= self._max_queue:
                raise self._busy("All places are taken and the queue is full")
            waiter = _Waiter(loop, loop.create_future())
            self._queue.append(waiter)
        try:
            await asyncio.wait([waiter.place], timeout=self._queue_seconds)
        except BaseException:
            with self._lock:
                if waiter.granted:
                    self._taken -= 1
                    self._grant()
                elif waiter in self._queue:
                    self._queue.remove(waiter)
            raise
        with self._lock:
            if waiter.granted:
                return
            if waiter not in self._queue:  # cut off
                raise stopping()
            self._queue.remove(waiter)
            raise self._busy(f"No place became free in {self._queue_seconds:g} s")

    def release(self, held: float) -> None:
        """Give a place back that was held for so many seconds; the next in the queue gets it."""
        with self._lock:
            self._held = _MEMORY * self._held + (1 - _MEMORY) * held
            self._taken -= 1
            self._grant()

    def _busy(self, why: str) -> BusyError:
        retry_after = max(1.0, self.retry_after)
        return BusyError(f"{why}: try again in about {retry_after:.0f} s.", retry_after)

    def _grant(self) -> None:
        while self._queue and self._taken < self._places:
            waiter = self._queue.popleft()
            if self._wake(waiter):
                waiter.granted = True
                self._taken += 1

    @staticmethod
    def _wake(waiter: _Waiter) -> bool:
        """Have a waiter look again; False when its event loop is closed, so that nobody waits there any more."""
        try:
            waiter.loop.call_soon_threadsafe(_settle, waiter.place)
        except RuntimeError:
            return False
        return True


def stopping() -> StoppingError:
    """What those are told who come too late."""
    return StoppingError("The server is shutting down: send the request again in some seconds.")


def _settle(place: asyncio.Future[None]) -> None:
    if not place.done():
        place.set_result(None)
