"""The incremental change of rate against one interpolation of the whole mel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fireside.engine.speed import SpeedState, change_speed


@pytest.mark.parametrize("speed", [0.5, 0.8, 0.97, 1.0, 1.2, 1.25, 1.9, 2.0])
@pytest.mark.parametrize("sizes", [[100], [1] * 37, [30, 30, 17], [3, 0, 50, 1], [40, 1]])
def test_joined_chunks_are_one_interpolation(speed: float, sizes: list[int]) -> None:
    mel = torch.randn(1, 80, sum(sizes), generator=torch.Generator().manual_seed(1))
    state = SpeedState(speed)
    parts = [
        change_speed(state, part, final=index == len(sizes) - 1) for index, part in enumerate(mel.split(sizes, dim=-1))
    ]
    got = torch.cat(parts, dim=-1)
    whole = F.interpolate(mel, scale_factor=1 / speed, mode="linear", align_corners=False, recompute_scale_factor=False)
    assert speed == 1.0 or whole.shape != mel.shape, "torch copies, and does not interpolate, at equal sizes"
    torch.testing.assert_close(got, whole, atol=2e-4, rtol=0)


def test_it_waits_for_one_frame_and_keeps_few() -> None:
    state = SpeedState(0.8)
    made = 0
    for _ in range(50):
        made += change_speed(state, torch.ones(80, 10), final=False).shape[-1]
        assert state.kept is not None
        assert state.kept.shape[-1] <= 2
    assert made >= 500 / 0.8 - 2


def test_an_empty_end_gives_out_the_rest() -> None:
    state = SpeedState(0.5)
    first = change_speed(state, torch.ones(80, 4), final=False)
    last = change_speed(state, torch.ones(80, 0), final=True)
    assert first.shape[-1] + last.shape[-1] == 8
