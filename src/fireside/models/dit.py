"""Diffusion transformer: the velocity field of the flow, one mel frame per position.

The network of F5-TTS (Chen et al. 2024) as CosyVoice 3 uses it (Du et al. 2025): adaptive layer norm after
Peebles & Xie 2023, one static chunk mask for streaming. Parameter names are those of the released `flow.pt`.

Two habits of the released weights are kept on purpose: the rotary embedding turns the channels of the first
head only, and the position embedding is two causal grouped convolutions whose result is added to the input.
Layer norms and the residual stream stay in float32 when the weights are in half precision.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.models.config import DiTConfig
from fireside.models.linear import Linear

NORM_EPS = 1e-6
TIME_FEATURES = 256
TIME_SCALE = 1000.0
ROTARY_BASE = 10000.0


def time_features(t: Tensor, dim: int = TIME_FEATURES) -> Tensor:
    """Sinusoids of flow time t [batch] in 0..1: [batch, dim], all sines before all cosines."""
    half = dim // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / (half - 1)))
    angles = TIME_SCALE * t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def chunk_mask(start: int, stop: int, chunk: int, device: torch.device | None = None) -> Tensor:
    """Who sees whom: bool [stop - start, stop]; a frame sees all up to the end of its own chunk.

    Frames are counted from the start of the prompt; queries are the frames start..stop.
    """
    query = torch.arange(start, stop, device=device) // chunk
    key = torch.arange(stop, device=device) // chunk
    return key[None, :] <= query[:, None]


class TimeEmbedding(nn.Module):
    """Flow time to the vector that steers every adaptive norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(Linear(TIME_FEATURES, dim), nn.SiLU(), Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """t [batch] to [batch, dim]."""
        dtype = next(self.time_mlp.parameters()).dtype
        return self.time_mlp(time_features(t).to(dtype))


class ConvPositionEmbedding(nn.Module):
    """Relative position from two causal grouped convolutions."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv1 = nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=groups), nn.Mish())
        self.conv2 = nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=groups), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, frames, dim] to the same shape."""
        past = (self.kernel - 1, 0)
        hidden = self.conv1(F.pad(x.transpose(1, 2), past))
        return self.conv2(F.pad(hidden, past)).transpose(1, 2)


class InputEmbedding(nn.Module):
    """Joins noisy mel, prompt mel, token features and speaker into the network's width."""

    def __init__(self, config: DiTConfig, n_mels: int) -> None:
        super().__init__()
        self.proj = Linear(4 * n_mels, config.dim)
        self.conv_pos_embed = ConvPositionEmbedding(config.dim, config.conv_pos_kernel, config.conv_pos_groups)

    def forward(self, x: Tensor, cond: Tensor, mu: Tensor, spks: Tensor) -> Tensor:
        """x, cond, mu [batch, frames, n_mels] and spks [batch, n_mels] to [batch, frames, dim]."""
        speaker = spks[:, None].expand(-1, x.shape[1], -1)
        joined = torch.cat([x, cond, mu, speaker], dim=-1).to(self.proj.weight.dtype)
        hidden = self.proj(joined)
        return self.conv_pos_embed(hidden) + hidden


class RotaryEmbedding(nn.Module):
    """Rotary positions (Su et al. 2021) on neighbouring channel pairs."""

    inv_freq: Tensor

    def __init__(self, dim_head: int) -> None:
        super().__init__()
        exponents = torch.arange(0, dim_head, 2).float() / dim_head
        self.register_buffer("inv_freq", 1.0 / ROTARY_BASE**exponents)

    def angles(self, start: int, stop: int) -> Tensor:
        """Angles of the frames start..stop: float32 [frames, dim_head], every angle twice in a row."""
        frames = torch.arange(start, stop, device=self.inv_freq.device, dtype=torch.float32)
        return torch.outer(frames, self.inv_freq.float()).repeat_interleave(2, dim=-1)


def rotate_first_head(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first `cos.shape[-1]` channels of x [..., frames, channels] pair by pair."""
    width = cos.shape[-1]
    head = x[..., :width]
    even, odd = head[..., 0::2], head[..., 1::2]
    partner = torch.stack([-odd, even], dim=-1).flatten(-2)
    turned = head * cos + partner * sin
    return torch.cat([turned.to(x.dtype), x[..., width:]], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    """Softmax attention, [batch, heads, frames, dim_head] each; visible as in DiT.visible.

    In bfloat16 on a CPU plain matrix products are some 2.5 times as fast as torch's fused kernel.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if visible is not None:
        scores = scores + torch.zeros_like(visible, dtype=scores.dtype).masked_fill(~visible, float("-inf"))
    return scores.softmax(dim=-1) @ value


def compute_dtype(weight: Tensor) -> torch.dtype:
    """What matrix products with `weight` compute in: autocast's type, so that it casts once, or the weight's."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm without weights, in float32, scaled and shifted by the flow time."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift


class AdaptiveNorm(nn.Module):
    """Turns the time embedding into a block's scales, shifts and gates."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = Linear(dim, parts * dim)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        """time [batch, dim] to `parts` tensors [batch, 1, dim] in float32."""
        return self.linear(F.silu(time)).float()[:, None].chunk(self.parts, dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions on the first head."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(dim, heads * dim_head)
        self.to_k = Linear(dim, heads * dim_head)
        self.to_v = Linear(dim, heads * dim_head)
        self.to_out = nn.ModuleList([Linear(heads * dim_head, dim)])

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], visible: Tensor | None) -> Tensor:
        """x [batch, frames, dim]; rotary: cosines and sines [frames, dim_head]; visible: see DiT.visible."""
        query = rotate_first_head(self.to_q(x), *rotary)
        key = rotate_first_head(self.to_k(x), *rotary)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, self.to_v(x))
        )
        mixed = attend(query, key, value, visible)
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with a tanh-approximated GELU between; nested as the official names are."""

    def __init__(self, dim: int, mult: int) -> None:
        super().__init__()
        inner = nn.Sequential(Linear(dim, mult * dim), nn.GELU(approximate="tanh"))
        self.ff = nn.Sequential(inner, nn.Identity(), Linear(mult * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, frames, dim] to the same shape."""
        return self.ff(x)


