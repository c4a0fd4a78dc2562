"""A flow in pieces: each chunk of mel costs a chunk, not the whole past.

Under the chunk mask a frame sees its own chunk and everything before it. So what later chunks need of earlier
ones is kept: keys and values of every layer at every Euler step for both guidance rows, the last inputs of causal
convolutions, and the token encoder's past. Chunks are counted from the first frame of the prompt. A chunk is
computed when all its tokens and the tokens they look ahead to are there, or at the end of speech, when the
rest is computed under the same mask. The joined chunks therefore equal `ChunkedFlow.inference(..., chunked=True)`
up to float rounding.

Several requests advance in one call. Their frames lie one after another in one matrix for everything that
works frame by frame; attention runs for each request over its own past, so that no row is padded and none
sees a neighbour.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.engine.fixed_flow import FixedPasses
from fireside.engine.noise import start_noise
from fireside.models.config import ChunkedFlowConfig
from fireside.models.dit import chunk_mask
from fireside.models.flow_encoder import EncoderPast
from fireside.models.linear import linear
from fireside.models.lookahead import LOOKAHEAD_HISTORY
from fireside.models.matching import ChunkedFlow, euler_times, time_grid

FIRST_SEGMENT = 4  # chunks; each further segment is twice as long, up to LAST_SEGMENT
LAST_SEGMENT = 16
SEGMENT_BYTES = 1 << 30  # a segment of several chunks is no larger
PAGE_BYTES = 4096
PASS_CHUNKS = 8  # most chunks of one request that are computed at once


@dataclass
class Segment:
    """Keys and values of a stretch of frames.

    keys, values: one tensor for each Euler step and layer, [rows * heads, capacity, dim_head]; the first
    `length` frames are filled. Filled frames never change, so forks of a state share segments. room: all keys, and all
    values, as the one tensor that they are views of, [steps * layers, rows * heads, capacity, dim_head].
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    room: tuple[Tensor, Tensor]
    length: int
    nbytes: int

    @property
    def capacity(self) -> int:
        """Frames there is room for."""
        return self.keys[0].shape[1]


@dataclass
class FlowState:
    """One request's past. Made by ChunkwiseFlow.start; advanced by ChunkwiseFlow.append.

    tokens: ids that are still needed, the first of them at token index `first_token`; frames: mel frames
    computed so far, those of the prompt included; prompt: normalised mel [n_mels, frames of the prompt];
    speaker: the condition [n_mels]; adaptation: of the voice, or None; tails: the last inputs of the estimator's causal
    convolutions, each [steps, rows, kernel - 1, channels]; encoded: the past of the token encoder, where it has
    attention; shared: how many of the segments belong to the state this one was forked from.
    """

    tokens: Tensor
    first_token: int
    frames: int
    prompt: Tensor
    speaker: Tensor
    adaptation: Tensor | None
    tails: tuple[Tensor, ...]
    encoded: EncoderPast | None = None
    segments: list[Segment] = field(default_factory=list)
    shared: int = 0
    finished: bool = False

    def fork(self) -> FlowState:
        """A second continuation of the same past, at no cost; neither notices what the other appends."""
        segments = [replace(segment) for segment in self.segments]
        return replace(self, segments=segments, shared=len(segments))

    @property
    def nbytes(self) -> int:
        """Bytes this state holds on its own, without the segments it shares with its origin."""
        encoded = 0 if self.encoded is None else self.encoded.nbytes
        segments = sum(segment.nbytes for segment in self.segments[self.shared :])
        return encoded + segments + sum(tail.nbytes for tail in self.tails)


@dataclass
class Job:
    """One request's share of a pass: the frames start..stop, at `offset` in the joined matrix.

    hides: added to the scores among the job's own frames, [frames, frames], when they span several chunks; tails:
    what the state's become, filled step by step; encoded: likewise.
    """

    state: FlowState
    start: int
    stop: int
    offset: int
    hides: Tensor | None
    tails: tuple[Tensor, ...]
    encoded: EncoderPast | None = None

    @property
    def frames(self) -> int:
        """How many frames."""
        return self.stop - self.start

    @property
    def place(self) -> slice:
        """Where they lie in the joined matrix."""
        return slice(self.offset, self.offset + self.frames)


