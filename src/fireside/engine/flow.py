"""The flow in pieces: each chunk of mel costs a chunk, not the whole past.

Under the chunk mask a frame sees its own chunk and everything before it. So what later chunks need of earlier
ones is kept: keys and values of every layer at every Euler step for both guidance rows, and the last frames
before the two causal position convolutions. Chunks are counted from the first frame of the prompt. A chunk is
computed when all its tokens and the tokens they look ahead to are there, or at the end of speech, when the
rest is computed under the same mask. The joined chunks therefore equal `CausalFlow.inference(...,
chunked=True)` up to float rounding.

Several requests advance in one call. Their frames lie one after another in one matrix for everything that
works frame by frame; attention runs for each request over its own past, so that no row is padded and none
sees a neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fireside.engine.noise import start_noise
from fireside.models.dit import NORM_EPS, chunk_mask
from fireside.models.flow import LOOKAHEAD_HISTORY, CausalFlow, euler_times, time_grid

FIRST_SEGMENT = 4  # chunks; each further segment is twice as long, up to LAST_SEGMENT
LAST_SEGMENT = 16
PASS_CHUNKS = 8  # most chunks of one request that are computed at once


@dataclass
class Segment:
    """Keys and values of a stretch of frames.

    keys, values: one tensor for each Euler step and layer, [rows, heads, capacity, dim_head]; the first
    `length` frames are filled. Filled frames never change, so forks of a state share segments.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    length: int
    nbytes: int

    @property
    def capacity(self) -> int:
        """Frames there is room for."""
        return self.keys[0].shape[2]


@dataclass
class FlowState:
    """One request's past. Made by IncrementalFlow.start; advanced by IncrementalFlow.append.

    tokens: ids that are still needed, the first of them at token index `first_token`; frames: mel frames
    computed so far, those of the prompt included; prompt: normalised mel [n_mels, frames of the prompt];
    speaker: the condition [n_mels]; tails: inputs of the two position convolutions, each [steps, rows, dim,
    kernel - 1]; shared: how many of the segments belong to the state this one was forked from.
    """

    tokens: Tensor
    first_token: int
    frames: int
    prompt: Tensor
    speaker: Tensor
    tails: tuple[Tensor, Tensor] | None
    segments: list[Segment] = field(default_factory=list)
    shared: int = 0
    finished: bool = False

    def fork(self) -> FlowState:
        """A second continuation of the same past, at no cost; neither notices what the other appends."""
        segments = [replace(segment) for segment in self.segments]
        return replace(self, segments=segments, shared=len(segments))

    @property
    def nbytes(self) -> int:
        """Bytes this state holds on its own, without what it shares with its origin."""
        tails = sum(tail.nbytes for tail in self.tails or ())
        return tails + sum(segment.nbytes for segment in self.segments[self.shared :])


@dataclass
class _Job:
    """One request's share of a pass: the frames start..stop, at `offset` in the joined matrix.

    hides: added to the scores among the job's own frames, [frames, frames], when they span several chunks.
    """

    state: FlowState
    start: int
    stop: int
    offset: int
    hides: Tensor | None

    @property
    def frames(self) -> int:
        return self.stop - self.start


