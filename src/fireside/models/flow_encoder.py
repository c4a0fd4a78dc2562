"""The encoder of CosyVoice 2's flow: token embeddings at 25 Hz to features at 50 Hz.

Look-ahead layer, transformer blocks, each position doubled and mixed by a causal convolution, more blocks. Under the
chunk mask it runs in pieces: keys and values of every block and the last positions before the doubling are the whole
past. Parameter names are the official ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.models.config import UpsamplingFlowConfig
from fireside.models.conformer import Block, InputLayer, KeysValues, attention_mask, relative_positions
from fireside.models.dit import chunk_mask
from fireside.models.lookahead import LookaheadLayer

FACTOR = 2
KERNEL = 2 * FACTOR + 1


class Doubling(nn.Module):
    """Repeats every position, then convolves causally."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, KERNEL)

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """x [batch, tokens, dim] to [batch, 2 * tokens, dim]; before: the two positions before x, None at the start."""
        if before is None:
            before = x.new_zeros(x.shape[0], FACTOR, x.shape[2])
        return self.conv(torch.cat([before, x], dim=1).mT.repeat_interleave(FACTOR, dim=2)).mT


@dataclass(frozen=True)
class EncoderPast:
    """What later pieces need of earlier ones; never changed, so that forks share it.

    tokens, frames: keys and values of the blocks before and behind the doubling; last: the two positions before it,
    [1, 2, dim].
    """

    tokens: tuple[KeysValues, ...]
    frames: tuple[KeysValues, ...]
    last: Tensor

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.last.nbytes + sum(part.nbytes for pair in (*self.tokens, *self.frames) for part in pair)


class UpsamplingEncoder(nn.Module):
    """Features at twice the rate; every position sees `pre_lookahead_len` tokens ahead."""

    def __init__(self, config: UpsamplingFlowConfig) -> None:
        super().__init__()
        encoder = config.encoder
        self.dim, self.chunk = encoder.dim, encoder.chunk
        self.embed = InputLayer(encoder)
        self.pre_lookahead_layer = LookaheadLayer(encoder.dim, encoder.dim, config.pre_lookahead_len)
        self.encoders = nn.ModuleList(Block(encoder) for _ in range(encoder.layers))
        self.up_layer = Doubling(encoder.dim)
        self.up_embed = InputLayer(encoder, encoder.dim)
        self.up_encoders = nn.ModuleList(Block(encoder) for _ in range(config.up_layers))
        self.after_norm = nn.LayerNorm(encoder.dim, eps=1e-5)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, context: Tensor | None = None, chunked: bool = False
    ) -> Tensor:
        """Token embeddings [batch, tokens, input_dim] to features [batch, 2 * tokens, dim].

        valid: bool [batch, tokens], False where a row is padded, or None; context: the embeddings of the tokens that
        follow, [batch, pre_lookahead_len, input_dim], None at the end of speech; chunked: apply the chunk mask.
        """
        ahead = None if context is None else self.embed(context)
        x = self.pre_lookahead_layer(self.embed(x), ahead)
        x = self._blocks(self.encoders, x, valid, self.chunk if chunked else 0)
        x = self.up_embed(self.up_layer(x))
        valid = None if valid is None else valid.repeat_interleave(FACTOR, dim=1)
        return self.after_norm(self._blocks(self.up_encoders, x, valid, FACTOR * self.chunk if chunked else 0))

    def _blocks(self, blocks: nn.ModuleList, x: Tensor, valid: Tensor | None, chunk: int) -> Tensor:
        """All of x [batch, length, dim] through the blocks at once."""
        length = x.shape[1]
        mask = attention_mask(length, chunk, valid, x.device)
        positions = relative_positions(length, length, self.dim, x.device)
        for block in blocks:
            x, _ = block(x, positions, mask)
        return x

    def piece(self, x: Tensor, before: int, tokens: int, past: EncoderPast | None) -> tuple[Tensor, EncoderPast]:
        """The features of `tokens` positions that follow `past`: [1, 2 * tokens, dim], and the past of the next piece.

        x: embeddings [1, before + tokens + what follows, input_dim]; before: as in LookaheadLayer.piece; what follows
        are `pre_lookahead_len` tokens, or as many as there are at the end of speech. Pieces begin at whole chunks.
        """
        x = self.embed(x)
        missing = before + tokens + self.pre_lookahead_layer.lookahead - x.shape[1]
        x = self.pre_lookahead_layer.piece(F.pad(x, (0, 0, 0, missing)), before, tokens)
        x, token_past = self._continue(self.encoders, x, None if past is None else past.tokens, self.chunk)
        last = x.new_zeros(1, FACTOR, self.dim) if past is None else past.last
        y = self.up_embed(self.up_layer(x, last))
        y, frame_past = self._continue(self.up_encoders, y, None if past is None else past.frames, FACTOR * self.chunk)
        last = torch.cat([last, x], dim=1)[:, -FACTOR:].clone()
        return self.after_norm(y), EncoderPast(token_past, frame_past, last)

    def _continue(
        self, blocks: nn.ModuleList, x: Tensor, past: tuple[KeysValues, ...] | None, chunk: int
    ) -> tuple[Tensor, tuple[KeysValues, ...]]:
        """x [1, length, dim], which follows `past`, through the blocks; and the past with x in it."""
        start = 0 if past is None else past[0][0].shape[2]
        stop = start + x.shape[1]
        mask = chunk_mask(start, stop, chunk, x.device) if x.shape[1] > chunk else None
        positions = relative_positions(x.shape[1], stop, self.dim, x.device)
        kept = []
        for index, block in enumerate(blocks):
            x, seen = block(x, positions, mask, None if past is None else past[index])
            kept.append(seen)
        return x, tuple(kept)
