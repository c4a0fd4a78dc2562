from __future__ import annotations

import numpy as np
import pytest

from fireside.audio.join import PieceJoiner

RATE = 24000


def joined(pieces: list[np.ndarray], size: int, **options) -> np.ndarray:
    joiner = PieceJoiner(RATE, **options)
    out = []
    for piece in pieces:
        out += [joiner.push(piece[i : i + size]) for i in range(0, len(piece), size)]
        out.append(joiner.end_piece())
    return np.concatenate(out)


def test_length_pause_and_middle():
    ones = np.ones(4800, dtype=np.float32)
    out = joined([ones, ones], 4800, pause_seconds=0.1, fade_seconds=0.01)
    assert len(out) == 4800 + 2400 + 4800
    assert (out[4800:7200] == 0).all()
    np.testing.assert_array_equal(out[240 : 4800 - 240], 1.0)
    np.testing.assert_array_equal(out[7200 + 240 : -240], 1.0)


def test_no_step_is_larger_than_the_fade_makes_it():
    # A constant is the worst case: without fades it jumps by 1 at each end.
    ones = np.ones(4800, dtype=np.float32)
    out = np.pad(joined([ones, ones, ones], 960, fade_seconds=0.005), 1)
    assert np.abs(np.diff(out)).max() < 0.5 * np.pi / (0.005 * RATE) + 1e-3


@pytest.mark.parametrize("size", [1, 50, 119, 120, 121, 1000])
def test_chunking_does_not_matter(size):
    rng = np.random.default_rng(0)
    pieces = [rng.standard_normal(n).astype(np.float32) for n in (2000, 30, 0, 700)]
    np.testing.assert_array_equal(joined(pieces, size), joined(pieces, 10_000))


def test_streaming_holds_back_no_more_than_a_fade():
    joiner = PieceJoiner(RATE, fade_seconds=0.005)
    assert len(joiner.push(np.ones(1000, dtype=np.float32))) == 1000 - 120
    assert len(joiner.push(np.ones(1000, dtype=np.float32))) == 1000
    assert len(joiner.end_piece()) == 120


def test_empty_pieces_add_no_pause_and_input_is_not_changed():
    ones = np.ones(500, dtype=np.float32)
    assert len(joined([np.zeros(0, dtype=np.float32), ones], 500, pause_seconds=1.0)) == 500
    assert (ones == 1).all()