class DiTBlock(nn.Module):
    """Attention and feed-forward, each normed, shifted, scaled and gated by the flow time."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attn_norm = AdaptiveNorm(config.dim, 6)
        self.attn = Attention(config.dim, config.heads, config.dim_head)
        self.ff = FeedForward(config.dim, config.ff_mult)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        rotary: tuple[Tensor, Tensor],
        visible: Tensor | None,
        valid: Tensor | None,
    ) -> Tensor:
        """x float32 [batch, frames, dim] to the same; valid: bool [batch, frames, 1], or None."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.attn_norm(time)
        dtype = compute_dtype(self.attn.to_q.weight)
        mixed = self.attn(modulated_norm(x, scale, shift).to(dtype), rotary, visible)
        if valid is not None:
            mixed = mixed.masked_fill(~valid, 0.0)
        x = x + gate * mixed
        return x + ff_gate * self.ff(modulated_norm(x, ff_scale, ff_shift).to(dtype))


class DiT(nn.Module):
    """Estimates the flow's velocity.

    chunk: width of the chunk mask in mel frames. A fresh network starts as the identity around its blocks and
    predicts zero (Peebles & Xie's zero initialisation).
    """

    def __init__(self, config: DiTConfig, n_mels: int, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.time_embed = TimeEmbedding(config.dim)
        self.input_embed = InputEmbedding(config, n_mels)
        self.rotary_embed = RotaryEmbedding(config.dim_head)
        self.transformer_blocks = nn.ModuleList([DiTBlock(config) for _ in range(config.depth)])
        self.norm_out = AdaptiveNorm(config.dim, 2)
        self.proj_out = Linear(config.dim, n_mels)
        for norm in (*(block.attn_norm for block in self.blocks), self.norm_out):
            nn.init.zeros_(norm.linear.weight)
            nn.init.zeros_(norm.linear.bias)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @property
    def blocks(self) -> list[DiTBlock]:
        """The transformer blocks in order."""
        return [block for block in self.transformer_blocks if isinstance(block, DiTBlock)]

    def visible(self, valid: Tensor | None, frames: int, chunked: bool) -> Tensor | None:
        """Which keys a query sees: bool, broadcastable to [batch, heads, frames, frames]; None when all."""
        mask = None if valid is None else valid[:, None, None, :, 0]
        if chunked:
            chunks = chunk_mask(0, frames, self.chunk, self.proj_out.weight.device)
            mask = chunks if mask is None else mask & chunks
        return mask

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        mu: Tensor,
        t: Tensor,
        spks: Tensor,
        cond: Tensor,
        chunked: bool = False,
    ) -> Tensor:
        """Velocity at flow time t.

        x, mu, cond: [batch, n_mels, frames]; mask: [batch, 1, frames], 0 where a row is padded, or None; t:
        [batch]; spks: [batch, n_mels]; chunked: apply the chunk mask. Returns float32 [batch, n_mels,
        frames].
        """
        frames = x.shape[2]
        valid = None if mask is None else mask.transpose(1, 2) > 0
        time = self.time_embed(t)
        hidden = self.input_embed(x.transpose(1, 2), cond.transpose(1, 2), mu.transpose(1, 2), spks).float()
        angles = self.rotary_embed.angles(0, frames)
        rotary = (angles.cos(), angles.sin())
        visible = self.visible(valid, frames, chunked)
        for block in self.blocks:
            hidden = block(hidden, time, rotary, visible, valid)
        scale, shift = self.norm_out(time)
        out = modulated_norm(hidden, scale, shift).to(self.proj_out.weight.dtype)
        return self.proj_out(out).float().transpose(1, 2)
