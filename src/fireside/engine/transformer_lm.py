"""Decoding with CosyVoice 1's LM, several requests at once; see `decoder.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fireside.engine.decoder import Decoder, Handle
from fireside.engine.products import Product, Weights
from fireside.models.conformer import BLOCK_EPS, Block, align, sinusoids
from fireside.models.transformer_lm import TransformerLM
from fireside.models.turns import Step

GROWTH = 256
"""Relative positions that are projected at a time, when a request gets so far."""


class _Layer:
    """The weights of one block, with the products that read the same input joined."""

    def __init__(self, block: Block, dtype: torch.dtype, weights: Weights) -> None:
        attention, feed = block.self_attn, block.feed_forward
        parts = (attention.linear_q, attention.linear_k, attention.linear_v)
        self.qkv = Product([part.weight for part in parts], [part.bias for part in parts], dtype, weights)
        self.out = Product([attention.linear_out.weight], [attention.linear_out.bias], dtype, weights)
        self.widen = Product([feed.w_1.weight], [feed.w_1.bias], dtype, weights)
        self.narrow = Product([feed.w_2.weight], [feed.w_2.bias], dtype, weights)
        self.activation = feed.activation
        self.position = attention.linear_pos.weight.detach()
        self.bias_u = attention.pos_bias_u.detach().to(dtype)
        self.bias_v = attention.pos_bias_v.detach().to(dtype)
        self.norms = [(norm.weight.detach().float(), norm.bias.detach().float()) for norm in block.norms()]

    @property
    def nbytes(self) -> int:
        return sum(product.nbytes for product in (self.qkv, self.out, self.widen, self.narrow))


class TransformerLMDecoder(Decoder):
    """Decodes with a `TransformerLM`. A request's speaker embedding takes the position behind its sos.

    dtype, weights: as in LMDecoder. The first step of a request must bring all of its text, which is encoded as one.
    Projected relative positions are kept for all requests: layers * heads * head_dim values of `dtype` for each that
    was ever reached.
    """

    @torch.no_grad()
    def __init__(
        self,
        lm: TransformerLM,
        slots: int = 8,
        max_len: int = 2048,
        rows: int | None = None,
        dtype: torch.dtype = torch.float32,
        weights: Weights = "float",
        compile: bool = False,
    ) -> None:
        config = lm.config.decoder
        if weights == "int8":
            dtype = torch.bfloat16
        self.lm = lm
        self.heads, self.head_dim = config.heads, config.dim // config.heads
        self.scale = self.head_dim**-0.5
        self.layers = [_Layer(block, dtype, weights) for block in lm.llm.encoders if isinstance(block, Block)]
        shape = (self.heads, self.head_dim, slots, max_len)
        super().__init__(lm.control, lm.llm_decoder, self.layers, *shape, rows, dtype, compile=compile)
        self._past = torch.empty(len(self.layers), self.heads, 0, self.head_dim, dtype=dtype, device=self.device)

        self._fixed_layer = torch.compile(self._attend_and_feed) if compile else self._attend_and_feed
        if compile:
            self._reach(max_len)  # what a recorded step reads stays where it is

    def positions(self, handle: Handle, step: Step) -> int:
        """How many positions a step takes: the first has the speaker's too."""
        return len(step.feed) + (handle.speaker is not None and handle.length == 0)

    def _reach(self, length: int) -> Tensor:
        """Projected relative positions 0, 1, ... (how far a key lies behind), [layers, heads, >= length, head_dim]."""
        while (known := self._past.shape[2]) < length:
            # Always so many at a time: another number of rows might round differently.
            table = sinusoids(known + GROWTH - 1, known, self.heads * self.head_dim, self.device).flip(0)
            new = [
                F.linear(table.to(layer.position.dtype), layer.position).unflatten(-1, (self.heads, -1)).transpose(0, 1)
                for layer in self.layers
            ]
            self._past = torch.cat((self._past, torch.stack(new).to(self.dtype)), dim=2)
        return self._past

    def _embed(self, ids: Sequence[int], speaker: Tensor | None = None) -> Tensor:
        """Ids of a sequence -> float32 [positions, dim], behind the input layer."""
        return self.lm.llm.embed(self.lm.embed(ids, speaker)).float()

    def _normed(self, x: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), *norm, eps=BLOCK_EPS).to(self.dtype)

    def _last_norm(self, x: Tensor) -> Tensor:
        norm = self.lm.llm.after_norm
        return F.layer_norm(x, (x.shape[-1],), norm.weight.float(), norm.bias.float(), norm.eps)

    def _project(self, layer: _Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [n, dim] -> q, k, v, each [n, heads, head_dim]."""
        q, k, v = layer.qkv(self._normed(x, layer.norms[0])).view(len(x), 3, self.heads, self.head_dim).unbind(1)
        return q, k, v

    def _feed_forward(self, layer: _Layer, x: Tensor) -> Tensor:
        return x + layer.narrow(layer.activation(layer.widen(self._normed(x, layer.norms[1]))))

    def _extend(self, handle: Handle, ids: Sequence[int]) -> Tensor:
        x = self._embed(ids, None if handle.length else handle.speaker)
        start, end = handle.length, handle.length + len(x)
        handle.length = end
        behind = self._reach(end)[:, :, :end]
        visible = torch.ones(len(x), end, dtype=torch.bool, device=self.device).tril(start)
        for layer, (keys, values), past in zip(self.layers, self.cache[:, handle.slot], behind, strict=True):
            q, k, v = (part.transpose(0, 1) for part in self._project(layer, x))
            keys[:, start:end] = k
            values[:, start:end] = v
            # What lies ahead is not seen: its positions stand for the order only.
            against = torch.matmul(q + layer.bias_v[:, None], past.flip(1).transpose(1, 2))
            bias = align(F.pad(against, (0, len(x) - 1)), end) * self.scale
            bias = bias.masked_fill(~visible, -torch.inf)
            q = q + layer.bias_u[:, None]
            y = F.scaled_dot_product_attention(
                q[None], keys[None, :, :end], values[None, :, :end], bias[None], scale=self.scale
            )
            x = x + layer.out(y[0].transpose(0, 1).reshape(len(x), -1))
            x = self._feed_forward(layer, x)
        return self._last_norm(x[-1:])[0]

    def _advance(self, handles: Sequence[Handle], ids: Sequence[int]) -> Tensor:
        spare = self.rows - len(handles)
        x = self._embed([*ids, *[0] * spare])
        behind = self._reach(max(handle.length for handle in handles) + 1)
        for layer, cache, past in zip(self.layers, self.cache, behind, strict=True):
            q, k, v = self._project(layer, x)
            turned, plain = q + layer.bias_v, q + layer.bias_u
            attended = []
            for row, handle in enumerate(handles):
                keys, values = cache[handle.slot]
                keys[:, handle.length] = k[row]
                values[:, handle.length] = v[row]
                end = handle.length + 1
                against = torch.bmm(past[:, :end], turned[row, :, :, None])[..., 0].flip(-1) * self.scale
                attended.append(
                    F.scaled_dot_product_attention(
                        plain[row, None, :, None],
                        keys[None, :, :end],
                        values[None, :, :end],
                        against[None, :, None],
                        scale=self.scale,
                    )
                )
            attended += [torch.zeros_like(attended[0])] * spare
            y = attended[0] if self.rows == 1 else torch.cat(attended)
            x = x + layer.out(y.reshape(self.rows, -1))
            x = self._feed_forward(layer, x)
        for handle in handles:
            handle.length += 1
        return self._last_norm(x)

    def _fixed_step(self, ids: Tensor, at: Tensor, slots: Tensor, length: int) -> Tensor:
        x = self.lm.llm.embed(self.lm.embed_speech(ids)).float()
        behind = at[:, None] - torch.arange(length, device=self.device)
        for layer, cache, past in zip(self.layers, self.cache.unbind(), self._past.unbind(), strict=True):
            x = self._fixed_layer(layer, x, cache, past, at, slots, behind)
        return self._last_norm(x)

    def _attend_and_feed(
        self, layer: _Layer, x: Tensor, cache: Tensor, past: Tensor, at: Tensor, slots: Tensor, behind: Tensor
    ) -> Tensor:
        """One layer of `_fixed_step`: x [rows, dim] to the same.

        cache, past: the layer's parts of them; behind: [rows, length], how far a row's keys lie behind its query,
        below 0 where no key is.
        """
        q, k, v = self._project(layer, x)
        cache[slots, :, :, at] = torch.stack((k, v), dim=1)
        keys, values = cache[..., : behind.shape[1], :].index_select(0, slots).unbind(1)
        against = torch.einsum("rhd,hld->rhl", q + layer.bias_v, past[:, : behind.shape[1]])
        far = behind.clamp(min=0)[:, None].expand_as(against)
        bias = (against.gather(-1, far) * self.scale).masked_fill(behind[:, None] < 0, -torch.inf)
        queries = (q + layer.bias_u)[:, :, None]
        y = F.scaled_dot_product_attention(queries, keys, values, bias[:, :, None], scale=self.scale)
        return self._feed_forward(layer, x + layer.out(y.reshape(len(x), -1)))
