"""Decoding with the LM for several requests at once, over a cache of keys and values that is allocated once.

A request takes a slot of the cache when it is admitted and gives it back when it is released; requests join
and leave at every step. What a request says is bitwise the same alone and among others: a row's own text is
fed in products of its own, its attention reads its own keys, and the products that rows share always have
the same number of rows, because a matrix product may round differently for another number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fireside.engine.sampling import Sampler
from fireside.errors import FiresideError, TextError
from fireside.models.lm import LM
from fireside.models.qwen2 import DecoderLayer, rotary_table
from fireside.models.turns import Event, Machine, Ranges, Step

SMALL = 64 * 2**20
"""Below so many bytes of weights (they stay in the processor's cache), rows are fastest one by one."""


@dataclass(eq=False)
class Handle:
    """A request in the decoder: its slot, how much of it is filled, and who decides what comes next."""

    slot: int
    machine: Machine
    sampler: Sampler
    length: int = 0


Decoded = int | Event | FiresideError


class _Layer:
    """The weights of one layer, with the products that read the same input joined."""

    def __init__(self, layer: DecoderLayer, dtype: torch.dtype) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv = torch.cat([part.weight for part in parts]).to(dtype)
        self.qkv_bias = torch.cat([part.bias for part in parts]).to(dtype)
        self.out = attention.o_proj.weight.detach().to(dtype)
        self.gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).to(dtype)
        self.down = mlp.down_proj.weight.detach().to(dtype)
        self.norm = layer.input_layernorm.weight.detach().float()
        self.norm_mlp = layer.post_attention_layernorm.weight.detach().float()


