"""Streams of training items that do not fit into memory: who reads which shard, mixing, and cutting into batches.

Each function takes and gives an iterator, holds a bounded number of items, and draws from the generator it is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


def share(
    count: int,
    *,
    epoch: int = 0,
    rank: int = 0,
    ranks: int = 1,
    worker: int = 0,
    workers: int = 1,
    shuffle: bool = True,
) -> list[int]:
    """Which of `count` shards a loader reads in an epoch, in order.

    The shards are shuffled the same way everywhere and dealt out to the ranks, then to a rank's worker processes.
    Where there are fewer shards than readers, some are read by several, so that nobody is idle.
    """
    order = list(range(count))
    if shuffle:
        random.Random(epoch).shuffle(order)
    return _dealt(_dealt(order, rank, ranks), worker, workers)


def _dealt(order: list[int], number: int, readers: int) -> list[int]:
    if order and len(order) < readers:
        order = (order * -(-readers // len(order)))[:readers]
    return order[number::readers]


def shuffled(items: Iterable[Item], size: int, rng: random.Random) -> Iterator[Item]:
    """Mix items that are near each other: whenever `size` are waiting, half of them go on, in random order."""
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        if len(waiting) >= size:
            rng.shuffle(waiting)
            yield from waiting[: size // 2]
            waiting = waiting[size // 2 :]
    rng.shuffle(waiting)
    yield from waiting


def sorted_runs(items: Iterable[Item], size: int, key: Callable[[Item], Any]) -> Iterator[Item]:
    """Every `size` items in ascending order, so that neighbours are of about the same length."""
    for run in by_count(items, size):
        yield from sorted(run, key=key)


def by_count(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Batches of `size` items; the last may have fewer."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def by_frames(items: Iterable[Item], limit: int, frames: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Batches that have at most `limit` frames once padded to their longest item; an item may be longer alone."""
    batch: list[Item] = []
    longest = 0
    for item in items:
        longest = max(longest, frames(item))
        if batch and longest * (len(batch) + 1) > limit:
            yield batch
            batch, longest = [], frames(item)
        batch.append(item)
    if batch:
        yield batch