class Around(Protocol):
    """What the frames of a pass see beside themselves: the past of those they belong to."""

    def convolve(self, conv: nn.Conv1d, x: Tensor, step: int) -> Tensor:
        """A causal convolution over frames behind their past: [rows, frames, channels] to the same.

        Notes what the next pass needs.
        """

    def attend(self, query: Tensor, key: Tensor, value: Tensor, index: int) -> Tensor:
        """Attention over the whole past and the frames' own chunk: [rows, frames, heads * dim_head].

        query, key, value: [rows, heads, frames, dim_head]; index: step * layers + layer.
        """


ChunkedModule = TypeVar("ChunkedModule", bound=ChunkedFlow[Any])
Given = TypeVar("Given", bound=Tensor | tuple[Tensor, ...])


class ChunkwiseFlow(ABC, Generic[ChunkedModule, Given]):
    """Runs a flow chunk by chunk with a fixed number of Euler steps; subclasses know its networks.

    Holds nothing of any request. A state costs, for a second of audio (prompt included), `mel_rate * steps *
    layers * rows * 2 * heads * dim_head * bytes per value` bytes, where rows is 2 with guidance and 1 without. With
    10 steps in float32 that is 16.4 MB in hearth (8 layers, 4 x 64 channels), 229 MB in CosyVoice 2 (56 layers, 8 x
    64) and 180 MB in CosyVoice 3 (22 layers, 16 x 64). See `bytes_per_frame`.

    compile: passes run at fixed sizes, recorded on a GPU (see FixedPasses), one request after another.

    config: of the flow; steps, cfg_rate: None for the model's own; layers, heads, dim_head: the estimator's
    attention; dtype: what it computes in; storage: what keys and values are kept in, None for the same;
    convolutions: the estimator's causal convolutions, and how many of their last inputs each needs again.
    """

    def __init__(
        self,
        flow: ChunkedModule,
        config: ChunkedFlowConfig,
        steps: int | None,
        cfg_rate: float | None,
        *,
        layers: int,
        heads: int,
        dim_head: int,
        dtype: torch.dtype,
        storage: torch.dtype | None,
        convolutions: Mapping[nn.Conv1d, int],
        compile: bool,
    ) -> None:
        self.flow = flow
        self.config = config
        self.steps = config.steps if steps is None else steps
        self.cfg_rate = config.cfg_rate if cfg_rate is None else cfg_rate
        self.rows = 2 if self.cfg_rate > 0 else 1
        self.layers, self.heads, self.dim_head = layers, heads, dim_head
        self.dtype = dtype
        self.storage = dtype if storage is None else storage
        self.scale = dim_head**-0.5
        self.device = flow.spk_embed_affine_layer.weight.device
        self.convolutions = convolutions
        # Of every convolution its number, and its kernel [out, kernel * in] where one product over frames can do it.
        self._places = {
            conv: (place, conv.weight.detach().mT.flatten(1) if conv.groups == 1 else None)
            for place, conv in enumerate(convolutions)
        }
        times, widths = euler_times(time_grid(self.steps))
        self._times = times.to(self.device)
        self._widths: list[float] = widths.tolist()
        self._fixed = FixedPasses(self, PASS_CHUNKS) if compile else None

    @abstractmethod
    def _conditions(self, jobs: Sequence[Job]) -> Given:
        """What the estimator is given beside the noisy mel, of all jobs' frames, which are the second dimension of each
        tensor; notes `job.encoded`."""

    @abstractmethod
    def _velocity(self, x: Tensor, given: Given, around: Around, step: int) -> Tensor:
        """The estimator's answer to normalised mel x [frames, n_mels] at a step: float32 [rows, frames, n_mels]."""

    @property
    def bytes_per_frame(self) -> int:
        """What one mel frame adds to a state."""
        return self.steps * self.layers * self.rows * 2 * self.heads * self.dim_head * self.storage.itemsize

    @torch.inference_mode()
    def start(
        self, prompt_tokens: Tensor, prompt_mel: Tensor, embedding: Tensor, adaptation: Tensor | None = None
    ) -> FlowState:
        """A request's state after its prompt, whose whole chunks are computed at once.

        prompt_tokens [P]; prompt_mel [n_mels, P * token_mel_ratio], natural log; embedding [speaker_dim]. No
        prompt is P = 0. adaptation: what a voice adds to the biases of the adaptive norms, for a flow that has them
        (engine/adaptation.py). Keep the state of a voice and give each request a `fork()` of it.
        """
        config = self.config
        count, frames = prompt_tokens.numel(), prompt_mel.shape[1]
        if frames != count * config.token_mel_ratio:
            raise ValueError(
                f"a prompt of {count} tokens has {count * config.token_mel_ratio} mel frames, not {frames}"
            )
        state = FlowState(
            tokens=prompt_tokens.to(self.device, torch.long),
            first_token=0,
            frames=0,
            prompt=self.flow.normalise(prompt_mel.to(self.device, torch.float32)),
            speaker=self.flow.speaker(embedding.to(self.device)[None])[0],
            adaptation=None if adaptation is None else adaptation.to(self.device),
            tails=tuple(
                torch.zeros(self.steps, self.rows, past, conv.in_channels, dtype=self.dtype, device=self.device)
                for conv, past in self.convolutions.items()
            ),
        )
        self._advance([state], [False])
        return state

    @torch.inference_mode()
    def append(self, states: Sequence[FlowState], tokens: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
        """Give every state its new tokens [T] and return the mel [n_mels, frames] that became computable.

        Natural log, without the prompt's frames; frames may be 0. `final` ends a request: all its remaining
        frames are returned and its memory is freed.
        """
        for state, new in zip(states, tokens, strict=True):
            if state.finished:
                raise ValueError("this flow state has ended; start another one")
            state.tokens = torch.cat([state.tokens, new.to(self.device, torch.long)])
        mels = self._advance(states, final)
        for state, last in zip(states, final, strict=True):
            if last:
                state.finished, state.segments, state.shared = True, [], 0
                state.tails, state.encoded = (), None
        return mels

    def _advance(self, states: Sequence[FlowState], final: Sequence[bool]) -> list[Tensor]:
        """Compute all that can be computed, in passes of at most PASS_CHUNKS chunks a request."""
        config = self.config
        mels: list[list[Tensor]] = [[] for _ in states]
        while True:
            jobs: list[Job] = []
            owners: list[int] = []
            offset = 0
            for index, (state, last) in enumerate(zip(states, final, strict=True)):
                tokens = state.first_token + state.tokens.numel()
                if not last:
                    tokens -= config.pre_lookahead_len
                    tokens -= tokens % config.chunk_tokens
                limit = state.frames // config.token_mel_ratio + PASS_CHUNKS * config.chunk_tokens
                stop = min(tokens, limit) * config.token_mel_ratio
                if stop > state.frames:
                    jobs.append(self._job(state, stop, offset))
                    owners.append(index)
                    offset += stop - state.frames
            if not jobs:
                break
            joined = self._solve(jobs)
            for index, job in zip(owners, jobs, strict=True):
                skip = min(job.frames, max(0, job.state.prompt.shape[1] - job.start))
                mels[index].append(joined[:, job.offset + skip : job.offset + job.frames])
        empty = torch.zeros(config.n_mels, 0, device=self.device)
        return [self.flow.denormalise(torch.cat(parts, dim=1)) if parts else empty for parts in mels]

    def _job(self, state: FlowState, stop: int, offset: int) -> Job:
        """Plan the frames up to `stop`, with room for their keys and values."""
        frames = stop - state.frames
        chunk = self.config.chunk_frames
        own = state.segments[state.shared :]
        if not own or own[-1].capacity - own[-1].length < frames:
            # A voice's segments are filled to the brim, since its forks go on in segments of their own.
            in_prompt = not state.shared and state.frames < state.prompt.shape[1]
            chunks = min(LAST_SEGMENT, FIRST_SEGMENT << len(own), SEGMENT_BYTES // (chunk * self.bytes_per_frame))
            room = max(frames, 0 if in_prompt else chunk * chunks)
            # Nobody waits for a fork that only completes the prompt, as for the chunk behind it.
            opening = not in_prompt and stop <= state.prompt.shape[1]
            state.segments.append(self._segment(room, min(room, frames + chunk) if opening else 0))
        hides = None
        if frames > chunk:
            visible = chunk_mask(state.frames, stop, chunk, self.device)[:, state.frames :]
            hides = torch.zeros(visible.shape, device=self.device).masked_fill_(~visible, float("-inf"))
        tails = tuple(torch.empty_like(tail) for tail in state.tails)
        return Job(state, state.frames, stop, offset, hides, tails)

    def _segment(self, capacity: int, touched: int) -> Segment:
        """Room for keys and values of `capacity` frames.

        The first `touched` of them are written to at once: a system hands out memory at the first write, page by page,
        which costs a chunk of CosyVoice 2 some 70 ms.
        """
        shape = (self.steps * self.layers, self.rows * self.heads, capacity, self.dim_head)
        keys, values = (torch.empty(shape, dtype=self.storage, device=self.device) for _ in range(2))
        if touched and self.device.type == "cpu":
            step = max(1, PAGE_BYTES // (self.dim_head * self.storage.itemsize))
            for room in (keys, values):
                room[:, :, [*range(0, touched, step), touched - 1], 0] = 0
        return Segment(keys.unbind(), values.unbind(), (keys, values), 0, keys.nbytes + values.nbytes)

    def _solve(self, jobs: Sequence[Job]) -> Tensor:
        """Euler steps for the jobs' frames: normalised mel [n_mels, all frames]; the states are advanced."""
        if self._fixed is not None and len(jobs) > 1:
            return torch.cat([self._solve([replace(job, offset=0)]) for job in jobs], dim=1)
        noise = [start_noise(self.config, job.start, job.stop) for job in jobs]
        x = torch.cat(noise, dim=1).T.to(self.device).contiguous()
        given = self._conditions(jobs)
        if self._fixed is not None and self._fixed.hold(jobs[0]):
            x = self._fixed.solve(jobs[0], x, given)
        else:
            x = self.integrate(x, given, Joined(self, jobs))
        for job in jobs:
            self._commit(job)
        return x.T

    def integrate(self, x: Tensor, given: Given, around: Around) -> Tensor:
        """All Euler steps from noise x [frames, n_mels] to normalised mel of the same shape."""
        for step, width in enumerate(self._widths):
            velocity = self._velocity(x, given, around, step)
            if self.rows == 2:
                guided = torch.lerp(velocity[1], velocity[0], 1 + self.cfg_rate)
            else:
                guided = velocity[0]
            x = x.add(guided, alpha=width)
        return x

    def _window(self, job: Job) -> tuple[Tensor, int]:
        """Embeddings of the tokens that the job's features come from, and how many of them lie before it.

        [1, before + tokens + what follows, dim]; fewer follow than the look-ahead when speech ends there.
        """
        ratio, ahead = self.config.token_mel_ratio, self.config.pre_lookahead_len
        start, stop = job.start // ratio, job.stop // ratio
        before = min(LOOKAHEAD_HISTORY, start)
        first = job.state.first_token
        return self.flow.embed(job.state.tokens[start - before - first : stop + ahead - first])[None], before

    def place(self, conv: nn.Conv1d) -> int:
        """The number of a convolution among the tails of a state."""
        return self._places[conv][0]

    def mix(self, conv: nn.Conv1d, joined: Tensor) -> Tensor:
        """A convolution without padding: [rows, past + frames, channels] to [rows, frames, new channels]."""
        kernel = self._places[conv][1]
        if kernel is None:
            return F.conv1d(joined.mT, conv.weight, conv.bias, groups=conv.groups).mT
        return linear(joined.unfold(1, conv.kernel_size[0], 1).mT.flatten(2), kernel, conv.bias)

    def computable(self, kept: Tensor) -> Tensor:
        """Keys or values in the type that is computed in."""
        return kept if self.storage == self.dtype else kept.to(self.dtype)

    def _commit(self, job: Job) -> None:
        """Make a computed pass part of the request's past, and forget tokens that nothing needs."""
        state = job.state
        state.frames = job.stop
        state.tails, state.encoded = job.tails, job.encoded
        state.segments[-1].length += job.frames
        keep = max(0, job.stop // self.config.token_mel_ratio - LOOKAHEAD_HISTORY)
        state.tokens = state.tokens[keep - state.first_token :]
        state.first_token = keep


class Joined:
    """The frames of several requests, which lie one after another, each behind its own past; see Around."""

    def __init__(self, flow: ChunkwiseFlow[Any, Any], jobs: Sequence[Job]) -> None:
        self.flow, self.jobs = flow, jobs

    def convolve(self, conv: nn.Conv1d, x: Tensor, step: int) -> Tensor:
        """See Around."""
        index, past = self.flow.place(conv), self.flow.convolutions[conv]
        x = x.to(conv.weight.dtype)
        pieces: list[Tensor] = []
        for job in self.jobs:
            joined = torch.cat([job.state.tails[index][step], x[:, job.place]], dim=1)
            job.tails[index][step] = joined[:, joined.shape[1] - past :]
            pieces.append(joined)
        # One convolution over all jobs; what it computes across the borders is cut out.
        mixed = self.flow.mix(conv, pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1))
        if len(pieces) > 1:
            wanted = [mixed[:, job.offset + i * past :][:, : job.frames] for i, job in enumerate(self.jobs)]
            mixed = torch.cat(wanted, dim=1)
        return mixed

    def attend(self, query: Tensor, key: Tensor, value: Tensor, index: int) -> Tensor:
        """See Around."""
        mixed = [
            self._attend(query[:, :, job.place], key[:, :, job.place], value[:, :, job.place], job, index)
            for job in self.jobs
        ]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, job: Job, index: int) -> Tensor:
        """One job's share of `attend`.

        Keys and values are written behind the job's earlier ones; the past lies in several segments, whose scores
        share one softmax.
        """
        rows, heads, frames, dim = query.shape
        query = query.reshape(rows * heads, frames, dim)
        segments = job.state.segments
        current = segments[-1]
        filled = current.length + frames
        for kept, new in ((current.keys[index], key), (current.values[index], value)):
            kept.view(rows, heads, -1, dim)[:, :, current.length : filled] = new
        lengths = [segment.length for segment in segments[:-1]] + [filled]
        scores: list[Tensor] = []
        for segment, length in zip(segments, lengths, strict=True):
            keys = self.flow.computable(segment.keys[index][:, :length])
            # The product's own factor costs nothing; with a beta of 0 it does not read what it writes to.
            room = query.new_empty(rows * heads, frames, length)
            scores.append(room.baddbmm_(query, keys.mT, beta=0, alpha=self.flow.scale))
        if job.hides is not None:
            scores[-1][:, :, current.length :] += job.hides
        weights = (torch.cat(scores, dim=-1) if len(scores) > 1 else scores[0]).softmax(dim=-1)
        mixed: Tensor | None = None
        shares = weights.split(lengths, dim=2) if len(lengths) > 1 else (weights,)
        for segment, length, share in zip(segments, lengths, shares, strict=True):
            values = self.flow.computable(segment.values[index][:, :length])
            mixed = torch.bmm(share, values) if mixed is None else mixed.baddbmm_(share, values)
        assert mixed is not None
        return mixed.view(rows, heads, frames, dim).transpose(1, 2).flatten(2)
