"""Transformer encoder with relative positions (Transformer-XL, arXiv 1901.02860), as ESPnet and CosyVoice 1 and 2
use it: pre-norm blocks of attention and feed-forward. The "conformer" blocks of the released models are these too,
without convolution and without a second feed-forward; only the names of their norms differ.

Relative positions are tables [queries + keys - 1, dim] whose row i stands for "query minus key" = keys - 1 - i, the
last query standing at the last key. Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.models.config import EncoderConfig
from fireside.models.dit import chunk_mask
from fireside.models.linear import Linear

NORM_NAMES = {"conformer": ("norm_mha", "norm_ff"), "transformer": ("norm1", "norm2")}
BLOCK_EPS = 1e-12
"""Of the norms within blocks; those of the input layer and behind the last block have 1e-5."""

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of earlier positions, each [batch, heads, length, head_dim]."""


def sinusoids(first: int, last: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Sines in the even and cosines in the odd columns, float32 [first - last + 1, dim], of the positions
    first, first - 1, ... last."""
    position = torch.arange(first, last - 1, -1, dtype=torch.float32, device=device)[:, None]
    inverse = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32, device=device) * -(math.log(10000.0) / dim))
    angles = position * inverse
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


def relative_positions(queries: int, keys: int, dim: int, device: torch.device | None = None) -> Tensor:
    """The table of relative positions, float32 [queries + keys - 1, dim], of any length."""
    return sinusoids(keys - 1, 1 - queries, dim, device)


def align(scores: Tensor, keys: int) -> Tensor:
    """Scores against relative positions [..., queries, queries + keys - 1] -> against keys [..., queries, keys].

    Row i holds its key j in column queries - 1 - i + j: read as one line, with rows one shorter, columns align.
    """
    queries, width = scores.shape[-2:]
    if queries == 1:
        return scores
    line = scores.flatten(-2)[..., queries - 1 : queries - 1 + queries * (width - 1)]
    return line.unflatten(-1, (queries, width - 1))[..., :keys]


def relative_attention(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, bias_u: Tensor, bias_v: Tensor, mask: Tensor | None = None
) -> Tensor:
    """softmax(((q + u) k + (q + v) p) / sqrt(head_dim)) v.

    q [batch, heads, queries, head_dim]; k, v [batch, heads, keys, head_dim]; p, the projected table, [heads,
    queries + keys - 1, head_dim]; biases [heads, head_dim]; mask: bool, True where a key is seen, broadcastable to
    [batch, 1, queries, keys]. Returns the shape of q.
    """
    scale = q.shape[-1] ** -0.5
    against_positions = align((q + bias_v[:, None]) @ p.transpose(-2, -1), k.shape[2]) * scale
    if mask is not None:
        against_positions = against_positions.masked_fill(~mask, -torch.inf)
    return F.scaled_dot_product_attention(q + bias_u[:, None], k, v, attn_mask=against_positions, scale=scale)


class RelativeAttention(nn.Module):
    """Multi-head attention with relative positions and two learned biases of the query."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = Linear(dim, dim)
        self.linear_k = Linear(dim, dim)
        self.linear_v = Linear(dim, dim)
        self.linear_out = Linear(dim, dim)
        self.linear_pos = Linear(dim, dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, dim // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, dim // heads))

    def split(self, x: Tensor) -> Tensor:
        """[..., length, dim] -> [..., heads, length, head_dim]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None = None, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """x [batch, queries, dim], which follow the keys of `past` -> the same shape, and the keys and values so far.

        positions: `relative_positions(queries, keys)`, keys with the past; mask as in `relative_attention`.
        """
        q, k, v = self.split(self.linear_q(x)), self.split(self.linear_k(x)), self.split(self.linear_v(x))
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        p = self.split(self.linear_pos(positions.to(self.linear_pos.weight.dtype)))
        y = relative_attention(q, k, v, p, self.pos_bias_u, self.pos_bias_v, mask)
        return self.linear_out(y.transpose(1, 2).flatten(2)), (k, v)


class FeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.w_1 = Linear(config.dim, config.ff_dim)
        self.w_2 = Linear(config.ff_dim, config.dim)
        self.activation = F.silu if config.activation == "swish" else F.relu

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] -> the same shape."""
        return self.w_2(self.activation(self.w_1(x)))


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(config.dim, config.heads)
        self.feed_forward = FeedForward(config)
        self.norm_names = NORM_NAMES[config.block]
        for name in self.norm_names:
            self.add_module(name, nn.LayerNorm(config.dim, eps=BLOCK_EPS))

    def norms(self) -> tuple[nn.LayerNorm, nn.LayerNorm]:
        """The norms before attention and before feed-forward."""
        first, second = (cast(nn.LayerNorm, self.get_submodule(name)) for name in self.norm_names)
        return first, second

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None = None, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """x [batch, length, dim]; see RelativeAttention."""
        before_attention, before_feed_forward = self.norms()
        y, seen = self.self_attn(before_attention(x), positions, mask, past)
        x = x + y
        return x + self.feed_forward(before_feed_forward(x)), seen


class InputLayer(nn.Module):
    """Linear layer, norm and, where asked for, ReLU; then times sqrt(dim)."""

    def __init__(self, config: EncoderConfig, input_dim: int | None = None) -> None:
        super().__init__()
        layers = [Linear(input_dim or config.input_dim, config.dim), nn.LayerNorm(config.dim, eps=1e-5)]
        self.out = nn.Sequential(*layers, *([nn.ReLU()] if config.input_relu else []))
        self.scale = math.sqrt(config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., input_dim] -> [..., dim]."""
        return self.out(x) * self.scale


class Encoder(nn.Module):
    """Input layer, blocks and a last norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = InputLayer(config)
        self.encoders = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.after_norm = nn.LayerNorm(config.dim, eps=1e-5)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x [batch, length, input_dim] -> [batch, length, dim].

        valid: bool [batch, length], False where a row is padded (on its right), or None. What comes out there means
        nothing.
        """
        x = self.embed(x)
        length = x.shape[1]
        positions = relative_positions(length, length, self.config.dim, x.device)
        mask = attention_mask(length, self.config.chunk, valid, x.device)
        for block in self.encoders:
            x, _ = block(x, positions, mask)
        return self.after_norm(x)


def attention_mask(length: int, chunk: int, valid: Tensor | None, device: torch.device) -> Tensor | None:
    """Which key a query sees, bool [batch or 1, 1, length or 1, length], or None when it is every key.

    chunk: width of the chunk mask in positions, 0 without one; valid: bool [batch, length], or None.
    """
    mask = None if valid is None else valid[:, None, None]
    if chunk:
        chunks = chunk_mask(0, length, chunk, device)
        mask = chunks[None, None] if mask is None else mask & chunks
    return mask
