"""Decoding with the Qwen2 LMs (hearth, CosyVoice 2 and 3), several requests at once; see `decoder.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.engine.decoder import SMALL, Decoder, Handle
from fireside.engine.products import Held, Product, Weights, halves
from fireside.models.lm import LM
from fireside.models.qwen2 import DecoderLayer, RMSNorm, rotary_table


class _Layer:
    """The weights of one layer, with the products that read the same input joined."""

    def __init__(self, layer: DecoderLayer, dtype: torch.dtype, weights: Held) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv = Product([part.weight for part in parts], [part.bias for part in parts], dtype, weights)
        self.out = Product([attention.o_proj.weight], (), dtype, weights)
        self.gate_up = Product([mlp.gate_proj.weight, mlp.up_proj.weight], (), dtype, weights)
        self.down = Product([mlp.down_proj.weight], (), dtype, weights)
        self.norm = _norm_weight(layer.input_layernorm)
        self.norm_mlp = _norm_weight(layer.post_attention_layernorm)

    @property
    def nbytes(self) -> int:
        return sum(product.nbytes for product in (self.qkv, self.out, self.gate_up, self.down))


class LMDecoder(Decoder):
    """Decodes with an `LM`. The cache takes layers * 2 * slots * kv_heads * max_len * head_dim values of `dtype`.

    dtype: what products and the cache are computed and kept in; norms, rotations and the residual stay in float32.
    weights: int8 reads a quarter of what float32 does, and computes in bfloat16 whatever dtype says. The module's
    weights of the same type are not copied: they become views of the joined ones. A small model whose float32 weights
    half precision holds exactly is read so (products.halves), from a copy.
    """

    @torch.no_grad()
    def __init__(
        self,
        lm: LM,
        slots: int = 8,
        max_len: int = 2048,
        rows: int | None = None,
        dtype: torch.dtype = torch.float32,
        weights: Weights = "float",
        compile: bool = False,
    ) -> None:
        config = lm.config
        if weights == "int8":
            dtype = torch.bfloat16
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.hidden_size // config.num_heads
        stack = lm.decoder
        blocks = [layer for layer in stack.layers if isinstance(layer, DecoderLayer)]
        plain = rows is None and weights == "float" and dtype == torch.float32 and not compile
        any_rows = plain and _halved(blocks)
        self.text_table = stack.embed_tokens.weight.detach()
        self.speech_table = lm.speech_table().detach()
        self.norm = _norm_weight(stack.norm)
        self.layers = [_Layer(block, dtype, "half" if any_rows else weights) for block in blocks]
        shape = (self.kv_heads, self.head_dim, slots, max_len)
        super().__init__(lm.control, lm.llm_decoder, self.layers, *shape, rows, dtype, any_rows, compile)
        self._fixed_layer = torch.compile(self._attend_and_feed) if compile else self._attend_and_feed
        # Where the keys and values of a slot's position are, among all rows [head_dim] of a layer's part of the cache.
        self._rows = self.cache.view(len(self.layers), -1, self.head_dim).unbind()
        self._heads_at = torch.arange(2 * self.kv_heads, device=self.device) * max_len
        self._eps = torch.tensor((config.rms_norm_eps * config.hidden_size) ** 0.5, device=self.device)
        cos, sin = rotary_table(max_len, self.head_dim, config.rope_theta)
        self.cos = torch.cat([cos, cos], -1).to(self.device)[:, None]
        self.sin = torch.cat([-sin, sin], -1).to(self.device)[:, None]

    def _embed(self, ids: Sequence[int]) -> Tensor:
        """Ids of a sequence -> float32 [len(ids), hidden]."""
        index = torch.tensor(ids, device=self.device)
        return self._embed_any(index) if min(ids) < 0 else self.speech_table[index].float()

    def _embed_any(self, index: Tensor) -> Tensor:
        """Ids [n] of both kinds -> float32 [n, hidden]."""
        speech = self.speech_table[index.clamp(min=0)]
        text = self.text_table[(~index).clamp(min=0)]
        return torch.where((index < 0)[:, None], text, speech).float()

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm of x [rows, hidden]: the root of the sum of squares and epsilon, in half the operations of torch's.

        weight: as `_norm_weight` has it.
        """
        return (x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._eps)).mul_(weight)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotary positions; x [rows, heads, head_dim], cos and signed sin [rows, 1, head_dim]."""
        x = x.float()
        return torch.addcmul(x * cos, x.roll(self.head_dim // 2, -1), sin).to(self.dtype)

    def _mlp(self, layer: _Layer, x: Tensor) -> Tensor:
        gate, up = layer.gate_up(self._normed(x, layer.norm_mlp).to(self.dtype)).chunk(2, -1)
        return x + layer.down(F.silu(gate) * up)

    def _rotation(self, at: slice | Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """cos and signed sin of positions [rows] for every head of a layer's products, each [rows, heads, head_dim]:
        queries and keys are turned, values are not."""
        turned, both = self.heads + self.kv_heads, self.heads + 2 * self.kv_heads
        cos = torch.ones(rows, both, self.head_dim, device=self.device)
        sin = torch.zeros(rows, both, self.head_dim, device=self.device)
        cos[:, :turned] = self.cos[at]
        sin[:, :turned] = self.sin[at]
        return cos, sin

    def _project(self, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [n, hidden] -> queries, keys and values [n, heads + 2 * kv_heads, head_dim]; q and k turned."""
        qkv = layer.qkv(self._normed(x, layer.norm).to(self.dtype))
        return self._turned(qkv.view(len(x), -1, self.head_dim), cos, sin)

    def _past(self, handle: Handle, length: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer up to a length of the request, each [1, kv_heads, length, head_dim]."""
        kept = self.cache[:, handle.slot, :, :, :length]
        return [(layer[:1], layer[1:]) for layer in kept.unbind()]

    def _extend(self, handle: Handle, ids: Sequence[int]) -> Tensor:
        start, end = handle.length, handle.length + len(ids)
        x = self._embed(ids)
        cos, sin = self._rotation(slice(start, end), len(ids))
        group = self.heads // self.kv_heads
        # The query heads of one key head stand as further queries: no key is copied.
        hidden = torch.full((len(ids), end), -torch.inf, dtype=self.dtype, device=self.device).triu(start + 1)
        hidden = hidden.repeat(group, 1)
        fresh = self.cache[:, handle.slot, :, :, start:end].flatten(1, 2)
        for layer, place, (keys, values) in zip(self.layers, fresh, self._past(handle, end), strict=True):
            turned = self._project(layer, x, cos, sin)
            place.copy_(turned[:, self.heads :].transpose(0, 1))
            q = turned[:, : self.heads].unflatten(1, (self.kv_heads, group)).permute(1, 2, 0, 3).flatten(1, 2)
            y = F.scaled_dot_product_attention(q[None], keys, values, hidden)[0]
            y = y.unflatten(1, (group, len(ids))).permute(2, 0, 1, 3)
            x = x + layer.out(y.reshape(len(ids), -1))
            x = self._mlp(layer, x)
        handle.length = end
        return self._normed(x[-1:], self.norm)[0]

    def _advance(self, handles: Sequence[Handle], ids: Sequence[int]) -> Tensor:
        count = len(handles)
        rows = count if self.any_rows else self.rows
        spare = rows - count
        slots = torch.tensor([handle.slot for handle in handles], device=self.device)
        x = self._embed([*ids, *[0] * spare])
        at = torch.tensor([*[handle.length for handle in handles], *[0] * spare], device=self.device)
        cos, sin = self._rotation(at, rows)
        where = (slots * (2 * self.kv_heads * self.max_len) + at[:count])[:, None] + self._heads_at
        where = where.flatten()
        group = self.heads // self.kv_heads
        pasts = [self._past(handle, handle.length + 1) for handle in handles]
        for index, layer in enumerate(self.layers):
            turned = self._project(layer, x, cos, sin)
            self._rows[index].index_copy_(0, where, turned[:count, self.heads :].flatten(0, 1))
            # The query heads of one key head stand as queries of several positions would: no key is copied.
            queries = turned[:, : self.heads].unflatten(1, (self.kv_heads, group)).split(1)
            attended = [
                F.scaled_dot_product_attention(q, *past[index]) for q, past in zip(queries, pasts, strict=False)
            ]
            attended += [torch.zeros_like(attended[0])] * spare
            y = attended[0] if rows == 1 else torch.cat(attended)
            x = x + layer.out(y.reshape(rows, -1))
            x = self._mlp(layer, x)
        for handle in handles:
            handle.length += 1
        return self._normed(x, self.norm)

    def _fixed_step(self, ids: Tensor, at: Tensor, slots: Tensor, length: int) -> Tensor:
        x = self._embed_any(ids)
        cos, sin = self._rotation(at, self.rows)
        where = (slots * (2 * self.kv_heads * self.max_len) + at)[:, None] + self._heads_at
        seen = (torch.arange(length, device=self.device) <= at[:, None])[:, None, None]
        for layer, cache in zip(self.layers, self.cache.unbind(), strict=True):
            x = self._fixed_layer(layer, x, cos, sin, cache, where.flatten(), slots, seen)
        return self._normed(x, self.norm)

    def _attend_and_feed(
        self,
        layer: _Layer,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: Tensor,
        where: Tensor,
        slots: Tensor,
        seen: Tensor,
    ) -> Tensor:
        """One layer of `_fixed_step`: x [rows, hidden] to the same.

        cache: the layer's part of it; where: rows of it [rows * 2 * kv_heads] for the new keys and values; seen: bool
        [rows, 1, 1, length], which positions of a slot's past belong to its request.
        """
        turned = self._project(layer, x, cos, sin)
        cache.view(-1, self.head_dim).index_copy_(0, where, turned[:, self.heads :].flatten(0, 1))
        keys, values = cache[..., : seen.shape[-1], :].index_select(0, slots).unbind(1)
        queries = turned[:, : self.heads].unflatten(1, (self.kv_heads, -1))
        y = F.scaled_dot_product_attention(queries, keys, values, seen)
        return self._mlp(layer, x + layer.out(y.flatten(1)))


def _norm_weight(norm: RMSNorm) -> Tensor:
    """A norm's weight [hidden] times the root of its length: it divides by the root of a sum, not of a mean."""
    return norm.weight.detach().float() * len(norm.weight) ** 0.5


def _halved(blocks: Sequence[DecoderLayer]) -> bool:
    """Whether the weights of a model are few, and exact in half precision."""
    weights = [linear.weight for block in blocks for linear in block.modules() if isinstance(linear, nn.Linear)]
    return sum(weight.nbytes for weight in weights) < SMALL and halves(weights)
