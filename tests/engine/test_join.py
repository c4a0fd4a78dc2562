"""Pieces of audio into one stream."""

from __future__ import annotations

import numpy as np
import pytest

from fireside.engine.join import JoinState, join

RATE = 24000


def piece(lead: float, sound: float, tail: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = [np.zeros(int(lead * RATE)), rng.uniform(0.2, 0.5, int(sound * RATE)), np.zeros(int(tail * RATE))]
    return np.concatenate(parts).astype(np.float32)


def run(pieces: list[np.ndarray], size: int | None, pauses: list[float], trim: bool = True) -> np.ndarray:
    state = JoinState(RATE, trim)
    out = []
    for samples, pause in zip(pieces, pauses, strict=True):
        parts = np.split(samples, range(size, len(samples), size)) if size else [samples]
        for index, part in enumerate(parts):
            out.append(join(state, part, index == len(parts) - 1, pause))
    return np.concatenate(out)


@pytest.mark.parametrize("size", [100, 7200, 14400, None])
@pytest.mark.parametrize("trim", [True, False])
def test_the_cut_into_chunks_does_not_show(size: int | None, trim: bool) -> None:
    pieces = [piece(0.3, 0.5, 0.2, 1), piece(0.01, 0.3, 0.5, 2), piece(0.2, 0.4, 0.0, 3)]
    pauses = [0.4, 0.15, 0.1]
    whole = run(pieces, None, pauses, trim)
    np.testing.assert_array_equal(run(pieces, size, pauses, trim), whole)


def test_pauses_are_as_asked() -> None:
    pieces = [piece(0.3, 0.5, 0.2, 1), piece(0.3, 0.3, 0.5, 2)]
    joined = run(pieces, 4800, [0.4, 0.1])
    loud = np.flatnonzero(np.abs(joined) > 0.1)
    gaps = np.diff(loud)
    assert gaps.max() / RATE == pytest.approx(0.08 + 0.4 + 0.06, abs=0.015)
    assert (loud[0] / RATE) == pytest.approx(0.06, abs=0.01)
    assert (len(joined) - loud[-1]) / RATE == pytest.approx(0.18, abs=0.01)


def test_no_clicks() -> None:
    joined = run([piece(0, 0.5, 0, 1), piece(0, 0.5, 0, 2)], 5000, [0.2, 0.2])
    edges = np.flatnonzero(np.diff((np.abs(joined) > 0).astype(int)))
    assert np.abs(joined[edges + 1]).max() < 0.02
    assert np.abs(joined[edges]).max() < 0.02


def test_without_trim_only_the_edges_change() -> None:
    samples = piece(0.3, 0.5, 0.4)
    joined = run([samples], 3000, [0.2], trim=False)
    assert joined.shape == samples.shape
    np.testing.assert_array_equal(joined[120:-120], samples[120:-120])


def test_a_silent_piece_is_short_and_the_next_is_whole() -> None:
    joined = run([np.zeros(RATE, np.float32), piece(0.1, 0.5, 0.1)], 2000, [0.3, 0.1])
    assert np.count_nonzero(np.abs(joined) > 0.1) >= 0.48 * RATE
    assert len(joined) < 1.0 * RATE


def test_sound_is_not_held_back() -> None:
    state = JoinState(RATE)
    made = len(join(state, piece(0.0, 0.3, 0.0)))
    assert made >= 0.29 * RATE
    assert len(join(state, np.zeros(2 * RATE, np.float32))) >= 1.3 * RATE, "a long silence is not hoarded"
