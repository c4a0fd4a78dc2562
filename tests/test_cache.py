"""The cache that is bounded in bytes."""

from __future__ import annotations

import pytest

from fireside.cache import Bounded, CacheUse


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache: Bounded[str, int] = Bounded(max_bytes=10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)
    assert cache.get("a") == 1
    cache.put("c", 3, 4)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    assert cache.use == CacheUse(hits=3, misses=1, entries=2, nbytes=8, max_bytes=10)


def test_the_same_key_counts_once() -> None:
    cache: Bounded[str, int] = Bounded(max_bytes=10)
    cache.put("a", 1, 6)
    cache.put("a", 2, 8)
    assert cache.get("a") == 2
    assert cache.use.nbytes == 8


@pytest.mark.parametrize(("keep_last", "kept"), [(False, None), (True, 1)])
def test_one_that_is_too_large(keep_last: bool, kept: int | None) -> None:
    cache: Bounded[str, int] = Bounded(max_bytes=10, keep_last=keep_last)
    cache.put("a", 1, 11)
    assert cache.get("a") == kept


def test_a_bound_in_entries() -> None:
    cache: Bounded[int, int] = Bounded(max_bytes=100, max_entries=2)
    for key in range(5):
        cache.put(key, key, 1)
    assert [cache.get(key) for key in range(5)] == [None, None, None, 3, 4]
