"""Causal convolutions: the past only, and pieces equal the whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fireside.models.causal import CausalConv1d, CausalUpsample1d, Tails


@pytest.mark.parametrize(("kernel", "factor"), [(16, 8), (11, 5), (7, 3), (12, 6), (3, 8), (1, 2)])
def test_upsampling_equals_repeating_then_convolving(kernel, factor):
    up = CausalUpsample1d(3, 4, kernel, factor)
    x = torch.randn(2, 3, 9)
    expected = F.conv1d(F.pad(x.repeat_interleave(factor, -1), (kernel - 1, 0)), up.weight, up.bias)
    torch.testing.assert_close(up(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "conv",
    [
        CausalConv1d(2, 3, 5, dilation=3),
        CausalConv1d(2, 3, 6, stride=3, left=2),
        CausalUpsample1d(2, 3, 11, 5),
    ],
    ids=["dilated", "strided", "upsampling"],
)
def test_pieces_equal_the_whole(conv):
    x = torch.randn(1, 2, 31)
    tails = Tails()
    pieces = [conv(part, tails) for part in x.split([4, 3, 9, 12, 3], dim=-1)]
    torch.testing.assert_close(torch.cat(pieces, -1), conv(x), atol=1e-6, rtol=1e-6)
    assert 0 < tails.nbytes <= 4 * 2 * 12


def test_nothing_after_a_frame_changes_it():
    conv = CausalConv1d(1, 1, 7, dilation=2)
    x = torch.randn(1, 1, 40)
    changed = x.clone()
    changed[..., 25:] = 0
    torch.testing.assert_close(conv(x)[..., :25], conv(changed)[..., :25])
