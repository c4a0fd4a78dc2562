"""The Qwen2 decoder (Qwen2 Technical Report, arXiv 2407.10671), written for one use: embeddings in, hidden
states out.

Pre-norm blocks of grouped-query attention with biases on q, k, v only, rotary positions (arXiv 2104.09864,
halves rotated against each other) and SwiGLU. Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.models.config import LMConfig

Drop = Callable[[Tensor], Tensor]
"""Dropout as a training loop wants it: called on what a branch adds to the residual."""

SHORT = 512
"""Up to this length bfloat16 attention on a CPU is faster through plain matrix products than through SDPA."""


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, always in float32 (arXiv 1910.07467)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] -> float32 of the same shape."""
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps)


def rotary_table(length: int, head_dim: int, theta: float, start: int = 0) -> tuple[Tensor, Tensor]:
    """cos and sin, each float32 [length, head_dim // 2], of the positions start .. start + length - 1."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.arange(start, start + length, dtype=torch.float32)[:, None] * inverse
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [..., length, head_dim] by its positions; cos and sin [length, head_dim // 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention; each key/value head serves num_heads / num_kv_heads query heads."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.hidden_size // config.num_heads
        kv = self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, kv)
        self.v_proj = nn.Linear(config.hidden_size, kv)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [batch, length, hidden] -> the same shape."""
        batch, length, _ = x.shape

        def heads(y: Tensor, count: int) -> Tensor:
            return y.view(batch, length, count, self.head_dim).transpose(1, 2)

        q = rotate(heads(self.q_proj(x), self.heads), cos, sin)
        k = rotate(heads(self.k_proj(x), self.kv_heads), cos, sin)
        v = heads(self.v_proj(x), self.kv_heads)
        y = attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal grouped-query attention. q [batch, heads, length, dim]; k, v [batch, kv_heads, length, dim]."""
    batch, heads, length, dim = q.shape
    group = heads // k.shape[1]
    if q.dtype != torch.bfloat16 or q.device.type != "cpu" or length > SHORT:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    hidden = torch.full((length, length), float("-inf"), dtype=q.dtype).triu(1).repeat(group, 1)
    folded = q.reshape(batch * k.shape[1], group * length, dim)
    scores = torch.baddbmm(hidden, folded, k.flatten(0, 1).transpose(1, 2), alpha=dim**-0.5)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(batch, heads, length, dim)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual that stays in float32."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, drop: Drop | None = None) -> Tensor:
        """x float32 [batch, length, hidden] -> the same."""
        attended = self.self_attn(self.input_layernorm(x), cos, sin)
        x = x + (drop(attended) if drop else attended)
        changed = self.mlp(self.post_attention_layernorm(x))
        return x + (drop(changed) if drop else changed)


class Qwen2Decoder(nn.Module):
    """The stack with its text embedding and its final norm."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_heads
        self.theta = config.rope_theta
        self.embed_tokens = nn.Embedding(config.text_vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, drop: Drop | None = None) -> Tensor:
        """Embeddings [batch, length, hidden] -> hidden states after the final norm, the same shape.

        Rows of different lengths are padded on the right: under the causal mask no real position sees the
        padding.
        """
        cos, sin = rotary_table(x.shape[1], self.head_dim, self.theta)
        cos, sin = cos.to(x.device, x.dtype), sin.to(x.device, x.dtype)
        x = drop(x) if drop else x
        for layer in self.layers:
            x = layer(x, cos, sin, drop)
        return self.norm(x)
