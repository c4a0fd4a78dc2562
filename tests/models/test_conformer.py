"""The encoder with relative positions: its alignment, its masks, and the same result piece by piece."""

from __future__ import annotations

import pytest
import torch

from fireside.models.config import EncoderConfig
from fireside.models.conformer import Block, Encoder, align, relative_attention, relative_positions


def tiny(**changes) -> EncoderConfig:
    sizes = {"input_dim": 6, "dim": 16, "heads": 4, "ff_dim": 24, "layers": 2}
    return EncoderConfig(**{**sizes, **changes})


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module.eval()


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 5), (4, 4), (3, 7)])
def test_scores_align_with_keys(queries, keys):
    difference = torch.arange(keys - 1, -queries, -1).expand(queries, -1)
    expected = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
    assert torch.equal(align(difference, keys), expected)


def test_attention_is_what_its_formula_says():
    """Written out with loops, for a query that stands behind kept keys too."""
    torch.manual_seed(0)
    heads, queries, keys, dim = 2, 3, 5, 4
    q, u, w = torch.randn(1, heads, queries, dim), torch.randn(heads, dim), torch.randn(heads, dim)
    k, v = torch.randn(2, 1, heads, keys, dim)
    p = torch.randn(heads, queries + keys - 1, dim)
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    expected = torch.zeros_like(q)
    for h in range(heads):
        for i in range(queries):
            seen = range(keys - queries + i + 1)
            rows = [keys - 1 - (keys - queries + i - j) for j in seen]
            scores = [
                (q[0, h, i] + u[h]) @ k[0, h, j] + (q[0, h, i] + w[h]) @ p[h, r]
                for j, r in zip(seen, rows, strict=True)
            ]
            weights = (torch.stack(scores) / dim**0.5).softmax(0)
            expected[0, h, i] = sum(weight * v[0, h, j] for j, weight in enumerate(weights))
    torch.testing.assert_close(relative_attention(q, k, v, p, u, w, mask), expected, atol=1e-5, rtol=0)


def test_positions_go_from_the_far_past_to_the_future():
    table = relative_positions(3, 5, 8)
    assert table.shape == (7, 8)
    torch.testing.assert_close(table[4], torch.tensor([0.0, 1.0] * 4))
    far = torch.tensor(4.0)
    torch.testing.assert_close(table[0, :2], torch.stack((far.sin(), far.cos())))
    torch.testing.assert_close(table[3, ::2], -table[5, ::2])


@pytest.mark.parametrize("block", ["conformer", "transformer"])
def test_a_block_piece_by_piece_equals_the_whole(block):
    config = tiny(block=block)
    module = randomise(Block(config))
    x = torch.randn(2, 9, config.dim, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    with torch.inference_mode():
        whole, _ = module(x, relative_positions(9, 9, config.dim), mask)
        past, pieces, start = None, [], 0
        for size in (4, 1, 3, 1):
            end = start + size
            positions = relative_positions(size, end, config.dim)
            y, past = module(x[:, start:end], positions, mask[start:end, :end], past)
            pieces.append(y)
            start = end
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [0, 1, 3])
def test_padding_changes_nothing_and_chunks_do_not_look_ahead(chunk):
    encoder = randomise(Encoder(tiny(chunk=chunk)))
    x = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([8, 5])
    valid = torch.arange(8) < lengths[:, None]
    with torch.inference_mode():
        batch = encoder(x, valid)
        torch.testing.assert_close(batch[:1], encoder(x[:1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(batch[1:, :5], encoder(x[1:, :5]), atol=1e-5, rtol=0)
        if chunk:
            torch.testing.assert_close(encoder(x[:1, :6])[:, :6], batch[:1, :6], atol=1e-5, rtol=0)
        else:
            assert (encoder(x[:1, :6]) - batch[:1, :6]).abs().max() > 1e-3


def test_positions_have_no_limit():
    """Bug 22: the original's table ends at 5000."""
    config = tiny()
    past = torch.randn(2, 1, config.heads, 6000, config.dim // config.heads, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        y, (keys, _) = randomise(Block(config))(
            torch.ones(1, 1, config.dim), relative_positions(1, 6001, config.dim), None, (past[0], past[1])
        )
    assert keys.shape[2] == 6001
    assert y.isfinite().all()
