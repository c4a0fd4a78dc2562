"""How badly phones are heard in speech tokens: the tokenizer's CTC head for a few dozen tokens, again and again.

What is said is judged block by block, so these few operations are a third of what decoding costs. They compute what
`SpeechTokenizer.nats` does, to rounding, in a third of the time: tables in place of what depends on positions and ids
alone, weights as `Product` holds them, and no padding, as every judgement is alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.engine.products import Product, halves
from fireside.models.speech_tokenizer import Block, SpeechTokenizer, ctc_nats, rotary

LONGEST = 512
"""Tokens for which tables are kept; what is longer goes through the tokenizer itself."""


def _product(linear: nn.Linear) -> Product:
    """A layer's product, its weights rounded to half precision where those are read faster: for a judgement that is
    near enough."""
    weight, bias = linear.weight.detach(), linear.bias
    rounded = weight.half().to(weight.dtype)
    if halves([rounded]):
        return Product([rounded], [bias], weight.dtype, "half")
    return Product([weight], [bias], weight.dtype)


class _Block:
    """A Block of the tokenizer, for one stretch of tokens."""

    def __init__(self, block: Block) -> None:
        self._heads = block.heads
        self._norm_attention, self._norm_conv, self._norm_ff = block.norm_attention, block.norm_conv, block.norm_ff
        self._qkv, self._out, self._conv_out = map(_product, (block.qkv, block.out, block.conv_out))
        up, _, down = block.ff
        assert isinstance(up, nn.Linear)
        assert isinstance(down, nn.Linear)
        self._up, self._down = _product(up), _product(down)
        depthwise = block.depthwise
        assert depthwise.bias is not None
        self._taps, self._bias = depthwise.weight.detach()[:, 0].T.contiguous(), depthwise.bias.detach()

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """x [T, dim] to the same; cos and signed sin [T, 1, 1, head_dim], mask [T, T] added to scores."""
        length, dim = x.shape
        qkv = self._qkv(self._norm_attention(x)).view(length, 3, self._heads, -1)
        turned = qkv[:, :2]
        turned = torch.addcmul(turned * cos, turned.roll(turned.shape[-1] // 2, -1), sin)
        query, key = turned.permute(1, 2, 0, 3)[:, None].unbind()
        mixed = F.scaled_dot_product_attention(query, key, qkv[:, 2].transpose(0, 1)[None], mask)
        x = x + self._out(mixed[0].transpose(0, 1).reshape(length, dim))
        x = x + self._conv_out(F.silu(self._convolved(self._norm_conv(x))))
        return x + self._down(F.silu(self._up(self._norm_ff(x))))

    def _convolved(self, x: Tensor) -> Tensor:
        """The depthwise convolution, tap by tap: for so few tokens a fifth of what a convolution's call costs."""
        taps = len(self._taps)
        padded = F.pad(x, (0, 0, taps // 2, taps // 2))
        out = torch.addcmul(self._bias, padded[: len(x)], self._taps[0])
        for tap in range(1, taps):
            out.addcmul_(padded[tap : tap + len(x)], self._taps[tap])
        return out


class PhoneJudge:
    """See proofread.Judge; with the weights of a tokenizer on the CPU."""

    @torch.inference_mode()
    def __init__(self, tokenizer: SpeechTokenizer) -> None:
        self._tokenizer = tokenizer
        codes = tokenizer.fsq.values(torch.arange(math.prod(tokenizer.config.fsq_levels)))
        self._codes = tokenizer.from_code(codes.to(tokenizer.from_code.weight.dtype))
        self._blocks = [_Block(block) for block in tokenizer.after if isinstance(block, Block)]
        self._norm, self._ctc = tokenizer.norm_ctc, _product(tokenizer.ctc)
        cos, sin = rotary(LONGEST, tokenizer.config.dim // tokenizer.config.heads, codes.device)
        self._cos = torch.cat([cos, cos], -1)[:, None, None]
        self._sin = torch.cat([-sin, sin], -1)[:, None, None]
        places = torch.arange(LONGEST)
        hidden = (places[:, None] - places).abs() > tokenizer.window
        self._mask = torch.zeros(LONGEST, LONGEST).masked_fill_(hidden, -torch.inf)

    @torch.inference_mode()
    def __call__(self, context: Sequence[int], speech: Sequence[int], phones: Sequence[int]) -> float:
        """See SpeechTokenizer.nats."""
        length = len(context) + len(speech)
        if not phones:
            return 0.0
        if length > LONGEST:
            return self._tokenizer.nats(context, speech, phones)
        x = self._codes[torch.tensor([*context, *speech])]
        cos, sin, mask = self._cos[:length], self._sin[:length], self._mask[:length, :length]
        for block in self._blocks:
            x = block(x, cos, sin, mask)
        return ctc_nats(self._ctc(self._norm(x[len(context) :])).log_softmax(-1), phones)
