"""Decoding with the Qwen2 LMs (hearth, CosyVoice 2 and 3), several requests at once; see `decoder.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fireside.engine.decoder import Decoder, Handle
from fireside.engine.products import Product, Weights
from fireside.models.lm import LM
from fireside.models.qwen2 import DecoderLayer, rotary_table


class _Layer:
    """The weights of one layer, with the products that read the same input joined."""

    def __init__(self, layer: DecoderLayer, dtype: torch.dtype, weights: Weights) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv = Product([part.weight for part in parts], [part.bias for part in parts], dtype, weights)
        self.out = Product([attention.o_proj.weight], (), dtype, weights)
        self.gate_up = Product([mlp.gate_proj.weight, mlp.up_proj.weight], (), dtype, weights)
        self.down = Product([mlp.down_proj.weight], (), dtype, weights)
        self.norm = layer.input_layernorm.weight.detach().float()
        self.norm_mlp = layer.post_attention_layernorm.weight.detach().float()

    @property
    def nbytes(self) -> int:
        return sum(product.nbytes for product in (self.qkv, self.out, self.gate_up, self.down))


class LMDecoder(Decoder):
    """Decodes with an `LM`. The cache takes layers * 2 * slots * kv_heads * max_len * head_dim values of `dtype`.

    dtype: what products and the cache are computed and kept in; norms, rotations and the residual stay in float32.
    weights: int8 reads a quarter of what float32 does, and computes in bfloat16 whatever dtype says. The module's
    weights of the same type are not copied: they become views of the joined ones.
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
    ) -> None:
        config = lm.config
        if weights == "int8":
            dtype = torch.bfloat16
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.hidden_size // config.num_heads
        self.eps = config.rms_norm_eps
        stack = lm.decoder
        self.text_table = stack.embed_tokens.weight.detach()
        self.speech_table = lm.speech_table().detach()
        self.norm = stack.norm.weight.detach().float()
        self.layers = [_Layer(layer, dtype, weights) for layer in stack.layers if isinstance(layer, DecoderLayer)]
        shape = (self.kv_heads, self.head_dim, slots, max_len)
        super().__init__(lm.control, lm.llm_decoder, self.layers, *shape, rows, dtype)
        cos, sin = rotary_table(max_len, self.head_dim, config.rope_theta)
        self.cos = torch.cat([cos, cos], -1).to(self.device)[:, None]
        self.sin = torch.cat([-sin, sin], -1).to(self.device)[:, None]

    def _embed(self, ids: Sequence[int]) -> Tensor:
        """Ids of a sequence -> float32 [len(ids), hidden]."""
        index = torch.tensor(ids, device=self.device)
        if min(ids) >= 0:
            return self.speech_table[index].float()
        speech = self.speech_table[index.clamp(min=0)]
        text = self.text_table[(~index).clamp(min=0)]
        return torch.where((index < 0)[:, None], text, speech).float()

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotary positions; x [rows, heads, head_dim], cos and signed sin [rows, 1, head_dim]."""
        x = x.float()
        return torch.addcmul(x * cos, x.roll(self.head_dim // 2, -1), sin).to(self.dtype)

    def _mlp(self, layer: _Layer, x: Tensor) -> Tensor:
        gate, up = layer.gate_up(self._normed(x, layer.norm_mlp).to(self.dtype)).chunk(2, -1)
        return x + layer.down(F.silu(gate) * up)

    def _project(self, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [n, hidden] -> q [n, heads, dim], k and v [n, kv_heads, dim]; q and k turned."""
        qkv = layer.qkv(self._normed(x, layer.norm).to(self.dtype))
        qkv = qkv.view(len(x), -1, self.head_dim)
        turned = self._turned(qkv[:, : -self.kv_heads], cos, sin)
        return turned[:, : self.heads], turned[:, self.heads :], qkv[:, -self.kv_heads :]

    def _extend(self, handle: Handle, ids: Sequence[int]) -> Tensor:
        """Feed several ids of one request; the hidden state [hidden] after the last. For text and prompts."""
        start, end = handle.length, handle.length + len(ids)
        handle.length = end
        x = self._embed(ids)
        cos, sin = self.cos[start:end], self.sin[start:end]
        group = self.heads // self.kv_heads
        visible = None
        if start:
            visible = torch.ones(len(ids), end, dtype=torch.bool, device=x.device).tril(start)
        for layer, (keys, values) in zip(self.layers, self.cache[:, :, handle.slot], strict=True):
            q, k, v = self._project(layer, x, cos, sin)
            keys[:, start:end] = k.transpose(0, 1)
            values[:, start:end] = v.transpose(0, 1)
            k = keys[:, :end].repeat_interleave(group, 0)
            v = values[:, :end].repeat_interleave(group, 0)
            y = F.scaled_dot_product_attention(
                q.transpose(0, 1)[None], k[None], v[None], visible, is_causal=visible is None
            )
            x = x + layer.out(y[0].transpose(0, 1).reshape(len(ids), -1))
            x = self._mlp(layer, x)
        return self._normed(x[-1:], self.norm)[0]

    def _advance(self, handles: Sequence[Handle], ids: Sequence[int]) -> Tensor:
        """Feed one id to each request; hidden states [self.rows, hidden], the requests' first."""
        spare = self.rows - len(handles)
        positions = [handle.length for handle in handles]
        at = torch.tensor([*positions, *[0] * spare], device=self.device)
        x = self._embed([*ids, *[0] * spare])
        cos, sin = self.cos[at], self.sin[at]
        group = self.heads // self.kv_heads
        for layer, cache in zip(self.layers, self.cache, strict=True):
            q, k, v = self._project(layer, x, cos, sin)
            # The query heads of one key head stand as queries of several positions would: no key is copied.
            q = q.reshape(self.rows, 1, self.kv_heads, group, self.head_dim)
            attended = []
            for row, (handle, position) in enumerate(zip(handles, positions, strict=True)):
                keys, values = cache[0, handle.slot], cache[1, handle.slot]
                keys[:, position] = k[row]
                values[:, position] = v[row]
                end = position + 1
                attended.append(F.scaled_dot_product_attention(q[row], keys[None, :, :end], values[None, :, :end]))
            attended += [torch.zeros_like(attended[0])] * spare
            y = attended[0] if self.rows == 1 else torch.cat(attended)
            x = x + layer.out(y.reshape(self.rows, -1))
            x = self._mlp(layer, x)
        for handle in handles:
            handle.length += 1
        return self._normed(x, self.norm)
