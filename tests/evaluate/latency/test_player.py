"""The loudspeaker by a clock of our own."""

from __future__ import annotations

import pytest

from fireside.evaluate.latency.distribution import Distribution
from fireside.evaluate.latency.player import Player


def test_a_stream_in_time_has_no_underrun():
    player = Player()
    for now in (10.0, 10.2, 10.5):
        player.receive(now, 0.4)
    assert player.underruns == []
    assert player.slacks == pytest.approx([0.2, 0.3])
    assert player.ahead(10.6) == pytest.approx(0.6)
    assert player.heard_at(0.0) == 10.0
    assert player.heard_at(1.0) == pytest.approx(11.0)
    assert player.ahead(20.0) == 0


def test_a_late_chunk_is_an_underrun_and_what_follows_is_heard_later():
    player = Player()
    player.receive(10.0, 0.4)
    player.receive(10.5, 0.4)  # dry since 10.4
    player.receive(10.6, 0.4)
    assert player.underruns == pytest.approx([0.1])
    assert player.slacks == pytest.approx([-0.1, 0.3])
    assert player.heard_at(0.3) == pytest.approx(10.3)
    assert player.heard_at(0.5) == pytest.approx(10.6)
    assert player.heard_at(1.1) == pytest.approx(11.2)


def test_a_loudspeaker_that_waits_starts_later_and_takes_more():
    player = Player(prebuffer=0.5)
    player.receive(10.0, 0.4)
    assert player.heard_at(0.0) is None
    assert player.ahead(11.0) == pytest.approx(0.4)
    player.receive(11.0, 0.4)
    player.receive(11.7, 0.4)
    assert player.underruns == []
    assert player.heard_at(0.0) == 11.0


def test_a_short_stream_is_played_when_it_is_over():
    player = Player(prebuffer=5.0)
    player.receive(10.0, 0.4)
    player.end(10.2)
    assert player.heard_at(0.1) == pytest.approx(10.3)
    empty = Player()
    empty.end(1.0)
    assert empty.heard_at(0.0) is None


def test_distribution():
    found = Distribution.of([4.0, 1.0, 3.0, 2.0])
    assert found is not None
    assert (found.count, found.mean, found.minimum, found.maximum, found.p50) == (4, 2.5, 1.0, 4.0, 2.5)
    assert found.variance == pytest.approx(5 / 3)
    assert found.p90 == pytest.approx(3.7)
    assert Distribution.of([]) is None
    single = Distribution.of([2.0])
    assert single is not None
    assert (single.variance, single.p99) == (0.0, 2.0)
