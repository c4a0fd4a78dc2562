"""Passes of a chunkwise flow at fixed sizes, so that a GPU can be told once what all Euler steps do; see fixed.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.engine.fixed import Recorder, bucket
from fireside.models.dit import chunk_mask

if TYPE_CHECKING:
    from fireside.engine.chunkwise import ChunkwiseFlow, Job

LEAST_CHUNKS = 4  # of a past, when it is rounded up
MOST_CHUNKS = 64  # of the past of a recorded pass
FIXED_BYTES = 2**32
"""Most bytes of keys and values that a recorded pass works on: 24 s of CosyVoice 3 in float32, 47 s in half of it."""


class FixedPasses:
    """Runs passes of one request: its frames are rounded up to 1, 2, 4 ... chunks, its past to 4, 8, 16 ... chunks.

    Keys and values of the past are copied in front of the pass's own, in memory that all passes share, and the new
    ones are copied out; so a request's state is what it is without. A past of more than MOST_CHUNKS, or than
    FIXED_BYTES hold, is not for here. Of at most 4 sizes of passes and 6 of pasts, at most 24 recordings are made.
    """

    def __init__(self, flow: ChunkwiseFlow[Any, Any], pass_chunks: int) -> None:
        self.flow = flow
        self._chunk = flow.config.chunk_frames
        pass_frames = pass_chunks * self._chunk
        room = min(FIXED_BYTES // flow.bytes_per_frame, MOST_CHUNKS * self._chunk + pass_frames)
        self._most = room - pass_frames
        self._pass_frames = pass_frames
        self._recorder = Recorder(flow.device)
        self._passes: dict[tuple[int, int], _Pass] = {}
        self._memory: Tensor | None = None

    def hold(self, job: Job) -> bool:
        """Whether a job's past is short enough, and its voice needs nothing that others do not."""
        return job.start <= self._most and job.state.adaptation is None

    def solve(self, job: Job, x: Tensor, given: Tensor | tuple[Tensor, ...]) -> Tensor:
        """As ChunkwiseFlow.integrate, for one job, whose state gets the new keys and values: [frames, n_mels]."""
        size = bucket(job.frames, self._chunk, self._pass_frames)
        past = bucket(job.start, LEAST_CHUNKS * self._chunk, self._most) if job.start else 0
        parts = given if isinstance(given, tuple) else (given,)
        with self._recorder.lock:
            if (past, size) not in self._passes:
                self._passes[past, size] = _Pass(self.flow, past, size, self._room(), job, parts)
            at_hand = self._passes[past, size]
            at_hand.fill(job, x, parts)
            mel = self._recorder.run((past, size), at_hand.run)[: job.frames].clone()
            at_hand.leave(job)
        return mel

    def _room(self) -> Tensor:
        """Keys and values of the longest past and pass: [2, values]."""
        if self._memory is None:
            flow = self.flow
            frame = flow.bytes_per_frame // 2 // flow.storage.itemsize
            room = frame * (self._most + self._pass_frames)
            self._memory = torch.empty(2, room, dtype=flow.storage, device=flow.device)
        return self._memory


class _Pass:
    """The buffers of one size: what a pass reads, and what it leaves. See Around."""

    def __init__(
        self,
        flow: ChunkwiseFlow[Any, Any],
        past: int,
        size: int,
        memory: Tensor,
        job: Job,
        given: Sequence[Tensor],
    ) -> None:
        self.flow, self.past = flow, past
        shape = (flow.steps * flow.layers, flow.rows * flow.heads, past + size, flow.dim_head)
        self.keys, self.values = (part[: torch.Size(shape).numel()].view(shape) for part in memory)
        self.x = torch.zeros(size, flow.config.n_mels, device=flow.device)
        self.given = [part.new_zeros(part.shape[0], size, *part.shape[2:]) for part in given]
        self.hides = torch.zeros(size, past + size, dtype=flow.dtype, device=flow.device)
        self.tails = [torch.zeros_like(tail) for tail in job.state.tails]
        self.left = [torch.zeros_like(tail) for tail in job.state.tails]
        self.behind = torch.zeros((), dtype=torch.long, device=flow.device)  # frames of the job

    def fill(self, job: Job, x: Tensor, given: Sequence[Tensor]) -> None:
        """Put in what a job starts from. Frames behind its own are anything, and nobody sees them."""
        self.x[: job.frames] = x
        for room, part in zip(self.given, given, strict=True):
            room[:, : job.frames] = part
        for room, tail in zip(self.tails, job.state.tails, strict=True):
            room.copy_(tail)
        self.behind.fill_(job.frames)
        at = 0
        for segment in job.state.segments:
            for room, kept in zip((self.keys, self.values), segment.room, strict=True):
                room[:, :, at : at + segment.length] = kept[:, :, : segment.length]
            at += segment.length
        for room in (self.keys, self.values):
            room[:, :, at : self.past].zero_()  # weighed by 0, so it must be a number
        self.hides.fill_(-torch.inf)
        self.hides[:, :at] = 0
        own = self.hides[:, self.past :]
        visible = chunk_mask(job.start, job.stop, self.flow.config.chunk_frames, self.hides.device)[:, job.start :]
        own[: job.frames, : job.frames].masked_fill_(visible, 0)
        own[job.frames :] = 0  # frames that see nothing would be no numbers

    def run(self) -> Tensor:
        """All Euler steps."""
        given = self.given[0] if len(self.given) == 1 else tuple(self.given)
        return self.flow.integrate(self.x, given, self)

    def leave(self, job: Job) -> None:
        """Take out what the job's state becomes."""
        segment = job.state.segments[-1]
        filled = slice(segment.length, segment.length + job.frames)
        for room, kept in zip((self.keys, self.values), segment.room, strict=True):
            kept[:, :, filled] = room[:, :, self.past : self.past + job.frames]
        for tail, left in zip(job.tails, self.left, strict=True):
            tail.copy_(left)

    def convolve(self, conv: nn.Conv1d, x: Tensor, step: int) -> Tensor:
        """See Around."""
        index, past = self.flow.place(conv), self.flow.convolutions[conv]
        joined = torch.cat([self.tails[index][step], x.to(conv.weight.dtype)], dim=1)
        last = self.behind + torch.arange(past, device=x.device)
        self.left[index][step] = joined.index_select(1, last)
        return self.flow.mix(conv, joined)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, index: int) -> Tensor:
        """See Around."""
        rows, heads, _, dim = query.shape
        keys, values = (room[index].view(rows, heads, -1, dim) for room in (self.keys, self.values))
        keys[:, :, self.past :] = key
        values[:, :, self.past :] = value
        keys, values = self.flow.computable(keys), self.flow.computable(values)
        mixed = F.scaled_dot_product_attention(query, keys, values, self.hides, scale=self.flow.scale)
        return mixed.transpose(1, 2).flatten(2)