class LMDecoder:
    """Decodes up to `slots` requests of up to `max_len` positions each (text, control ids and speech
    together).

    rows: how many rows a shared matrix product has; 1 for small models, more where reading the weights is
    what costs. The cache takes layers * 2 * slots * kv_heads * max_len * head_dim * 4 bytes.
    """

    @torch.inference_mode()
    def __init__(
        self,
        lm: LM,
        slots: int = 8,
        max_len: int = 2048,
        rows: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        config = lm.config
        self.control = lm.control
        self.max_len = max_len
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.hidden_size // config.num_heads
        self.eps = config.rms_norm_eps
        self.dtype = dtype
        stack = lm.decoder
        self.text_table = stack.embed_tokens.weight.detach()
        self.speech_table = lm.speech_embedding.weight.detach()
        self.head = lm.llm_decoder.weight.detach().to(dtype)
        self.norm = stack.norm.weight.detach().float()
        self.layers = [_Layer(layer, dtype) for layer in stack.layers if isinstance(layer, DecoderLayer)]
        weight_bytes = sum(w.nbytes for layer in self.layers for w in (layer.qkv, layer.out, layer.gate_up, layer.down))
        self.rows = rows or (1 if weight_bytes < SMALL else 4)
        device = self.head.device
        shape = (len(self.layers), 2, slots, self.kv_heads, max_len, self.head_dim)
        # Not zeroed: what a request does not reach never becomes resident memory.
        self.cache = torch.empty(shape, dtype=dtype, device=device)
        cos, sin = rotary_table(max_len, self.head_dim, config.rope_theta)
        self.cos = torch.cat([cos, cos], -1).to(device)[:, None]
        self.sin = torch.cat([-sin, sin], -1).to(device)[:, None]
        self._free = list(range(slots))
        self._handles: dict[Handle, None] = {}
        self._masks: dict[Ranges, Tensor] = {}

    @property
    def free_slots(self) -> int:
        """How many more requests can be admitted now."""
        return len(self._free)

    def admit(self, machine: Machine, sampler: Sampler) -> Handle:
        """Take a request in; it is decoded from the next step on. The caller checks `free_slots` first."""
        handle = Handle(self._free.pop(), machine, sampler)
        self._handles[handle] = None
        return handle

    def release(self, handle: Handle) -> None:
        """Free the request's slot, at whatever point it is; releasing twice does nothing."""
        if handle in self._handles:
            del self._handles[handle]
            self._free.append(handle.slot)

    @torch.inference_mode()
    def step(self) -> list[tuple[Handle, Decoded]]:
        """One id for every request that is not done and not waiting for text.

        A request that outgrows its slot yields a TextError in place of an id; it must be released.
        """
        decoded: list[tuple[Handle, Decoded]] = []
        single: list[tuple[Handle, Step]] = []
        hidden: list[tuple[Handle, Step, Tensor]] = []
        for handle in self._handles:
            step = handle.machine.next()
            if step is None:
                continue
            if handle.length + len(step.feed) > self.max_len:
                decoded.append((handle, self._too_long()))
            elif len(step.feed) == 1:
                single.append((handle, step))
            else:
                hidden.append((handle, step, self._extend(handle, step.feed)))
        for start in range(0, len(single), self.rows):
            group = single[start : start + self.rows]
            states = self._advance([handle for handle, _ in group], [step.feed[0] for _, step in group])
            hidden += [(handle, step, states[i]) for i, (handle, step) in enumerate(group)]
        for handle, step, state in hidden:
            token = step.forced
            if token is None:
                token = handle.sampler(self.scores(state, step.banned), handle.machine.history)
            decoded.append((handle, handle.machine.accept(token)))
        return decoded

    def _too_long(self) -> TextError:
        return TextError(
            f"The text and its speech need more than the {self.max_len} positions this model is loaded with; "
            "split the text into shorter parts, or use a shorter prompt."
        )

    def scores(self, state: Tensor, banned: Ranges) -> Tensor:
        """Log-probabilities [vocab] after a hidden state [hidden]; banned ids are -inf, the rest kept."""
        scores = torch.mv(self.head, state.to(self.dtype)).float().log_softmax(0)
        return scores + self._mask(banned) if banned else scores

    def _mask(self, banned: Ranges) -> Tensor:
        if banned not in self._masks:
            mask = self.head.new_zeros(self.head.shape[0], dtype=torch.float32)
            for first, end in banned:
                mask[first:end] = -torch.inf
            self._masks[banned] = mask
        return self._masks[banned]

    def _embed(self, ids: Sequence[int]) -> Tensor:
        """Ids of a sequence -> float32 [len(ids), hidden]."""
        device = self.head.device
        index = torch.tensor(ids, device=device)
        if min(ids) >= 0:
            return self.speech_table[index].float()
        speech = self.speech_table[index.clamp(min=0)]
        text = self.text_table[(~index).clamp(min=0)]
        return torch.where((index < 0)[:, None], text, speech).float()

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps).to(self.dtype)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotary positions; x [rows, heads, head_dim], cos and signed sin [rows, 1, head_dim]."""
        x = x.float()
        return torch.addcmul(x * cos, x.roll(self.head_dim // 2, -1), sin).to(self.dtype)

    def _mlp(self, layer: _Layer, x: Tensor) -> Tensor:
        gate, up = F.linear(self._normed(x, layer.norm_mlp), layer.gate_up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, layer.down)

    def _project(self, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [n, hidden] -> q [n, heads, dim], k and v [n, kv_heads, dim]; q and k turned."""
        qkv = F.linear(self._normed(x, layer.norm), layer.qkv, layer.qkv_bias)
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
            x = x + F.linear(y[0].transpose(0, 1).reshape(len(ids), -1), layer.out)
            x = self._mlp(layer, x)
        return self._normed(x[-1:], self.norm)[0]

    def _advance(self, handles: Sequence[Handle], ids: Sequence[int]) -> Tensor:
        """Feed one id to each request; hidden states [self.rows, hidden], the requests' first."""
        spare = self.rows - len(handles)
        positions = [handle.length for handle in handles]
        at = torch.tensor([*positions, *[0] * spare], device=self.head.device)
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
            x = x + F.linear(y.reshape(self.rows, -1), layer.out)
            x = self._mlp(layer, x)
        for handle in handles:
            handle.length += 1
        return self._normed(x, self.norm)
