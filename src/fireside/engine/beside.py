"""Hops of several requests that are rendered in one call, here or in a thread beside the LM's.

A small LM gains nothing from a second core, and what is rendered for a listener need not keep the others' speech tokens
waiting. So in a crowd one thread decodes while another renders, each with cores of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from fireside.engine.record import Piece, Record
from fireside.engine.render import Hop, Rendered, Renderer, RenderState


@dataclass(frozen=True)
class Batch:
    """Hops that one renderer renders in one call: of the requests of these numbers, at most one of each.

    It knows the requests by their numbers only, so that one that is dropped meanwhile is gone at once.
    """

    renderer: Renderer[Any, Any]
    records: Sequence[int]
    states: Sequence[RenderState[Any, Any]]
    fresh: Sequence[list[int]]
    hops: Sequence[Hop]

    def render(self) -> Rendered:
        """Render them."""
        return self.renderer.append(self.states, self.fresh, [hop.final for hop in self.hops])


Done = list[tuple[Batch, Rendered, int]]
"""What was rendered, and with how many threads."""


def batches_of(hops: Sequence[tuple[Record, Hop]]) -> list[Batch]:
    """Hops that are next for the first pieces of requests, by who renders them."""
    rows: dict[Renderer[Any, Any], list[tuple[Record, Piece, Hop]]] = defaultdict(list)
    for record, hop in hops:
        rows[record.pieces[0].renderer].append((record, record.pieces[0], hop))
    return [
        Batch(
            renderer,
            records=[record.id for record, *_ in each],
            states=[piece.state for _, piece, _ in each],
            fresh=[piece.next_tokens(hop) for _, piece, hop in each],
            hops=[hop for *_, hop in each],
        )
        for renderer, each in rows.items()
    ]


def render(batches: Sequence[Batch], threads: int) -> Done:
    """Render batches, one after another, with so many threads."""
    with limited(threads):
        return [(batch, batch.render(), threads) for batch in batches]


class Beside:
    """Renders in a thread of its own, one call at a time. For one thread that gives it work and takes the results."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fireside-rendering")
        self._work: Future[Done] | None = None
        self.records: frozenset[int] = frozenset()
        """The requests whose hops are in work, by their numbers."""

    @property
    def busy(self) -> bool:
        """Whether it has work whose results were not taken."""
        return self._work is not None

    @property
    def done(self) -> bool:
        """Whether `take` need not wait."""
        return self._work is None or self._work.done()

    def give(self, batches: Sequence[Batch], threads: int) -> None:
        """Begin to render batches with so many threads; whatever was begun before must have been taken."""
        self.records = frozenset(record for batch in batches for record in batch.records)
        self._work = self._thread.submit(render, batches, threads)

    def take(self) -> Done:
        """What was rendered, when it is done; nothing if there was nothing to do."""
        work, self._work = self._work, None
        self.records = frozenset()
        return [] if work is None else work.result()


def set_threads(threads: int) -> None:
    """Have this thread compute with so many threads from now on; others keep their number (OpenMP has one for each)."""
    torch.get_num_threads()  # the first thing that a thread computes would set its number anew
    torch.set_num_threads(threads)


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """As `set_threads`, for as long as this lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
