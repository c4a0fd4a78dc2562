"""The flow of CosyVoice 3 and of hearth in pieces: a DiT that keeps its past. See engine/chunkwise.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.engine.adaptation import rows_of
from fireside.engine.chunkwise import Around, ChunkwiseFlow, Job
from fireside.engine.products import join
from fireside.models.config import FlowConfig
from fireside.models.dit import NORM_EPS, DiTBlock
from fireside.models.flow import CausalFlow
from fireside.models.linear import Linear, laid_out, linear

_PARTS = 6  # of a block's modulation


class IncrementalFlow(ChunkwiseFlow[CausalFlow, tuple[Tensor, ...]]):
    """Runs a CausalFlow chunk by chunk."""

    config: FlowConfig

    def __init__(
        self,
        flow: CausalFlow,
        steps: int | None = None,
        cfg_rate: float | None = None,
        storage: torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        dit, estimator = flow.config.dit, flow.estimator
        positions = estimator.input_embed.conv_pos_embed
        super().__init__(
            flow,
            flow.config,
            steps,
            cfg_rate,
            layers=dit.depth,
            heads=dit.heads,
            dim_head=dit.dim_head,
            dtype=estimator.proj_out.weight.dtype,
            storage=storage,
            convolutions={
                conv: positions.kernel - 1
                for conv in (positions.conv1[0], positions.conv2[0])
                if isinstance(conv, nn.Conv1d)
            },
            compile=compile,
        )
        # The weights and biases of queries, keys and values in one: one product instead of three.
        self._qkv = []
        for block in estimator.blocks:
            parts = (block.attn.to_q, block.attn.to_k, block.attn.to_v)
            weight = join([part.weight for part in parts])
            self._qkv.append((weight, join([part.bias for part in parts]), laid_out(weight)))
            for layer in (*block.attn.to_out, *block.ff.modules()):
                if isinstance(layer, Linear):
                    layer.lay_out()
        self._leaving = torch.compile(self._leave) if compile else self._leave
        with torch.inference_mode():
            self._prepare()

    def _prepare(self) -> None:
        """Compute what depends on the weights and the flow times only."""
        estimator = self.flow.estimator
        self._blocks = estimator.blocks
        time = estimator.time_embed(self._times)
        # For each step and layer: shift, 1 + scale and gate of the attention, then of the feed-forward.
        self._modulation: list[list[tuple[Tensor, ...]]] = [[] for _ in range(self.steps)]
        for block in estimator.blocks:
            shift, scale, gate, ff_shift, ff_scale, ff_gate = (part[:, 0] for part in block.attn_norm(time))
            parts = (shift, 1 + scale, gate, ff_shift, 1 + ff_scale, ff_gate)
            for step in range(self.steps):
                self._modulation[step].append(tuple(part[step].contiguous() for part in parts))
        scale, shift = (part[:, 0] for part in estimator.norm_out(time))
        self._final = [((1 + scale[step]).contiguous(), shift[step].contiguous()) for step in range(self.steps)]
        n_mels = self.config.n_mels
        weight = estimator.input_embed.proj.weight
        self._in_noisy, self._in_cond, self._in_mu, self._in_speaker = (
            weight[:, i * n_mels : (i + 1) * n_mels].contiguous() for i in range(4)
        )

    def _conditions(self, jobs: Sequence[Job]) -> tuple[Tensor, ...]:
        """The part of the input projection that no Euler step changes, [rows, frames, dim]; the rotation of the first
        head by frame index; and where a voice has an adaptation, what is added to every frame's modulation, [1, frames,
        parts, dim]."""
        estimator = self.flow.estimator
        bias = estimator.input_embed.proj.bias
        parts = []
        for job in jobs:
            state = job.state
            mu = self._mu(job)
            given = linear(mu, self._in_mu, bias) + linear(state.speaker, self._in_speaker)
            prompt = state.prompt[:, job.start : job.stop].T.to(self.dtype)
            given[: len(prompt)] += linear(prompt, self._in_cond)
            parts.append(given)
        conditional = torch.cat(parts)[None]
        base = conditional if self.rows == 1 else torch.cat([conditional, bias.expand_as(conditional)])
        frames = torch.cat([torch.arange(job.start, job.stop, device=self.device) for job in jobs])
        angles = frames[:, None].float() * estimator.rotary_embed.inv_freq.float()
        rotation = torch.polar(torch.ones_like(angles), angles)[None, :, None]
        added = rows_of([job.state.adaptation for job in jobs], [job.frames for job in jobs])
        return (base, rotation) if added is None else (base, rotation, added)

    def _mu(self, job: Job) -> Tensor:
        """Token features of the job's frames: [frames, n_mels]."""
        tokens = job.frames // self.config.token_mel_ratio
        embedded, before = self._window(job)
        # Past the end of speech the layer sees zeros.
        missing = before + tokens + self.config.pre_lookahead_len - embedded.shape[1]
        features = self.flow.pre_lookahead_layer.piece(F.pad(embedded, (0, 0, 0, missing)), before, tokens)
        return self.flow.upsample(features)[0].T

    def _velocity(self, x: Tensor, given: tuple[Tensor, ...], around: Around, step: int) -> Tensor:
        """DiT.forward over [frames, n_mels], with the past taken from the states."""
        base, rotation, *added = given
        hidden = base + linear(x.to(self.dtype), self._in_noisy)
        positions = hidden
        for conv in self.convolutions:
            positions = F.mish(around.convolve(conv, positions, step))
        residual = (hidden + positions).float()
        for layer in range(self.layers):
            modulation = _adapted(self._modulation[step][layer], added, _PARTS * layer)
            residual = self._block(residual, around, step * self.layers + layer, modulation, rotation)
        scale, shift = _adapted(self._final[step], added, _PARTS * self.layers)
        out = _normed(residual, scale, shift)
        return self.flow.estimator.proj_out(out.to(self.dtype)).float()

    def _block(
        self, residual: Tensor, around: Around, index: int, modulation: Sequence[Tensor], rotation: Tensor
    ) -> Tensor:
        """DiTBlock.forward over [rows, frames, dim], the past taken from the states; index: step * layers + layer."""
        dit = self.config.dit
        layer = index % dit.depth
        block = self._blocks[layer]
        shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation
        normed = _normed(residual, scale, shift).to(self.dtype)
        qkv = linear(normed, *self._qkv[layer]).unflatten(-1, (3, dit.heads, dit.dim_head))
        first_head = qkv[:, :, :2, 0]
        pairs = torch.view_as_complex(first_head.float().unflatten(-1, (-1, 2)))
        first_head.copy_(torch.view_as_real(pairs * rotation).flatten(-2))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [rows, heads, frames, dim_head] each
        mixed = around.attend(query, key, value, index)
        return self._leaving(block, residual, mixed, gate, ff_shift, ff_scale, ff_gate)

    def _leave(
        self,
        block: DiTBlock,
        residual: Tensor,
        mixed: Tensor,
        gate: Tensor,
        ff_shift: Tensor,
        ff_scale: Tensor,
        ff_gate: Tensor,
    ) -> Tensor:
        """What follows attention in `_block`, frame by frame: residual and mixed [rows, frames, dim] to the same."""
        residual = torch.addcmul(residual, gate, block.attn.to_out[0](mixed))
        normed = _normed(residual, ff_scale, ff_shift).to(self.dtype)
        return torch.addcmul(residual, ff_gate, block.ff(normed))


def _adapted(modulation: Sequence[Tensor], added: Sequence[Tensor], first: int) -> Sequence[Tensor]:
    """Scales, shifts and gates [dim] with those parts, from `first` on, of what voices add to them: [1, frames, dim];
    as they are where no voice does."""
    if not added:
        return modulation
    return [part + added[0][:, :, first + place] for place, part in enumerate(modulation)]


def _normed(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm of x [rows, frames, dim], scaled and shifted alike in all frames [dim] or in each [1, frames, dim]."""
    if scale.ndim == 1:
        return F.layer_norm(x, x.shape[-1:], scale, shift, NORM_EPS)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), scale)
