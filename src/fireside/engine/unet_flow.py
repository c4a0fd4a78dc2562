"""The flow of CosyVoice 2 in pieces: an encoder and a causal U-Net that keep their past. See engine/chunkwise.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fireside.engine.chunkwise import Around, ChunkwiseFlow, Job
from fireside.engine.products import join
from fireside.models.causal import CausalConv1d
from fireside.models.config import UpsamplingFlowConfig
from fireside.models.linear import linear
from fireside.models.unet import Attention, FrameConv, TransformerBlock
from fireside.models.unet_flow import UpsamplingFlow


class IncrementalUNetFlow(ChunkwiseFlow[UpsamplingFlow, Tensor]):
    """Runs an UpsamplingFlow chunk by chunk."""

    config: UpsamplingFlowConfig

    def __init__(
        self,
        flow: UpsamplingFlow,
        steps: int | None = None,
        cfg_rate: float | None = None,
        storage: torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        unet = flow.config.unet
        layers = [module for module in flow.estimator.modules() if isinstance(module, Attention)]
        super().__init__(
            flow,
            flow.config,
            steps,
            cfg_rate,
            layers=len(layers),
            heads=unet.heads,
            dim_head=unet.dim_head,
            dtype=layers[0].to_q.weight.dtype,
            storage=storage,
            convolutions={
                module: module.left for module in flow.estimator.modules() if isinstance(module, CausalConv1d)
            },
            compile=compile,
        )
        # Of every layer its number, and the weights of queries, keys and values in one: one product instead of three.
        self.attention = {
            layer: (index, join([part.weight for part in layer.inputs])) for index, layer in enumerate(layers)
        }
        self.feed = torch.compile(TransformerBlock.feed) if compile else TransformerBlock.feed
        with torch.inference_mode():
            shifts = flow.estimator.shifts(self._times)
        # What the flow time adds in every residual block, step by step.
        self._shifts = [[shift[step, None] for shift in shifts] for step in range(self.steps)]

    def _conditions(self, jobs: Sequence[Job]) -> Tensor:
        """What the U-Net sees: [rows, frames, 4 * n_mels], the noisy mel's channels still to be filled."""
        n_mels = self.config.n_mels
        frames = sum(job.frames for job in jobs)
        given = torch.zeros(self.rows, frames, 4 * n_mels, device=self.device)
        _, mu, speaker, cond = given[0].split(n_mels, dim=-1)
        for job in jobs:
            mu[job.place] = self._mu(job)
            speaker[job.place] = job.state.speaker
            prompt = job.state.prompt[:, job.start : job.stop].T
            cond[job.offset : job.offset + len(prompt)] = prompt
        return given

    def _mu(self, job: Job) -> Tensor:
        """Token features of the job's frames: [frames, n_mels]."""
        embedded, before = self._window(job)
        tokens = job.frames // self.config.token_mel_ratio
        features, job.encoded = self.flow.encoder.piece(embedded, before, tokens, job.state.encoded)
        return self.flow.encoder_proj(features)[0].float()

    def _velocity(self, x: Tensor, given: Tensor, around: Around, step: int) -> Tensor:
        """See ChunkwiseFlow."""
        given[:, :, : self.config.n_mels] = x
        return self.flow.estimator.run(given, self._shifts[step], [_Surroundings(self, around, step)])


class _Surroundings:
    """What the U-Net's layers see at an Euler step: the pasts that are around the frames."""

    def __init__(self, flow: IncrementalUNetFlow, around: Around, step: int) -> None:
        self.flow, self.around, self.step = flow, around, step

    def hide(self, x: Tensor) -> Tensor:
        """Nothing is padded."""
        return x

    def convolve(self, conv: FrameConv, x: Tensor) -> Tensor:
        """See Surroundings."""
        assert isinstance(conv, nn.Conv1d)
        return self.around.convolve(conv, x, self.step).float()

    def attend(self, layer: Attention, x: Tensor) -> Tensor:
        """See Surroundings."""
        index, weight = self.flow.attention[layer]
        joined = linear(x, weight).unflatten(-1, (3, layer.heads, -1))
        query, key, value = joined.permute(2, 0, 3, 1, 4)  # [rows, heads, frames, dim_head] each
        return self.around.attend(query, key, value, self.step * self.flow.layers + index)

    def feed(self, block: TransformerBlock, x: Tensor) -> Tensor:
        """See Surroundings."""
        return self.flow.feed(block, x)
