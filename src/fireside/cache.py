"""A cache bounded in bytes that forgets what was not used for longest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class CacheUse:
    """How a cache did: how often what was asked for was there, how often not, and what it holds now."""

    hits: int = 0
    misses: int = 0
    entries: int = 0
    nbytes: int = 0
    max_bytes: int = 0


class Bounded(Generic[K, V]):
    """Values by key, at most `max_bytes` of them and at most `max_entries`; may be used from several threads.

    keep_last: the newest stays even where it alone is too large.
    """

    def __init__(self, max_bytes: int, max_entries: int | None = None, keep_last: bool = False) -> None:
        self._max_bytes, self._max_entries = max_bytes, max_entries
        self._least = 1 if keep_last else 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._nbytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value, which counts as used now; None when it is not there."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V, nbytes: int) -> None:
        """Keep a value of so many bytes, in place of one under the same key."""
        with self._lock:
            if key in self._values:
                self._nbytes -= self._values.pop(key)[1]
            self._values[key] = value, nbytes
            self._nbytes += nbytes
            while len(self._values) > self._least and self._full:
                self._nbytes -= self._values.popitem(last=False)[1][1]

    @property
    def _full(self) -> bool:
        too_many = self._max_entries is not None and len(self._values) > self._max_entries
        return too_many or self._nbytes > self._max_bytes

    @property
    def use(self) -> CacheUse:
        """How it did so far."""
        with self._lock:
            return CacheUse(self._hits, self._misses, len(self._values), self._nbytes, self._max_bytes)