class IncrementalFlow:
    """Runs a CausalFlow chunk by chunk with a fixed number of Euler steps.

    Holds nothing of any request. A state costs, for a second of audio (prompt included), `mel_rate * steps *
    depth * rows * 2 * heads * dim_head * bytes per value` bytes, where rows is 2 with guidance and 1 without;
    hearth's 10 steps, 8 layers, 4 x 64 channels in float32: 16.4 MB. See `bytes_per_frame`.
    """

    def __init__(self, flow: CausalFlow, steps: int | None = None, cfg_rate: float | None = None) -> None:
        config = flow.config
        self.flow = flow
        self.config = config
        self.steps = config.steps if steps is None else steps
        self.cfg_rate = config.cfg_rate if cfg_rate is None else cfg_rate
        self.rows = 2 if self.cfg_rate > 0 else 1
        self.dtype = flow.estimator.proj_out.weight.dtype
        self.device = flow.estimator.proj_out.weight.device
        with torch.inference_mode():
            self._prepare()

    def _prepare(self) -> None:
        """Compute what depends on the weights and the flow times only."""
        estimator = self.flow.estimator
        times, widths = euler_times(time_grid(self.steps))
        self._blocks = estimator.blocks
        self._widths: list[float] = widths.tolist()
        time = estimator.time_embed(times.to(self.device))
        # For each step and layer: shift, 1 + scale and gate of the attention, then of the feed-forward.
        self._modulation: list[list[tuple[Tensor, ...]]] = [[] for _ in range(self.steps)]
        for block in estimator.blocks:
            shift, scale, gate, ff_shift, ff_scale, ff_gate = (part[:, 0] for part in block.attn_norm(time))
            parts = (shift, 1 + scale, gate, ff_shift, 1 + ff_scale, ff_gate)
            for step in range(self.steps):
                self._modulation[step].append(tuple(part[step].contiguous() for part in parts))
        scale, shift = (part[:, 0] for part in estimator.norm_out(time))
        self._final = [(shift[step].contiguous(), (1 + scale[step]).contiguous()) for step in range(self.steps)]
        self._qkv = []
        for block in estimator.blocks:
            linears = (block.attn.to_q, block.attn.to_k, block.attn.to_v)
            weight = torch.cat([linear.weight for linear in linears])
            bias = torch.cat([linear.bias for linear in linears])
            # The softmax's 1 / sqrt(dim_head) goes into the query.
            inner = linears[0].weight.shape[0]
            scale_query = self.config.dit.dim_head**-0.5
            weight[:inner] *= scale_query
            bias[:inner] *= scale_query
            self._qkv.append((weight, bias))
        n_mels = self.config.n_mels
        weight = estimator.input_embed.proj.weight
        self._in_noisy, self._in_cond, self._in_mu, self._in_speaker = (
            weight[:, i * n_mels : (i + 1) * n_mels].contiguous() for i in range(4)
        )

    @property
    def bytes_per_frame(self) -> int:
        """What one mel frame adds to a state."""
        dit = self.config.dit
        values = self.steps * dit.depth * self.rows * 2 * dit.heads * dit.dim_head
        return values * self.dtype.itemsize

    @torch.inference_mode()
    def start(self, prompt_tokens: Tensor, prompt_mel: Tensor, embedding: Tensor) -> FlowState:
        """A request's state after its prompt, whose whole chunks are computed at once.

        prompt_tokens [P]; prompt_mel [n_mels, P * token_mel_ratio], natural log; embedding [speaker_dim]. No
        prompt is P = 0. Keep the state of a voice and give each request a `fork()` of it.
        """
        config = self.config
        count, frames = prompt_tokens.numel(), prompt_mel.shape[1]
        if frames != count * config.token_mel_ratio:
            raise ValueError(
                f"a prompt of {count} tokens has {count * config.token_mel_ratio} mel frames, not {frames}"
            )
        tail = torch.zeros(
            self.steps,
            self.rows,
            config.dit.dim,
            config.dit.conv_pos_kernel - 1,
            dtype=self.dtype,
            device=self.device,
        )
        state = FlowState(
            tokens=prompt_tokens.to(self.device, torch.long),
            first_token=0,
            frames=0,
            prompt=self.flow.normalise(prompt_mel.to(self.device, torch.float32)),
            speaker=self.flow.speaker(embedding.to(self.device)[None])[0],
            tails=(tail, tail),
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
                state.finished, state.segments, state.shared, state.tails = True, [], 0, None
        return mels

    def _advance(self, states: Sequence[FlowState], final: Sequence[bool]) -> list[Tensor]:
        """Compute all that can be computed, in passes of at most PASS_CHUNKS chunks a request."""
        config = self.config
        mels: list[list[Tensor]] = [[] for _ in states]
        while True:
            jobs: list[_Job] = []
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

    def _job(self, state: FlowState, stop: int, offset: int) -> _Job:
        """Plan the frames up to `stop`, with room for their keys and values."""
        frames = stop - state.frames
        chunk = self.config.chunk_frames
        own = state.segments[state.shared :]
        if not own or own[-1].capacity - own[-1].length < frames:
            # A prompt's segments are filled to the brim, since its forks go on in segments of their own.
            in_prompt = state.frames < state.prompt.shape[1]
            room = 0 if in_prompt else chunk * min(LAST_SEGMENT, FIRST_SEGMENT << len(own))
            state.segments.append(self._segment(max(frames, room)))
        hides = None
        if frames > chunk:
            visible = chunk_mask(state.frames, stop, chunk, self.device)[:, state.frames :]
            hides = torch.zeros(visible.shape, device=self.device).masked_fill_(~visible, float("-inf"))
        return _Job(state, state.frames, stop, offset, hides)

    def _segment(self, capacity: int) -> Segment:
        """Room for keys and values of `capacity` frames."""
        dit = self.config.dit
        shape = (self.steps * dit.depth, self.rows, dit.heads, capacity, dit.dim_head)
        keys, values = (torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        return Segment(keys.unbind(), values.unbind(), 0, keys.nbytes + values.nbytes)

    def _solve(self, jobs: Sequence[_Job]) -> Tensor:
        """Euler steps for the jobs' frames: normalised mel [n_mels, all frames]; the states are advanced."""
        estimator = self.flow.estimator
        noise = [start_noise(self.config, job.start, job.stop) for job in jobs]
        x = torch.cat(noise, dim=1).T.to(self.device).contiguous()
        base = self._conditions(jobs)
        frames = torch.cat([torch.arange(job.start, job.stop, device=self.device) for job in jobs])
        angles = frames[:, None].float() * estimator.rotary_embed.inv_freq.float()
        rotation = torch.polar(torch.ones_like(angles), angles)[None, :, None]
        tails = [tuple(torch.empty_like(tail) for tail in job.state.tails or ()) for job in jobs]
        for step, width in enumerate(self._widths):
            hidden = base + F.linear(x.to(self.dtype), self._in_noisy)
            residual = (hidden + self._positions(hidden, jobs, step, tails)).float()
            for layer in range(self.config.dit.depth):
                residual = self._block(residual, jobs, step, layer, rotation)
            shift, scale = self._final[step]
            out = F.layer_norm(residual, residual.shape[-1:], scale, shift, NORM_EPS)
            velocity = estimator.proj_out(out.to(self.dtype)).float()
            if self.rows == 2:
                guided = torch.lerp(velocity[1], velocity[0], 1 + self.cfg_rate)
            else:
                guided = velocity[0]
            x = x.add(guided, alpha=width)
        for job, (first, second) in zip(jobs, tails, strict=True):
            self._commit(job, (first, second))
        return x.T

    def _conditions(self, jobs: Sequence[_Job]) -> Tensor:
        """The part of the input projection that no Euler step changes: [rows, frames, dim]."""
        estimator = self.flow.estimator
        bias = estimator.input_embed.proj.bias
        parts = []
        for job in jobs:
            state = job.state
            mu = self._mu(job)
            given = F.linear(mu, self._in_mu, bias) + F.linear(state.speaker, self._in_speaker)
            prompt = state.prompt[:, job.start : job.stop].T.to(self.dtype)
            given[: len(prompt)] += F.linear(prompt, self._in_cond)
            parts.append(given)
        conditional = torch.cat(parts)[None]
        if self.rows == 1:
            return conditional
        return torch.cat([conditional, bias.expand_as(conditional)])

    def _mu(self, job: _Job) -> Tensor:
        """Token features of the job's frames: [frames, n_mels]."""
        ratio, ahead = self.config.token_mel_ratio, self.config.pre_lookahead_len
        start, stop = job.start // ratio, job.stop // ratio
        before = min(LOOKAHEAD_HISTORY, start)
        first = job.state.first_token
        embedded = self.flow.embed(job.state.tokens[start - before - first : stop + ahead - first])
        # Past the end of speech the layer sees zeros.
        missing = stop + ahead - (start - before) - len(embedded)
        embedded = F.pad(embedded, (0, 0, 0, missing))
        features = self.flow.pre_lookahead_layer.piece(embedded[None], before, stop - start)
        return self.flow.upsample(features)[0].T

    def _positions(
        self, hidden: Tensor, jobs: Sequence[_Job], step: int, tails: Sequence[tuple[Tensor, ...]]
    ) -> Tensor:
        """The position convolutions over [rows, frames, dim]; writes the new tails of this step."""
        embed = self.flow.estimator.input_embed.conv_pos_embed
        out = hidden.transpose(1, 2)
        for index, conv in enumerate((embed.conv1, embed.conv2)):
            # One convolution over all jobs, each one's past before its frames; borders are cut out.
            pieces: list[Tensor] = []
            for job, new in zip(jobs, tails, strict=True):
                old = (job.state.tails or ())[index][step]
                joined = torch.cat([old, out[:, :, job.offset : job.offset + job.frames]], dim=2)
                new[index][step] = joined[:, :, joined.shape[2] - old.shape[2] :]
                pieces.append(joined)
            past = embed.kernel - 1
            mixed = conv(torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0])
            if len(pieces) > 1:
                wanted = [mixed[:, :, job.offset + i * past :][:, :, : job.frames] for i, job in enumerate(jobs)]
                mixed = torch.cat(wanted, dim=2)
            out = mixed
        return out.transpose(1, 2)

    def _block(self, residual: Tensor, jobs: Sequence[_Job], step: int, layer: int, rotation: Tensor) -> Tensor:
        """DiTBlock.forward over [rows, frames, dim], with the past taken from the states."""
        dit = self.config.dit
        block = self._blocks[layer]
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self._modulation[step][layer]
        normed = F.layer_norm(residual, (dit.dim,), scale, shift, NORM_EPS).to(self.dtype)
        qkv = F.linear(normed, *self._qkv[layer]).unflatten(-1, (3, dit.heads, dit.dim_head))
        first_head = qkv[:, :, :2, 0]
        pairs = torch.view_as_complex(first_head.float().unflatten(-1, (-1, 2)))
        first_head.copy_(torch.view_as_real(pairs * rotation).flatten(-2))
        split = qkv.permute(2, 0, 3, 1, 4)  # [3, rows, heads, frames, dim_head]
        index = step * dit.depth + layer
        mixed = [self._attend(split[:, :, :, job.offset : job.offset + job.frames], job, index) for job in jobs]
        joined = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)
        residual = torch.addcmul(residual, gate, block.attn.to_out[0](joined))
        normed = F.layer_norm(residual, (dit.dim,), ff_scale, ff_shift, NORM_EPS).to(self.dtype)
        return torch.addcmul(residual, ff_gate, block.ff(normed))

    def _attend(self, split: Tensor, job: _Job, index: int) -> Tensor:
        """Attention of one job's frames over its whole past: [rows, frames, heads * dim_head].

        split: query (already scaled), key and value [3, rows, heads, frames, dim_head]. Keys and values are
        written behind the job's earlier ones; the past lies in several segments, whose scores share one
        softmax.
        """
        query, key, value = split
        rows, heads, frames, _ = query.shape
        query = query.reshape(rows * heads, frames, -1)
        segments = job.state.segments
        current = segments[-1]
        filled = current.length + frames
        current.keys[index][:, :, current.length : filled] = key
        current.values[index][:, :, current.length : filled] = value
        lengths = [segment.length for segment in segments[:-1]] + [filled]
        keys = [
            segment.keys[index][:, :, :length].flatten(0, 1) for segment, length in zip(segments, lengths, strict=True)
        ]
        scores = [query @ part.mT for part in keys]
        if job.hides is not None:
            scores[-1][:, :, current.length :] += job.hides
        weights = (torch.cat(scores, dim=-1) if len(scores) > 1 else scores[0]).softmax(dim=-1)
        mixed: Tensor | None = None
        at = 0
        for segment, length in zip(segments, lengths, strict=True):
            values = segment.values[index][:, :, :length].flatten(0, 1)
            share = weights[:, :, at : at + length]
            mixed = share @ values if mixed is None else mixed.baddbmm_(share, values)
            at += length
        assert mixed is not None
        return mixed.view(rows, heads, frames, -1).transpose(1, 2).flatten(2)

    def _commit(self, job: _Job, tails: tuple[Tensor, Tensor]) -> None:
        """Make a computed pass part of the request's past, and forget tokens that nothing needs."""
        state = job.state
        state.frames = job.stop
        state.tails = tails
        state.segments[-1].length += job.frames
        keep = max(0, job.stop // self.config.token_mel_ratio - LOOKAHEAD_HISTORY)
        state.tokens = state.tokens[keep - state.first_token :]
        state.first_token = keep
